"""Whatever stands in a file: it is loaded as it is meant, or refused in a line."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffplan.envs.formats import npz_archive
from diffplan.envs.formats.d4rl import load_d4rl
from diffplan.envs.formats.npz import load_npz
from diffplan.errors import DiffplanError

STEPS = 12
HDF5_NAMES = {"terminations": "terminals", "truncations": "timeouts"}
MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(STEPS + 1, 3))
    ends = np.isin(np.arange(STEPS), (4, STEPS - 1))
    return {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, (STEPS, 2)),
        "rewards": rng.normal(size=STEPS),
        "terminations": np.zeros(STEPS, bool),
        "truncations": ends,
        "next_observations": states[1:],
    }


def write_npz(path: Path, given: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **given)
    return path.with_suffix(".npz")


def write_hdf5(path: Path, given: dict[str, Any]) -> Path:
    with h5py.File(path.with_suffix(".hdf5"), "w") as file:
        for key, array in given.items():
            file[HDF5_NAMES.get(key, key)] = array
    return path.with_suffix(".hdf5")


FORMATS = [(write_npz, load_npz), (write_hdf5, load_d4rl)]


def refused(load: Callable[..., Any], path: Path) -> str:
    """The one line in which a file is refused, "" for one that is loaded."""
    try:
        load(path, progress=False).validate()
    except DiffplanError as error:
        assert "\n" not in str(error)
        assert str(error).strip()
        return str(error)
    return ""


def _numbers(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    size = int(np.prod(shape))
    odd = st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.5, np.nan, np.inf, 1e300, 1e-300, 1e9])
    return st.lists(odd, min_size=size, max_size=size).map(lambda v: np.array(v).reshape(shape))


SHAPES = st.sampled_from(
    [(), (0,), (STEPS,), (STEPS - 1,), (STEPS, 1), (STEPS, 3), (STEPS, 2, 2), (3, 4), (1, STEPS, 3)]
)
ARRAYS = st.one_of(
    SHAPES.flatmap(_numbers),
    SHAPES.map(lambda shape: np.ones(shape, complex)),
    SHAPES.map(lambda shape: np.full(shape, b"text")),
    SHAPES.map(lambda shape: np.ones(shape, np.uint8)),
    SHAPES.map(lambda shape: np.full(shape, 2**60)),
)


@pytest.mark.parametrize(("write", "load"), FORMATS, ids=["npz", "hdf5"])
@MANY
@given(
    changes=st.dictionaries(
        st.sampled_from([*arrays(), "goals", "goal_columns"]), ARRAYS | st.none(), max_size=3
    )
)
def test_any_arrays_are_loaded_or_refused_in_a_line(
    tmp_path: Path, write: Any, load: Any, changes: dict[str, Any]
) -> None:
    content = {key: array for key, array in (arrays() | changes).items() if array is not None}
    path = write(tmp_path / "any", content)
    if refused(load, path):
        return
    # what is loaded is what stands in the file
    found = load(path, progress=False)
    given = np.asarray(content["actions"], np.float32)
    np.testing.assert_array_equal(found.actions, given.reshape(found.actions.shape))
    assert found.states.std() < 1e12


@pytest.mark.parametrize(("write", "load"), FORMATS, ids=["npz", "hdf5"])
@pytest.mark.parametrize("flag", [2, -1, 0.5, np.nan])
@pytest.mark.parametrize("key", ["terminations", "truncations"])
def test_a_flag_is_0_or_1(tmp_path: Path, write: Any, load: Any, key: str, flag: float) -> None:
    flags = arrays()[key].astype(float)
    flags[7] = flag
    message = refused(load, write(tmp_path / "flags", arrays() | {key: flags}))
    assert f"holds {flag}" in message.replace(".0", "") and "at step 7, expected 0 or 1" in message


def test_keys_of_other_software_are_not_lost_in_silence(tmp_path: Path) -> None:
    for name, meant in (("truncated", "timeouts"), ("timeout", "timeouts"), ("next_obs", "next_")):
        given = {k: v for k, v in arrays().items() if not HDF5_NAMES.get(k, k).startswith(meant)}
        path = write_hdf5(tmp_path / "names", given | {name: arrays()["truncations"]})
        assert f"{name} is not read; rename it to {meant}" in refused(load_d4rl, path)
    given = {k: v for k, v in arrays().items() if k != "terminations"}
    path = write_hdf5(tmp_path / "names", given | {"dones": arrays()["terminations"]})
    assert "terminals missing" in refused(load_d4rl, path)
    assert "rename dones to terminals" in refused(load_d4rl, path)


@pytest.mark.parametrize(("write", "load"), FORMATS, ids=["npz", "hdf5"])
def test_shuffled_rows_are_refused(tmp_path: Path, write: Any, load: Any) -> None:
    order = np.random.default_rng(0).permutation(STEPS)
    shuffled = {key: array[order] for key, array in arrays().items()}
    assert "keep the rows in order of time" in refused(load, write(tmp_path / "mixed", shuffled))


@pytest.mark.parametrize(("write", "load"), FORMATS, ids=["npz", "hdf5"])
@MANY
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_byte_is_loaded_or_refused_in_a_line(
    tmp_path: Path, write: Any, load: Any, at: int, value: int, cut: bool
) -> None:
    data = bytearray(write(tmp_path / "whole", arrays()).read_bytes())
    at %= len(data)
    data[at] = value
    path = (tmp_path / "damaged").with_suffix(".npz" if write is write_npz else ".hdf5")
    path.write_bytes(data[:at] if cut else data)
    refused(load, path)


# --- Files that reach for others, or for the whole disk -------------------------------------------


def test_an_hdf5_file_reads_no_other(tmp_path: Path) -> None:
    secret = write_hdf5(tmp_path / "secret", arrays())
    plain = {HDF5_NAMES.get(k, k): v for k, v in arrays().items() if k != "observations"}

    def external(file: h5py.File) -> None:
        file["observations"] = h5py.ExternalLink(str(secret), "observations")

    def through_a_group(file: h5py.File) -> None:
        file["observations"] = arrays()["observations"]
        file["infos"] = h5py.ExternalLink(str(secret), "/")

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((STEPS, 3), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "observations", shape=(STEPS, 3))
        file.create_virtual_dataset("observations", layout)

    def raw(file: h5py.File) -> None:
        file.create_dataset(
            "observations", (STEPS, 3), "f8", external=[(str(secret), 0, STEPS * 24)]
        )

    for reach, message in (
        (external, "observations is a link into another file"),
        (through_a_group, "infos is a link into another file"),
        (virtual, "observations is a virtual dataset"),
        (raw, "observations is stored in another file"),
    ):
        path = tmp_path / f"{reach.__name__}.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in plain.items():
                file[key] = array
            reach(file)
        assert message in refused(load_d4rl, path)


def test_what_grows_beyond_measure_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz_archive, "_LARGE", 1 << 16)
    zeros = {"observations": np.zeros((300_000, 3)), "next_observations": np.zeros((300_000, 3))}
    np.savez_compressed(tmp_path / "bomb.npz", **arrays() | zeros)
    assert "was made to fill a disk" in refused(load_npz, tmp_path / "bomb.npz")
    with h5py.File(tmp_path / "bomb.hdf5", "w") as file:
        for key, array in arrays().items():
            file[HDF5_NAMES.get(key, key)] = array
        file.create_dataset("infos/never", (10**12,), "f8", chunks=(1000,))
    assert "was made to fill a disk" in refused(load_d4rl, tmp_path / "bomb.hdf5")
    # a size that the directory of the archive claims is bounded by the disk
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr(npz_archive.shutil, "disk_usage", lambda _: full)
    path = write_npz(tmp_path / "any", arrays())
    assert "needs 0.0 GB" in refused(load_npz, path)
    assert zipfile.is_zipfile(path)


# --- Arrays with two axes in time -----------------------------------------------------------------


def test_rows_of_episodes_are_cut_at_their_ends(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states, lengths = rng.normal(size=(3, 5, 2)), np.array([5, 2, 4])
    last = np.arange(5) == lengths[:, None] - 1
    given = {
        "observations": states,
        "actions": rng.uniform(-1, 1, (3, 5, 1)),
        "rewards": rng.normal(size=(3, 5)),
        "terminations": last & (np.arange(3) == 1)[:, None],
        "truncations": last & (np.arange(3) == 2)[:, None],  # the first runs to the end of its row
    }
    path = write_npz(tmp_path / "rows", given)
    assert "--layout episodes for 3 episodes of 5 steps" in refused(load_npz, path)
    found = load_npz(path, layout="episodes", progress=False).validate()
    assert found.lengths.tolist() == lengths.tolist()
    rows = np.concatenate([states[e, :n] for e, n in enumerate(lengths)])
    np.testing.assert_array_equal(found.states, rows.astype(np.float32))
    assert np.flatnonzero(found.terminations).tolist() == [6]
    assert np.flatnonzero(found.truncations).tolist() == [4, 10]


def test_environments_side_by_side_become_one_after_the_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(6, 2, 3))
    ends = np.zeros((6, 2), bool)
    ends[2, 1] = True
    given = {
        "observations": states,
        "actions": rng.uniform(-1, 1, (6, 2, 1)),
        "rewards": np.arange(12.0).reshape(6, 2, 1),
        "terminations": ends,
        "truncations": np.zeros((6, 2), bool),
    }
    found = load_npz(write_npz(tmp_path / "beside", given), layout="environments", progress=False)
    assert found.validate().lengths.tolist() == [6, 3, 3]
    np.testing.assert_array_equal(found.states[6:], states[:, 1].astype(np.float32))
    assert found.rewards.tolist() == [*range(0, 12, 2), *range(1, 12, 2)]
    assert found.info.details["layout"] == "environments"


def test_goals_of_a_file_may_be_left_out_and_are_compared_where_given(tmp_path: Path) -> None:
    columns = {"goal_columns": np.array([0, 2])}
    found = load_npz(write_npz(tmp_path / "goals", arrays() | columns), progress=False).validate()
    assert (found.goals, found.layout.goal_dim, found.layout.goal_columns) == (None, 2, (0, 2))
    there = arrays()["observations"][:, [0, 2]]
    assert not refused(
        load_npz, write_npz(tmp_path / "goals", arrays() | columns | {"goals": there})
    )
    elsewhere = {"goals": there + np.array([0.0, 50.0])}
    message = refused(load_npz, write_npz(tmp_path / "goals", arrays() | columns | elsewhere))
    assert "in column 1, but column 2 of the state" in message
