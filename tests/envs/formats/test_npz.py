"""Own .npz files: any numbers are read, and the first wrong thing is named with its fix."""

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.envs.formats import npz as loader
from diffplan.envs.formats.npz import load_npz
from diffplan.envs.simulators.environments import check_env_id
from diffplan.errors import DiffplanError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "episodes"


def arrays(steps: int = 10) -> dict[str, np.ndarray]:
    """Two episodes of 4 and 6 steps: 3 observation columns, 2 actions."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(steps + 1, 3))
    terminations, truncations = np.zeros(steps, bool), np.zeros(steps, bool)
    terminations[3] = truncations[-1] = True
    after = states[1:].copy()
    after[3] += 1.0  # the first episode ended elsewhere
    return {
        "observations": states[:-1],
        "next_observations": after,
        "actions": rng.uniform(-1, 1, (steps, 2)),
        "rewards": rng.normal(size=steps),
        "terminations": terminations,
        "truncations": truncations,
    }


def written(folder: Path, changes: dict[str, Any]) -> Path:
    content = {key: array for key, array in (arrays() | changes).items() if array is not None}
    np.savez(folder / "mine.npz", **content)
    return folder / "mine.npz"


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_any_numbers_become_float32(tmp_path: Path, kind: type) -> None:
    whole = np.arange(30).reshape(10, 3)
    changes = {
        "observations": whole.astype(kind),
        "next_observations": None,
        "actions": (whole[:, :2] % 2).astype(kind),
        "rewards": whole[:, :1].astype(kind),  # (N, 1)
        "terminations": arrays()["terminations"].astype(kind)[:, None],
    }
    episodes = load_npz(written(tmp_path, changes)).validate()
    assert episodes.lengths.tolist() == [4, 6]
    np.testing.assert_array_equal(episodes.states, whole)
    assert episodes.rewards.shape == (10,)
    assert episodes.returns.tolist() == [18.0, 117.0]


def flag(step: int, value: Any) -> np.ndarray:
    flags = np.zeros(10)
    flags[step] = value
    return flags


NEVER = np.zeros(10, bool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terminations": NEVER, "truncations": NEVER, "next_observations": None},
            "no step of 10 ends an episode",
        ),
        ({"terminations": flag(2, 3.0)}, r"terminations holds 3\.0 at step 2, expected 0 or 1"),
        ({"truncations": flag(5, np.nan)}, "truncations holds nan at step 5, expected 0 or 1"),
        (
            {"terminations": None, "terminals": NEVER},
            "terminations missing; .*; rename terminals to terminations$",
        ),
        (
            {"goals": np.zeros((10, 2)), "goal_columns": np.array([True, True, False])},
            r"goal_columns is a mask, expected the numbers of the columns: \[0, 1\]",
        ),
        ({"next_observations": None, "next_obs": np.zeros((10, 3))}, "next_obs is not read; ren"),
        ({"next_observations": None, "next_observation": np.zeros((10, 3))}, "rename it to next_"),
        (
            {"actions": np.zeros(10)},
            r"expected \(10, \*\); for a single column write actions\[\.\.\., ",
        ),
        (
            {"observations": np.zeros((10, 4, 2))},
            r"flatten them to \(10, 8\), also in the environment",
        ),
        ({"rewards": np.zeros(11)}, r"rewards has shape \(11,\).*; actions has 10 steps"),
        ({"next_observations": np.zeros((10, 4))}, "have 4 columns, observations 3"),
        (
            {"next_observations": arrays()["next_observations"][::-1]},
            "next_observations of step 0 is not observations of step 1, though no flag",
        ),
        (
            {"terminations": NEVER},
            r"next_observations of step 3 is not observations of step 4.*\(1 such steps of 10\)",
        ),
        (
            {"goals": np.zeros((10, 2)), "goal_columns": np.array([0.5, 1])},
            r"goal_columns is \[0.5, 1.0\], expected whole numbers",
        ),
        (
            {"goals": np.zeros((10, 2)), "goal_columns": np.array([1, 1])},
            r"goal_columns and rest_columns are \[1, 1\], expected each column once",
        ),
        (
            {"goals": np.zeros((10, 2)), "goal_columns": np.array([0, 3])},
            "mine.npz: column 3 is outside a state of 3",
        ),
        ({"actions": np.full((10, 2), np.nan)}, "actions hold nan in episode 0, step 0, column 0"),
        ({"rewards": flag(6, 1e300)}, "rewards hold inf in episode 1, step 2"),
    ],
)
def test_the_first_wrong_thing_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, changes)
    with pytest.raises(DiffplanError, match=message) as caught:
        load_npz(path).validate()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_episode_that_is_marked_is_one(tmp_path: Path) -> None:
    ends = {"terminations": NEVER, "truncations": flag(9, 1), "next_observations": None}
    assert load_npz(written(tmp_path, ends)).validate().lengths.tolist() == [10]


@pytest.mark.parametrize("after", [True, False], ids=["with next", "without next"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pieces_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Any, after: bool
) -> None:
    """Pieces of one row give what the whole gives, in either order of memory."""
    content = arrays() | {"goals": np.arange(20.0).reshape(10, 2), "goal_columns": np.array([0, 2])}
    content["truncations"][-1] = False  # unfinished
    content["actions"] = np.asfortranarray(content["actions"])
    if not after:
        del content["next_observations"]
    save(tmp_path / "mine.npz", **content)
    whole = load_npz(tmp_path / "mine.npz").validate()
    monkeypatch.setattr(loader, "_PIECE_BYTES", 1)
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "other"))
    pieces = load_npz(tmp_path / "mine.npz").validate()
    assert pieces.goals is not None and whole.goals is not None
    np.testing.assert_array_equal(pieces.goals, whole.goals)
    for key in ("states", "actions", "rewards", "truncations", "state_starts", "step_starts"):
        np.testing.assert_array_equal(getattr(pieces, key), getattr(whole, key))
    np.testing.assert_array_equal(whole.actions, content["actions"].astype(np.float32))
    assert whole.truncations.tolist() == [False] * 9 + [True]
    states, goals = content["observations"], content["goals"]
    if after:  # the state after an episode's last step is under the goal of that step
        states = np.insert(states, [4, 10], content["next_observations"][[3, 9]], 0)
        goals = np.insert(goals, [4, 10], goals[[3, 9]], 0)
    np.testing.assert_array_equal(whole.states, states.astype(np.float32))
    np.testing.assert_array_equal(whole.goals, goals)


def test_archives_are_converted_in_pieces(tmp_path: Path) -> None:
    """96 MB of float64 go through less than a third of that, and nothing else is left behind."""
    steps = 200_000
    truncations = np.arange(steps) % 1000 == 999
    np.savez(
        tmp_path / "large.npz",
        observations=np.zeros((steps, 30)),
        next_observations=np.zeros((steps, 30)),
        actions=np.zeros((steps, 1)),
        rewards=np.zeros(steps),
        terminations=np.zeros(steps, bool),
        truncations=truncations,
    )
    tracemalloc.start()
    try:
        episodes = load_npz(tmp_path / "large.npz", progress=False)
        assert tracemalloc.get_traced_memory()[1] < 32e6
    finally:
        tracemalloc.stop()
    assert episodes.states.shape == (200_200, 30)
    assert not episodes.states.flags.owndata


def test_a_copy_is_used_until_the_archive_changes(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {})
    load_npz(path)
    with monkeypatch.context() as patch:
        patch.setattr(loader, "unpacked", None)  # reading the file again would fail
        assert load_npz(path).num_steps == 10
    written(tmp_path, {"rewards": np.ones(10)})  # as many bytes as before
    assert load_npz(path).returns.tolist() == [4.0, 6.0]
    (copy,) = cache_folder.iterdir()
    assert not [entry for entry in copy.iterdir() if entry.is_dir()]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whatever_byte_of_an_archive_is_damaged_the_error_is_one_line(
    tmp_path: Path, save: Any
) -> None:
    path = tmp_path / "mine.npz"
    save(path, **arrays())
    whole = path.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_npz(path, progress=False)
        except DiffplanError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_an_environment_may_come_from_a_module_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "diffplan_test_envs.py").write_text(
        "import gymnasium\n"
        'gymnasium.register("Cart-v7", "gymnasium.envs.classic_control:PendulumEnv")\n'
    )
    check_env_id("diffplan_test_envs:Cart-v7", named=True)
    with pytest.raises(
        DiffplanError, match=r"registers no environment Cart-v8; call gymnasium\.reg"
    ):
        check_env_id("diffplan_test_envs:Cart-v8", named=True)
    with pytest.raises(DiffplanError, match="module 'no_such_module' cannot be imported"):
        check_env_id("no_such_module:Cart-v7", named=True)
    (tmp_path / "diffplan_broken_envs.py").write_text("1 / 0\n")
    with pytest.raises(DiffplanError, match=r"cannot be imported \(ZeroDivisionError: division"):
        check_env_id("diffplan_broken_envs:Cart-v7", named=True)
