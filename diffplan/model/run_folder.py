"""What stands in a run's folder, read without PyTorch: its checkpoints and their config.json."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from diffplan.config.config import Config, config_from_dict, config_to_dict
from diffplan.config.decisions import Decision
from diffplan.data.header import read_json, typed
from diffplan.data.info import DatasetInfo, ObservationLayout, without_folders
from diffplan.errors import DiffplanError
from diffplan.model.spec import ModelSpec

FORMAT = 5
BEST = "best.json"
_SECTIONS: dict[str, type] = {"spec": ModelSpec, "layout": ObservationLayout, "info": DatasetInfo}
_TYPES: dict[str, Any] = {
    **_SECTIONS,
    "fingerprint": str,
    "step": Annotated[int, Field(ge=0, le=2**40)],
    "seed": int,
    "seconds": Annotated[float, Field(ge=0)],
    "version": str,
    "command": str | None,
    "decisions": tuple[Decision, ...],
}
_NAME = re.compile(r"checkpoint-(\d+)$")


def own_version() -> str:
    """Of diffplan."""
    try:
        return importlib.metadata.version("diffplan")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout that is not installed"


@dataclass(frozen=True)
class Header:
    """What config.json holds.

    fingerprint: identifies the dataset (see `data.episodes.fingerprint`). seconds: training time so
    far, without loading and compiling. version: of diffplan that wrote it. command: the command
    line that trained it, None where it was trained from Python. decisions: what of `config` the
    data decided.
    """

    config: Config
    spec: ModelSpec
    layout: ObservationLayout
    info: DatasetInfo
    fingerprint: str
    step: int
    seed: int
    seconds: float
    version: str = dataclasses.field(default_factory=own_version)
    command: str | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def public(self) -> Header:
        """The same without the names of folders on this machine."""
        words = None if self.command is None else map(without_folders, shlex.split(self.command))
        command = None if words is None else shlex.join(words)
        return dataclasses.replace(self, info=self.info.public, command=command)


def checkpoint_path(run: Path, step: int) -> Path:
    """RUN/checkpoint-00001000."""
    return run / f"checkpoint-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first."""
    if not run.is_dir():
        return []
    found = [p for p in run.iterdir() if p.is_dir() and _NAME.match(p.name)]
    return sorted(found, key=checkpoint_updates)


def checkpoint_updates(path: Path) -> int:
    """The number of updates in a checkpoint's name."""
    return int(path.name.rsplit("-", 1)[1])


def find_checkpoint(run: str | Path, checkpoint: str | int = "last") -> Path:
    """The checkpoint that is meant: of a run folder the last one, or that of a number of updates.

    "best" is the one that `diffplan evaluate --checkpoint best` chose. A checkpoint folder means
    itself. Raises DiffplanError where there is no such checkpoint.
    """
    path, last = Path(run), checkpoint == "last"
    if checkpoint == "best":
        checkpoint = _chosen(path)
    elif not last and not str(checkpoint).isdigit():
        raise DiffplanError(
            f"checkpoint is {checkpoint!r}, expected 'last', 'best' or a number of updates"
        )
    if last and (path / "config.json").is_file():
        return path
    if not path.is_dir():
        raise DiffplanError(f"no folder {path}; expected a run folder made by `diffplan train`")
    found = list_checkpoints(path)
    if not found:
        if (path / "diffplan_runtime.py").is_file():
            raise DiffplanError(f"{path} is an export; load it with diffplan.runtime.load")
        raise DiffplanError(
            f"{path} holds no checkpoint; expected a run folder made by `diffplan train` with "
            "checkpoint-* folders inside"
        )
    if last:
        return found[-1]
    wanted = checkpoint_path(path, int(checkpoint))
    if wanted not in found:
        kept = ", ".join(each.name for each in found)
        raise DiffplanError(f"{path} has no {wanted.name}; it has {kept}")
    return wanted


