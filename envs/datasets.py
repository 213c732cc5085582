"""The one door to data: a name, a Minari id, a file or a folder becomes Episodes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from minari import MinariDataset

from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.data.info import DatasetInfo
from diffplan.envs import formats
from diffplan.envs.formats.arrays import IN_MEMORY, load_arrays
from diffplan.envs.formats.d4rl import load_d4rl
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE, canonical_name, d4rl_folder
from diffplan.envs.formats.d4rl_hdf5 import D4RL_SUFFIXES, fetch_d4rl
from diffplan.envs.formats.minari import (
    is_local,
    load_minari,
    load_minari_dataset,
    local_datasets,
)
from diffplan.envs.formats.minari_remote import fetch_minari, is_minari_id
from diffplan.envs.formats.ogbench import (
    fetch_ogbench,
    load_ogbench,
    ogbench_file,
)
from diffplan.envs.formats.other_kinds import refuse_other_kind
from diffplan.envs.makers.catalogue import (
    FETCH,
    LOCOMOTION,
    MAKEABLE,
    MAZE2D,
    METAWORLD,
    OGBENCH,
    POINTMAZES,
)
from diffplan.envs.makers.fetch_data import fetch_id
from diffplan.envs.makers.metaworld_data import metaworld_id
from diffplan.envs.makers.pointmaze_data import pointmaze_id
from diffplan.envs.simulators.environments import check_env_id
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class DatasetEntry:
    """One line of the list of datasets.

    name: what to give to --dataset. domain: the heading it stands under. where: "local", "remote"
    or "can be made". note: size, and how to get it.
    """

    name: str
    domain: str
    where: str
    note: str


def load_dataset(
    name_or_path: str,
    env: str | None = None,
    *,
    layout: str | None = None,
    validate: bool = True,
    progress: bool = True,
) -> Episodes:
    """Load a dataset by whatever it is called.

    name_or_path: a D4RL name (hopper-medium-v2), OGBench's (antmaze-medium-stitch-v0), a NAME that
        `diffplan datasets make` made (pointmaze-medium), a Minari id, a D4RL-layout .hdf5 or .h5
        file, a .npz file, or a folder written by `Episodes.save`. What has a name and is not on
        this machine is downloaded: D4RL's to `D4RL_DATASET_DIR` (from `DIFFPLAN_D4RL_URL`, a
        mirror, if set), OGBench's and Minari's to their own folders.
    env: Gymnasium id of the evaluation environment; replaces what the dataset says.
    layout: of the arrays of a .npz file, see `load_npz`.
    validate: refuse data with NaN, empty episodes or actions out of bounds.
    progress: bars on stderr for what takes longer than a moment.
    Raises DiffplanError with the nearest known names for anything else.
    """
    if env is not None:
        check_env_id(env, named=True)
    episodes = _load(name_or_path, env, layout, progress)
    episodes = _evaluated_in(episodes, env)
    if not validate:
        return episodes
    # what was dropped of the environment would be missed only after training
    if env is None and (refused := episodes.info.details.get("environment_refused")):
        raise DiffplanError(f"dataset {episodes.info.id}: {refused}")
    return episodes.validate()


def _evaluated_in(episodes: Episodes, env: str | None) -> Episodes:
    if env is None or episodes.info.env_id == env:
        return episodes
    info = dataclasses.replace(episodes.info, env_id=env, env_kwargs={})
    return dataclasses.replace(episodes, info=info)


def as_episodes(data: Any, env: str | None = None, *, progress: bool = True) -> Episodes:
    """Data in memory as `Episodes`, validated.

    data: `Episodes`, a Minari dataset object, or a dict of arrays, see `load_arrays`. env: the
    evaluation environment; replaces what the data say. Raises DiffplanError for anything else, and
    for what `Episodes.validate` refuses.
    """
    if env is not None:
        check_env_id(env, named=True)
    if isinstance(data, Episodes):
        episodes = data
    elif isinstance(data, Mapping):
        episodes = load_arrays(data, env=env)
    elif isinstance(data, MinariDataset):
        episodes = load_minari_dataset(data, progress)
    else:
        raise DiffplanError(
            f"dataset is a {type(data).__name__}, expected a name, a path, Episodes, a Minari "
            "dataset or a dict of arrays (diffplan.load_arrays)"
        )
    return _evaluated_in(episodes, env).validate()


def load_datasets(
    names: Sequence[str],
    env: str | None = None,
    *,
    layout: str | None = None,
    progress: bool = True,
) -> Episodes:
    """One dataset by `load_dataset`; several, combined in memory, are the tasks of one.

    Raises DiffplanError also for an `env` with several, and for what `combine` refuses.
    """
    if not names:
        raise DiffplanError("no dataset named; see: diffplan datasets list")
    if len(names) == 1:
        return load_dataset(names[0], env, layout=layout, progress=progress)
    if env is not None or layout is not None:
        option = f"--env {env}" if env is not None else f"--layout {layout}"
        raise DiffplanError(
            f"{option} goes with one dataset, got {len(names)}: each is evaluated in its own "
            "environment"
        )
    # validated together, once
    parts = [load_dataset(name, validate=False, progress=progress) for name in names]
    return combine(parts, " + ".join(names))


def fetch_dataset(name: str, progress: bool = True) -> str:
    """Download a dataset of D4RL, OGBench or Minari by its name, and say where it is.

    What is there already is not fetched again. Raises DiffplanError for any other name, and for
    what `load_dataset` raises it when a download fails.
    """
    if name in CATALOGUE:
        return str(fetch_d4rl(CATALOGUE[name], progress))
    if name in OGBENCH:
        return str(fetch_ogbench(name))
    _fetch_minari(name)
    return f"the Minari dataset {name}"


def made_d4rl(name: str) -> Path | None:
    """The file that `diffplan datasets make` writes for maze2d-umaze, hopper-medium etc.

    None for any other name. Apart from D4RL's own files, so that neither passes for the other.
    """
    if name not in (*MAZE2D, *LOCOMOTION):
        return None
    return d4rl_folder() / "made" / f"{name}.hdf5"


@functools.cache
def file_loaders() -> dict[str, Callable[..., Episodes]]:
    """Suffix of a file -> how it is loaded: (path, env, *, progress) to `Episodes`.

    Formats of files are the modules of `formats/` that have SUFFIXES; x.py loads by load_x.
    """
    names = [module.name for module in pkgutil.iter_modules(formats.__path__)]
    modules = {name: import_module(f"{formats.__name__}.{name}") for name in names}
    return {
        suffix: getattr(module, f"load_{name}")
        for name, module in modules.items()
        for suffix in getattr(module, "SUFFIXES", ())
    }


def _load(name: str, env: str | None, layout: str | None, progress: bool) -> Episodes:
    # in the order of how sure a name is: files, D4RL's names, made here, Minari's, folders
    path = Path(name).expanduser()
    try:
        path.exists()
    except (OSError, ValueError):  # no name that a file could have
        raise _unknown(name[:80]) from None
    loaders = file_loaders()
    suffix = path.suffix.lower()
    if layout is not None and suffix != ".npz":
        raise DiffplanError(f"--layout {layout} goes with the arrays of a .npz file, got {name}")
    if suffix in loaders:
        # a bare file name may mean one in D4RL's folder
        in_d4rl_folder = d4rl_folder() / path.name
        if not path.exists() and in_d4rl_folder.exists():
            path = in_d4rl_folder
        if not path.is_file():
            raise DiffplanError(f"no file {path}; give a path from {Path.cwd()} or an absolute one")
        options = {} if layout is None else {"layout": layout}
        return loaders[suffix](path, env, progress=progress, **options)
    if name in CATALOGUE:
        path = fetch_d4rl(CATALOGUE[name], progress)
        return _called(name, load_d4rl(path, env, progress=progress))
    if name in OGBENCH:
        # one remade here before the official one is asked for over the network
        return load_ogbench(name, ogbench_file(name) or fetch_ogbench(name))
    # the file, not its folder, makes it ours: D4RL's own have a version in the name
    made = made_d4rl(name)
    if made is not None and made.is_file():
        return _called(name, load_d4rl(made, env, progress=progress))
    if is_local(_made_id(name)) and "/" not in name:
        return load_minari(_made_id(name), progress)
    if is_local(name):
        return load_minari(name, progress)
    if name and (path / "episodes.json").exists():
        return _called(str(path), Episodes.load(path))
    if name:
        refuse_other_kind(path, sorted(loaders))
    _fetch_minari(name)
    return load_minari(name, progress)


def _made_id(name: str) -> str:
    """The Minari id under which `diffplan datasets make` saves a NAME."""
    ids = {"metaworld": metaworld_id, "fetch": fetch_id}
    return ids.get(name.partition("-")[0], pointmaze_id)(name)


def _fetch_minari(name: str) -> None:
    """Have a Minari dataset on this machine, or say that the name is unknown."""
    # the remote is not asked for what it cannot have
    if name in MAKEABLE or not (is_local(name) or is_minari_id(name)):
        raise _unknown(name)
    try:
        fetch_minari(name)
    except DiffplanError as error:
        if "/" in name:
            raise
        # More likely a slip than a Minari id, so without the advice that follows the reason.
        raise _unknown(name, str(error).partition("; ")[0]) from None


def _called(name: str, episodes: Episodes) -> Episodes:
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=name))


def _unknown(name: str, as_minari: str = "") -> DiffplanError:
    """as_minari: what came of asking Minari for it, "" if it was not asked."""
    if name in MAKEABLE:
        steps = "" if name in (*METAWORLD, *FETCH) else " --env-steps 200000"
        official = canonical_name(name)
        beside = f"; D4RL's own is {official}" if official else ""
        return DiffplanError(
            f"{name} is not made yet; make it with: diffplan datasets make {name}{steps}{beside}"
        )
    # without the remote's: a typing error should not wait for a network
    known = [entry.name for entry in list_datasets()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    asked = f" ({as_minari})" if as_minari else ""
    return DiffplanError(f"unknown dataset '{name}'. {hint}See: diffplan datasets list{asked}")


def list_datasets(
    pattern: str = "", remote: Mapping[str, Mapping[str, Any]] | None = None
) -> list[DatasetEntry]:
    """Every dataset that has a name here, in the order of their domains.

    D4RL's, those that can be made, Minari's, and other files in the D4RL folder.
    pattern: only those with this text in their name or domain, whatever the case.
    remote: what Minari's remote has, from `remote_datasets`; without it only local ones are known.
    """
    entries = [*_d4rl(), *_makeable(), *_minari(remote or {}), *_other_files()]
    text = pattern.lower()
    return [e for e in entries if text in e.name.lower() or text in e.domain.lower()]


def _d4rl() -> list[DatasetEntry]:
    entries = []
    for name, dataset in CATALOGUE.items():
        where = "local" if dataset.path.is_file() else "remote"
        note = dataset.size
        if where == "local":
            note += f", {dataset.path.stat().st_size / 1e6:.1f} MB"
        entries.append(DatasetEntry(name, dataset.domain, where, note))
    return entries


def _makeable() -> list[DatasetEntry]:
    entries = []
    for name in (*MAZE2D, *LOCOMOTION):
        path = made_d4rl(name)
        made = path is not None and path.is_file()
        note = f"made: {path}" if made else f"diffplan datasets make {name}"
        domain = f"{name.partition('-')[0]}, made here"
        entries.append(DatasetEntry(name, domain, "local" if made else "can be made", note))
    for name in OGBENCH:
        file = ogbench_file(name)
        note = f"{file}" if file else f"download it, or: diffplan datasets make {name}"
        entries.append(DatasetEntry(name, "OGBench", "local" if file else "remote", note))
    for name in (*sorted(POINTMAZES), *METAWORLD, *FETCH):
        made = is_local(_made_id(name))
        note = f"made: {_made_id(name)}" if made else f"diffplan datasets make {name}"
        domain = name.partition("-")[0]
        entries.append(DatasetEntry(name, domain, "local" if made else "can be made", note))
    return entries


def _minari(remote: Mapping[str, Mapping[str, Any]]) -> list[DatasetEntry]:
    local = local_datasets()
    return [
        DatasetEntry(
            dataset_id,
            "Minari",
            "local" if dataset_id in local else "remote",
            _minari_note(local.get(dataset_id) or remote[dataset_id]),
        )
        for dataset_id in sorted({*local, *remote})
    ]


def _minari_note(metadata: Mapping[str, Any]) -> str:
    """Size as far as it is known."""
    steps, episodes, megabytes = (
        metadata.get(key) for key in ("total_steps", "total_episodes", "dataset_size")
    )
    parts = [
        "" if steps is None else f"{int(steps):,} steps",
        "" if episodes is None else f"{int(episodes):,} episodes",
        "" if not megabytes else f"{float(megabytes):.1f} MB",
    ]
    return ", ".join(filter(None, parts)) or "size not known"


def _other_files() -> list[DatasetEntry]:
    if not d4rl_folder().is_dir():
        return []
    official = {dataset.filename for dataset in CATALOGUE.values()}
    return [
        DatasetEntry(path.name, "other files", "local", f"{path.stat().st_size / 1e6:.1f} MB")
        for path in sorted(d4rl_folder().iterdir())
        if path.suffix in D4RL_SUFFIXES and path.name not in official
    ]


def training_data(info: DatasetInfo, trained_on: str) -> Episodes | str:
    """The episodes that a run was trained on, or why they are not at hand.

    info: what the dataset says about itself. trained_on: `fingerprint` of what the run was
    trained on; data of the same name that have changed since do not count. Nothing is downloaded.
    """
    if info.source == "combined":
        return _combined_data(info, trained_on)
    if info.details.get("data_source") == IN_MEMORY:
        return "they were given from Python"
    known = CATALOGUE.get(info.id)
    here = _is_here(info.id)
    reason = ""
    # A file without timeouts is cut by the environment, which may have been given in training.
    environments = dict.fromkeys((None, info.env_id if info.source == "d4rl" else None))
    if not here and (known or info.id in OGBENCH or is_minari_id(info.id)):
        reason, environments = f"{info.id} is not on this machine", {}
    for env in environments:
        try:
            episodes = load_dataset(info.id, env, layout=info.details.get("layout"))
        except DiffplanError as error:
            reason = reason or str(error)
            continue
        found = fingerprint(episodes)
        # the same name may hold other data by now
        if found == trained_on:
            return episodes
        reason = f"{info.id} now holds other data ({found}) than the run saw ({trained_on})"
    return reason


def _is_here(name: str) -> bool:
    """Whether a dataset can be loaded without a download."""
    if name in CATALOGUE:
        return CATALOGUE[name].path.is_file()
    if name in OGBENCH:
        return ogbench_file(name) is not None
    if (made := made_d4rl(name)) is not None:
        return made.is_file()
    return is_local(name) or Path(name).exists()


def _combined_data(info: DatasetInfo, trained_on: str) -> Episodes | str:
    """See `training_data`; the parts may be anywhere, but for what would have to be downloaded."""
    parts = info.details["parts"]
    for part in parts:
        if not _is_here(part):
            return f"{part} is not on this machine"
    try:
        episodes = load_datasets(parts)
    except DiffplanError as error:
        return str(error)
    found = fingerprint(episodes)
    if found != trained_on:
        return f"{info.id} now holds other data ({found}) than the run saw ({trained_on})"
    return episodes
