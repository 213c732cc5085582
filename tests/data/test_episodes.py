"""The episode store: saving, loading, and one clear line for everything wrong with data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.errors import DiffplanError


def make_episodes(lengths: list[int], extra: int = 1, seed: int = 0) -> Episodes:
    """Random episodes with goals; `extra` states after the last step of each."""
    rng = np.random.default_rng(seed)
    steps, states = sum(lengths), sum(lengths) + extra * len(lengths)
    step_starts = np.cumsum([0, *lengths])
    ends = np.zeros(steps, np.bool_)
    ends[step_starts[1:] - 1] = True
    return Episodes(
        states=rng.normal(size=(states, 4)).astype(np.float32),
        goals=rng.normal(size=(states, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminations=np.zeros(steps, np.bool_),
        truncations=ends,
        state_starts=np.cumsum([0, *[length + extra for length in lengths]]),
        step_starts=step_starts,
        layout=ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",)),
        info=DatasetInfo(
            "test",
            "arrays",
            "PointMaze_UMaze-v3",
            {"maze_map": [[1, 0], [0, 1]], "max_episode_steps": 5},
            (-1.0,) * 3,
            (1.0,) * 3,
            {"seed": 3},
        ),
    )


def changed(episodes: Episodes, name: str, index: object, value: float) -> Episodes:
    array = getattr(episodes, name).copy()
    array[index] = value
    return dataclasses.replace(episodes, **{name: array})


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1))
def test_lengths_and_returns_match_a_loop(lengths: list[int], extra: int) -> None:
    episodes = make_episodes(lengths, extra).validate()
    assert episodes.num_episodes == len(lengths)
    assert episodes.lengths.tolist() == lengths
    first = 0
    for e, length in enumerate(lengths):
        total = sum(float(r) for r in episodes.rewards[first : first + length])
        assert episodes.returns[e] == pytest.approx(total, abs=1e-12)
        first += length


@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_load_give_everything_back(tmp_path: Path, mmap: bool) -> None:
    episodes = make_episodes([3, 1, 5])
    episodes.save(tmp_path / "store")
    loaded = Episodes.load(tmp_path / "store", mmap=mmap)
    for field in dataclasses.fields(Episodes):
        before, after = getattr(episodes, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_saving_replaces_a_store_and_nothing_else(tmp_path: Path) -> None:
    make_episodes([3]).save(tmp_path / "store")
    make_episodes([2, 2]).save(tmp_path / "store")
    assert Episodes.load(tmp_path / "store").num_episodes == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DiffplanError, match="is no episode store"):
        make_episodes([3]).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_an_interrupted_save_leaves_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_episodes([3]).save(tmp_path / "store")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(json, "dumps", fail)
        make_episodes([2, 2]).save(tmp_path / "store")
    assert Episodes.load(tmp_path / "store").num_episodes == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("states", (7, 1), np.nan, "states hold nan in episode 1, step 3, column 1"),
        ("goals", (0, 0), np.inf, "goals hold inf in episode 0, step 0, column 0"),
        ("actions", (3, 2), np.nan, "actions hold nan in episode 1, step 0, column 2"),
        ("rewards", 8, -np.inf, "rewards hold -inf in episode 2, step 0"),
        ("actions", (2, 0), 1.01, "action 1.01 in episode 0, step 2, column 0, is outside"),
    ],
)
def test_bad_numbers_are_named_with_their_place(
    name: str, index: object, value: float, message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        changed(make_episodes([3, 5, 2]), name, index, value).validate()


def test_actions_just_outside_their_bounds_are_accepted() -> None:
    changed(make_episodes([3]), "actions", (0, 0), 1.0005).validate()


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, -2.0), (np.nan, 1.0), (-1.0, 1e39)])
def test_bounds_need_room_between_them(low: float, high: float) -> None:
    episodes = make_episodes([3])
    bounds = {"action_low": (-1.0, low, -1.0), "action_high": (1.0, high, 1.0)}
    episodes = dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, **bounds))
    with pytest.raises(DiffplanError, match="the bounds of action column 1 are"):
        episodes.validate()


def test_no_columns_are_refused() -> None:
    episodes = make_episodes([3])
    none = dataclasses.replace(
        episodes, states=episodes.states[:, :0], goals=None, layout=ObservationLayout(0)
    )
    with pytest.raises(DiffplanError, match="states have 0 columns"):
        none.validate()


def test_an_empty_episode_is_named() -> None:
    episodes = make_episodes([3, 2])
    empty = dataclasses.replace(
        episodes,
        step_starts=np.array([0, 3, 3, 5]),
        state_starts=np.array([0, 4, 4, 7]),
    )
    with pytest.raises(DiffplanError, match="episode 1 has 0 steps"):
        empty.validate()
    assert empty.returns[1] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_starts": np.array([0, 3, 6])}, "step_starts"),
        ({"state_starts": np.array([0, 5, 7])}, "episode 0 has 3 steps and 5 states"),
        ({"rewards": np.zeros(4, np.float32)}, "rewards have shape \\(4,\\), expected \\(5,\\)"),
        ({"rewards": np.zeros(5)}, "rewards are float64, expected float32"),
    ],
)
def test_wrong_structure_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DiffplanError, match=message):
        dataclasses.replace(make_episodes([3, 2]), **changes).validate()


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match=r"has no episodes\.json"):
        Episodes.load(tmp_path)
    make_episodes([3]).save(tmp_path / "a")
    data = (tmp_path / "a" / "states.npy").read_bytes()
    (tmp_path / "a" / "states.npy").write_bytes(data[:-8])
    with pytest.raises(DiffplanError, match="no readable episode store"):
        Episodes.load(tmp_path / "a")
    make_episodes([3]).save(tmp_path / "b")
    (tmp_path / "b" / "episodes.json").write_text('{"format": 1, "layout": {"width": 3}}')
    with pytest.raises(DiffplanError, match=r"layout\.state_dim .*expected: Field required"):
        Episodes.load(tmp_path / "b")


def test_a_store_never_unpickles(tmp_path: Path) -> None:
    make_episodes([3]).save(tmp_path / "a")
    np.save(tmp_path / "a" / "states.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DiffplanError):
        Episodes.load(tmp_path / "a")


@pytest.mark.parametrize(("far", "refused"), [(0, False), (8, False), (60, True)])
def test_goals_in_other_units_are_named(far: int, refused: bool) -> None:
    """A few lie where nobody has been; where most do they are measured otherwise."""
    episodes = make_episodes([30, 40])
    assert episodes.goals is not None
    goals = 0.1 * np.asarray(episodes.goals)
    goals[len(goals) - far :] *= 1e4
    changed = dataclasses.replace(episodes, goals=goals.astype(np.float32))
    if refused:
        with pytest.raises(DiffplanError, match=r"goals reach from .* in the same units"):
            changed.validate()
    else:
        changed.validate()


BOX = ObservationLayout(3)
GOAL = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
BOTH = ObservationLayout(5, 2, (0, 1), (), ("achieved_goal", "observation"))


def test_layouts_split_observations() -> None:
    state, goal = BOX.split(np.arange(6.0).reshape(2, 3))
    assert state.dtype == np.float32
    assert goal is None
    observation = {
        "observation": np.ones((2, 4)),
        "achieved_goal": np.zeros((2, 2)),
        "desired_goal": np.full((2, 2), 7.0),
    }
    state, goal = GOAL.split(observation)
    assert state.shape == (2, 4)
    assert goal is not None
    assert (goal == 7.0).all()
    observation["observation"] = np.ones((2, 3))
    state, _ = BOTH.split(observation)
    np.testing.assert_array_equal(state, [[0, 0, 1, 1, 1]] * 2)


@pytest.mark.parametrize("layout", [BOX, GOAL, BOTH])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_what_was_joined_is_split_again(layout: ObservationLayout, shift: float) -> None:
    layout = dataclasses.replace(layout, offset=(shift,) * layout.state_dim if shift else ())
    states = np.arange(2.0 * layout.state_dim).reshape(2, -1)
    goals = np.full((2, 2), 7.0) if layout.goal_dim else None
    state, goal = layout.split(layout.joined(states, goals))
    np.testing.assert_array_equal(state, states)
    assert (goal is None) if goals is None else (goal == goals).all()


@pytest.mark.parametrize(
    ("layout", "observation", "message"),
    [
        (BOX, np.zeros((2, 4)), r"shape \(2, 4\), expected \[\.\.\., 3\]"),
        (BOX, np.array([0.0, np.nan, 0.0]), r"nan at index \(1,\)"),
        (BOX, {"observation": np.zeros(3)}, "is a dict"),
        (GOAL, np.zeros(4), "is a ndarray, expected a dict"),
        (GOAL, {"observation": np.zeros(4)}, "'desired_goal' is missing"),
        (GOAL, {"observation": np.zeros(4), "desired_goal": np.zeros(3)}, "desired_goal has shape"),
        (GOAL, {"observation": np.zeros((2, 4)), "desired_goal": np.zeros(2)}, "batch shape"),
    ],
)
def test_wrong_observations_are_named(
    layout: ObservationLayout, observation: object, message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        layout.split(observation)