def _chosen(run: Path) -> int:
    """Updates of the checkpoint that was chosen as the best of those that the run holds."""
    choose = f"choose it by `diffplan evaluate {run} --checkpoint best`"
    try:
        found = read_json(run / BEST)
        chosen, among = int(found["chosen"]), {int(step) for step in found["scores"]}
    except FileNotFoundError:
        raise DiffplanError(
            f"{run} has no {BEST}, which says its best checkpoint; {choose}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DiffplanError(f"{run / BEST} is damaged; {choose}") from None
    if others := {checkpoint_updates(path) for path in list_checkpoints(run)} ^ among:
        raise DiffplanError(
            f"{run / BEST} was written when the run held other checkpoints (of {min(others)} "
            f"updates); {choose} again"
        )
    return chosen


def chosen_by(checkpoint: Path) -> tuple[int, int] | None:
    """First and last episode seed by which this checkpoint was chosen as its run's best, if so."""
    try:
        found = read_json(checkpoint.parent / BEST)
        first, last = found["seeds"]
        mine = checkpoint_path(checkpoint.parent, int(found["chosen"])) == checkpoint
        return (int(first), int(last)) if mine else None
    except (OSError, DiffplanError, ValueError, KeyError, TypeError):
        return None  # what is damaged chooses nothing


def read_header(path: Path) -> Header:
    """Read config.json strictly. DiffplanError for a foreign, older or damaged folder."""
    file = path / "config.json"
    try:
        data = read_json(file)
    except FileNotFoundError:
        raise DiffplanError(f"{path} is not a diffplan checkpoint: no config.json in it") from None
    if not isinstance(data, dict) or "diffplan_checkpoint" not in data:
        raise DiffplanError(
            f"{file} was not written by diffplan (no key 'diffplan_checkpoint'); expected a "
            "folder made by `diffplan train`"
        )
    found = data["diffplan_checkpoint"]
    if found != FORMAT:
        older = isinstance(found, int) and found < FORMAT
        raise DiffplanError(
            f"{file} was written by {'an older' if older else 'another'} version of diffplan: it "
            f"has checkpoint format {found}, this version reads {FORMAT}; train anew, or use the "
            "version that wrote it"
        )
    _check_keys(file, data, dict.fromkeys(["diffplan_checkpoint", "config", *_TYPES]))
    if isinstance(data["config"], dict):
        _check_keys(file, data["config"], config_to_dict(Config()), "config.")
    config = config_from_dict(data["config"], f"{file}: config")
    for name, kind in _SECTIONS.items():
        if isinstance(data[name], dict):
            _check_keys(file, data[name], {f.name: None for f in fields(kind)}, f"{name}.")
    header = Header(
        config, **{name: typed(file, name, kind, data[name]) for name, kind in _TYPES.items()}
    )
    _check_sizes(file, header)
    return header


def _check_keys(
    file: Path, data: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = ""
) -> None:
    for key in (*expected, *data):
        if key not in data:
            raise DiffplanError(
                f"{file} lacks the key '{prefix}{key}'; it is damaged or was written by another "
                "version of diffplan: train anew, or use that version"
            )
        if key not in expected:
            raise DiffplanError(
                f"{file} has the unknown key '{prefix}{key}'; it was edited or written by another "
                "version of diffplan: train anew, or use that version"
            )
        if isinstance(expected[key], dict) and isinstance(data[key], dict):
            _check_keys(file, data[key], expected[key], f"{prefix}{key}.")


def _check_sizes(file: Path, header: Header) -> None:
    spec, layout, info = header.spec, header.layout, header.info
    for name, value in (("state_dim", spec.state_dim), ("action_dim", spec.action_dim)):
        if value < 1:
            raise DiffplanError(f"{file}: spec.{name} is {value}, expected at least 1")
    if spec.tasks != len(info.tasks):
        raise DiffplanError(
            f"{file}: spec.tasks is {spec.tasks}, but {len(info.tasks)} tasks are described"
        )
    pairs: tuple[tuple[str, object, str, object], ...] = (
        ("layout.state_dim", layout.state_dim, "spec.state_dim", spec.state_dim),
        ("layout.goal_columns", layout.goal_columns, "spec.goal_columns", spec.goal_columns),
        ("info.action_low: count", len(info.action_low), "spec.action_dim", spec.action_dim),
        ("info.action_high: count", len(info.action_high), "spec.action_dim", spec.action_dim),
    )
    for name, found, key, other in pairs:
        if found != other:
            raise DiffplanError(f"{file}: {name} is {found}, but {key} is {other}")


def header_to_dict(header: Header) -> dict[str, Any]:
    """What `read_header` reads back."""
    return {
        "diffplan_checkpoint": FORMAT,
        "config": config_to_dict(header.config),
        "spec": asdict(header.spec),
        "layout": asdict(header.layout),
        "info": asdict(header.info),
        "fingerprint": header.fingerprint,
        "step": header.step,
        "seed": header.seed,
        "seconds": header.seconds,
        "version": header.version,
        "command": header.command,
        "decisions": [asdict(each) for each in header.decisions],
    }
