"""Datasets of several tasks: what is checked and kept, and how several become one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.data.combine import combine, task_details
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.data.info import DatasetInfo, ObservationLayout, Task
from diffplan.errors import DiffplanError

Make = Callable[..., Episodes]


def changed_info(episodes: Episodes, **changes: Any) -> Episodes:
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, **changes))


def make(
    join: Make, name: str, width: int, episodes: int = 3, layout: ObservationLayout | None = None
) -> Episodes:
    """Episodes of 4 steps whose states all hold `width`, in a dataset called `name`."""
    states = [np.full((5, width), width, float) for _ in range(episodes)]
    made = join(states, [np.zeros((4, 2)) for _ in range(episodes)], layout=layout)
    return changed_info(made, id=name, env_id=f"{name}-v0", env_kwargs={"size": [width]})


@pytest.fixture
def two(join_episodes: Make) -> Episodes:
    return combine([make(join_episodes, "a", 2), make(join_episodes, "b", 3, 2)], "both")


def test_states_are_padded_on_the_right_and_every_episode_knows_its_task(two: Episodes) -> None:
    assert two.info.id == "both" and two.info.source == "combined"
    assert two.info.tasks == (
        Task("a", "a-v0", {"size": [2]}, 2),
        Task("b", "b-v0", {"size": [3]}, 3),
    )
    assert two.info.env_id is None  # each has its own
    assert two.tasks is not None and two.tasks.tolist() == [0, 0, 0, 1, 1]
    assert two.tasks.dtype == np.int64
    assert (two.states[:15] == [2, 2, 0]).all() and (two.states[15:] == 3).all()
    assert two.step_starts.tolist() == [0, 4, 8, 12, 16, 20]
    assert two.state_starts.tolist() == [0, 5, 10, 15, 20, 25]


def test_the_bounds_of_the_actions_are_the_widest(join_episodes: Make) -> None:
    a = changed_info(make(join_episodes, "a", 2), action_low=(-3.0, -1.0), action_high=(1.0, 1.0))
    b = changed_info(make(join_episodes, "b", 2), action_low=(-1.0, -1.0), action_high=(1.0, 5.0))
    info = combine([a, b], "both").info
    assert (info.action_low, info.action_high) == ((-3.0, -1.0), (1.0, 5.0))


def test_tasks_of_parts_are_kept_one_after_another(two: Episodes, join_episodes: Make) -> None:
    three = combine([make(join_episodes, "c", 1, 1), two], "all")
    assert [task.name for task in three.info.tasks] == ["c", "a", "b"]
    assert three.tasks is not None and three.tasks.tolist() == [0, 1, 1, 1, 2, 2]


def test_the_details_of_the_parts_are_not_lost(join_episodes: Make) -> None:
    a = changed_info(make(join_episodes, "a", 2), details={"path_rule": "shortest"})
    one = combine([a, make(join_episodes, "b", 2)], "one")
    two = combine([one, make(join_episodes, "c", 2)], "two")
    for info in (one.info, two.info):
        assert task_details(info, info.tasks[0]) == {"path_rule": "shortest"}
        assert task_details(info, info.tasks[1]) == {}


def test_one_environment_for_all_is_kept(join_episodes: Make) -> None:
    parts = [make(join_episodes, "a", 2), make(join_episodes, "b", 2)]
    parts = [changed_info(part, env_id="same-v0", env_kwargs={}) for part in parts]
    assert combine(parts, "both").info.env_id == "same-v0"


@pytest.mark.parametrize("mmap", [False, True])
def test_a_store_keeps_its_tasks(two: Episodes, tmp_path: Path, mmap: bool) -> None:
    two.save(tmp_path / "store")
    loaded = Episodes.load(tmp_path / "store", mmap=mmap).validate()
    assert loaded.info == two.info
    assert loaded.tasks is not None and loaded.tasks.tolist() == [0, 0, 0, 1, 1]


def test_stores_from_before_there_were_tasks_are_read(join_episodes: Make, tmp_path: Path) -> None:
    make(join_episodes, "a", 2).save(tmp_path)
    assert not (tmp_path / "tasks.npy").exists()
    header = json.loads((tmp_path / "episodes.json").read_text())
    del header["info"]["tasks"]
    (tmp_path / "episodes.json").write_text(json.dumps(header))
    loaded = Episodes.load(tmp_path)
    assert loaded.tasks is None and loaded.info.tasks == ()


def test_the_fingerprint_tells_tasks_apart(two: Episodes) -> None:
    assert two.tasks is not None
    other = dataclasses.replace(two, tasks=two.tasks[::-1].copy())
    without = changed_info(dataclasses.replace(two, tasks=None), tasks=())
    assert len({fingerprint(two), fingerprint(other), fingerprint(without)}) == 3


def renamed(info: DatasetInfo, **changes: Any) -> tuple[Task, ...]:
    return (info.tasks[0], dataclasses.replace(info.tasks[1], **changes))


def test_wrong_tasks_are_refused(two: Episodes) -> None:
    assert two.tasks is not None
    for wrong, message in (
        (dataclasses.replace(two, tasks=None), "2 tasks are described, but .* is missing"),
        (changed_info(two, tasks=()), "0 tasks are described, but .* is given"),
        (dataclasses.replace(two, tasks=two.tasks[:4]), r"tasks have shape \(4,\)"),
        (dataclasses.replace(two, tasks=two.tasks.astype(np.int32)), "tasks are int32"),
        (dataclasses.replace(two, tasks=two.tasks + 1), "episode 3 is of task 2, expected 0 to 1"),
        (changed_info(two, tasks=renamed(two.info, name="a")), "two tasks are called 'a'"),
        (changed_info(two, tasks=renamed(two.info, state_dim=4)), "task b has 4 state columns"),
        (changed_info(two, tasks=renamed(two.info, state_dim=2)), "episode 3 .* not zero"),
    ):
        with pytest.raises(DiffplanError, match=message):
            wrong.validate()


def test_what_does_not_fit_is_refused_in_one_line(join_episodes: Make) -> None:
    a = make(join_episodes, "a", 4)
    steered = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
    other = ObservationLayout(4, 2, (2, 3), (), ("observation",))
    goal, elsewhere = (
        make(join_episodes, name, 4, layout=layout)
        for name, layout in (("goal", steered), ("elsewhere", other))
    )
    resting = make(join_episodes, "r", 4, layout=dataclasses.replace(steered, rest_columns=()))
    wide = join_episodes([np.zeros((5, 4))], [np.zeros((4, 3))])
    for parts, message in (
        ([], "nothing to combine"),
        ([a, wide], "a has actions of 2 columns and tiny of 3"),
        ([a, goal], r"a has goals in state columns none and goal \(0, 1\)"),
        ([goal, elsewhere], r"goals in state columns \(0, 1\) and elsewhere \(2, 3\)"),
        ([goal, resting], r"resting columns \(2, 3\) and r none"),
        ([a, a], "two tasks are called 'a'"),
    ):
        with pytest.raises(DiffplanError, match=message) as error:
            combine(parts, "both")
        assert "\n" not in str(error.value)


def test_parts_less_different_offsets_become_less_the_same(join_episodes: Make) -> None:
    layouts = [ObservationLayout(2, offset=(0.0, away)) for away in (4.5e6, 4.5e6 + 16)]
    parts = [
        make(join_episodes, name, 2, layout=own) for name, own in zip("ab", layouts, strict=True)
    ]
    both = combine(parts, "both")
    assert both.layout.offset == (0.0, 4.5e6)
    assert both.states[0].tolist() == [2, 2] and both.states[-1].tolist() == [2, 18]
    # goals in a column as well
    there = [
        dataclasses.replace(
            part,
            goals=np.full((15, 1), 5, np.float32),
            layout=ObservationLayout(2, 1, (1,), (), ("observation",), offset=own.offset),
        )
        for part, own in zip(parts, layouts, strict=True)
    ]
    assert combine(there, "both").goals.tolist() == 15 * [[5]] + 15 * [[21]]
    with pytest.raises(DiffplanError, match="a lacks column 1, which others have less an offset"):
        combine([make(join_episodes, "a", 1), parts[1]], "both")
