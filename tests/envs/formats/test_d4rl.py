"""HDF5 files in the D4RL layout: the traps of each domain, bad files, large files, the copies."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from diffplan.envs.formats import cache
from diffplan.envs.formats.d4rl import load_d4rl
from diffplan.envs.simulators.environments import make_env
from diffplan.errors import DiffplanError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "episodes"


def d4rl_arrays(steps: int = 12, seed: int = 0, width: int = 11) -> dict[str, np.ndarray]:
    """Hopper-shaped arrays in D4RL's types, ends at steps 3 (terminal) and 8 (timeout)."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(steps + 1, width))
    terminals, timeouts = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    terminals[3] = timeouts[8] = True
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:] + np.isin(np.arange(steps), (3, 8))[:, None],
        "actions": rng.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
        "rewards": np.arange(steps, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip" if array.ndim else None)
        file.attrs.update(attributes)
    return path


def test_with_next_observations(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", arrays)
    episodes = load_d4rl(path).validate()
    assert episodes.lengths.tolist() == [4, 5, 3]
    assert np.diff(episodes.state_starts).tolist() == [5, 6, 4]
    for e in range(3):
        first, last = episodes.step_starts[e], episodes.step_starts[e + 1]
        start = episodes.state_starts[e]
        expected = np.concatenate(
            [arrays["observations"][first:last], arrays["next_observations"][last - 1 : last]]
        )
        states = episodes.states[start : start + len(expected)]
        np.testing.assert_array_equal(states, expected.astype(np.float32))
    assert np.flatnonzero(episodes.terminations).tolist() == [3]
    assert np.flatnonzero(episodes.truncations).tolist() == [8, 11]
    assert episodes.info.details["unfinished_last_episode"] is True
    assert episodes.info.env_id == "diffplan/hopper-v2"
    assert episodes.returns.tolist() == [6.0, 30.0, 30.0]


def test_without_next_observations_and_with_odd_shapes(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    del arrays["next_observations"]
    arrays["rewards"] = arrays["rewards"][:, None].astype(np.float64)
    arrays["terminals"] = arrays["terminals"].astype(np.float32)
    arrays["timeouts"][3] = True  # a terminal step at the time limit is a termination
    episodes = load_d4rl(write_hdf5(tmp_path / "x.hdf5", arrays, env_id="Hopper-v5")).validate()
    assert np.diff(episodes.state_starts).tolist() == [4, 5, 3]
    assert np.flatnonzero(episodes.terminations).tolist() == [3]
    assert np.flatnonzero(episodes.truncations).tolist() == [8, 11]
    assert episodes.rewards.shape == (12,)
    assert episodes.info.env_id == "Hopper-v5"


def test_without_timeouts_is_cut_at_the_time_limit(tmp_path: Path) -> None:
    arrays = d4rl_arrays(2_310)
    del arrays["timeouts"], arrays["next_observations"]
    arrays["terminals"][:] = False
    arrays["terminals"][[299, 1_299]] = True
    path = write_hdf5(tmp_path / "hopper_medium-v0.hdf5", arrays)
    episodes = load_d4rl(path).validate()
    assert episodes.lengths.tolist() == [300, 1_000, 1_000, 10]
    assert np.flatnonzero(episodes.terminations).tolist() == [299, 1_299]
    assert np.flatnonzero(episodes.truncations).tolist() == [2_299, 2_309]
    nameless = write_hdf5(tmp_path / "mystery.hdf5", arrays | {"terminals": np.zeros(2_310)})
    with pytest.raises(DiffplanError, match="name the environment whose time limit applies"):
        load_d4rl(nameless)
    assert load_d4rl(nameless, "Hopper-v5").lengths.tolist() == [1_000, 1_000, 310]


@pytest.mark.parametrize(
    ("name", "width", "env_id"),
    [
        ("halfcheetah_medium-v2", 17, "HalfCheetah-v5"),
        ("hopper-medium", 11, "diffplan/hopper-v2"),
        ("ant_medium-v2", 27, "Ant-v4"),
        ("ant_medium-v2", 12, None),
        ("door-human-v1", 39, "AdroitHandDoor-v1"),
    ],
)
def test_environments_are_guessed_where_observations_agree(
    tmp_path: Path, name: str, width: int, env_id: str | None
) -> None:
    arrays = d4rl_arrays(width=width)
    episodes = load_d4rl(write_hdf5(tmp_path / f"{name}.hdf5", arrays))
    assert episodes.info.env_id == env_id
    if env_id is not None:
        env = make_env(episodes.info)
        assert env.observation_space.shape == (width,)
        env.close()


def test_pen_stops_where_d4rl_stops(tmp_path: Path) -> None:
    arrays = d4rl_arrays()
    arrays["observations"] = np.zeros((12, 45))
    del arrays["next_observations"]
    path = write_hdf5(tmp_path / "mine.hdf5", arrays, env_id="AdroitHandPen-v1", name="pen-expert")
    assert load_d4rl(path).info.env_kwargs == {"max_episode_steps": 100}


def damaged_files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    text = folder / "text.hdf5"
    text.write_text("hello")
    yield "text", text, "is no readable HDF5 file"
    whole = write_hdf5(folder / "whole.hdf5", d4rl_arrays(2_000))
    cut = folder / "cut.hdf5"
    cut.write_bytes(whole.read_bytes()[:20_000])
    yield "truncated", cut, "is no readable HDF5 file"
    arrays = d4rl_arrays()
    other = write_hdf5(folder / "other.hdf5", {"episode_0": arrays["actions"]})
    yield "layout", other, "the inside of a Minari dataset: set MINARI_DATASETS_PATH"
    other = write_hdf5(folder / "another.hdf5", {"things": arrays["actions"]})
    yield "keys", other, "observations, actions, rewards, terminals missing; it holds things"
    short = arrays | {"actions": arrays["actions"][:5]}
    yield "shape", write_hdf5(folder / "short.hdf5", short), r"actions has shape \(5, 3\)"
    empty = {key: array[:0] for key, array in arrays.items()}
    yield "empty", write_hdf5(folder / "empty.hdf5", empty), "holds no steps"
    scalar = arrays | {"rewards": np.array(1.0)}
    yield "scalar", write_hdf5(folder / "scalar.hdf5", scalar), "holds no steps"


def test_bad_files_are_named(tmp_path: Path) -> None:
    for kind, path, message in damaged_files(tmp_path):
        with pytest.raises(DiffplanError, match=message) as caught:
            load_d4rl(path)
        assert "\n" not in str(caught.value), kind
        assert str(path) in str(caught.value), kind


# --- Large files ----------------------------------------------------------------------------

_LOAD = """
import resource, sys
from diffplan.envs.formats.d4rl import load_d4rl
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
episodes = load_d4rl(sys.argv[1], progress=False)
assert episodes.states.shape == (300_300, 80)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_files_are_converted_in_pieces(tmp_path: Path) -> None:
    """192 MB of observations pass through a process that grows by less than half of that."""
    steps = 300_000
    arrays = {
        "observations": np.zeros((steps, 80), np.float32),
        "next_observations": np.zeros((steps, 80), np.float32),
        "actions": np.zeros((steps, 2), np.float32),
        "rewards": np.zeros(steps, np.float32),
        "terminals": np.arange(steps) % 1000 == 999,
    }
    path = tmp_path / "mystery.hdf5"
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    run = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 < 96e6


# --- The flat copies ------------------------------------------------------------------------


def test_copies_are_used_until_the_data_change(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    first = load_d4rl(path)
    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", None)  # reading the file again would fail
        again = load_d4rl(path)
    np.testing.assert_array_equal(first.states, again.states)
    assert not again.states.flags.owndata
    write_hdf5(path, d4rl_arrays(20, seed=1))
    assert load_d4rl(path).num_steps == 20
    assert len(list(cache_folder.iterdir())) == 1


def test_damaged_copies_are_made_again(tmp_path: Path, cache_folder: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    load_d4rl(path)
    (next(cache_folder.iterdir()) / "actions.npy").write_bytes(b"x")
    assert load_d4rl(path).validate().num_steps == 12


def test_a_copy_that_another_process_made_first_is_used(tmp_path: Path, cache_folder: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    reference = load_d4rl(path)
    folder = next(cache_folder.iterdir())
    cache._write_once(reference.save, folder)
    assert [path.name for path in cache_folder.iterdir()] == [folder.name]


def test_unwritable_caches_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "file"))
    path = write_hdf5(tmp_path / "hopper_x.hdf5", d4rl_arrays())
    with pytest.raises(DiffplanError, match="DIFFPLAN_CACHE"):
        load_d4rl(path)


def test_whatever_byte_is_damaged_the_error_is_one_line(tmp_path: Path) -> None:
    whole = write_hdf5(tmp_path / "hopper.hdf5", d4rl_arrays()).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path = tmp_path / "damaged.hdf5"
        path.write_bytes(damaged)
        try:
            load_d4rl(path)
        except DiffplanError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10
