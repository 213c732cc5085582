"""Data against environments: the first thing that does not fit is named, with what would."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.simulators.compatibility import check_environment, check_spaces
from diffplan.errors import DiffplanError

BOX = ObservationLayout(3)
GOAL = ObservationLayout(4, 2, (0, 1), (), ("observation",))
BOTH = ObservationLayout(6, 2, (0, 1), (), ("achieved_goal", "observation"))
MINE = spaces.Box(-1, 1, (2,))


def info(low: float = -1.0, high: float = 1.0, env_id: str = "Mine-v0") -> DatasetInfo:
    return DatasetInfo("mine.npz", "arrays", env_id, {}, (low,) * 2, (high,) * 2, {})


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape)


def goal_dict(observation: int = 4, goal: int = 2) -> spaces.Dict:
    parts = {"achieved_goal": box(goal), "desired_goal": box(goal)}
    return spaces.Dict({"observation": box(observation), **parts})


@pytest.mark.parametrize(
    ("layout", "observations", "bounds", "actions"),
    [
        (BOX, box(3), (-1, 1), MINE),
        (GOAL, goal_dict(), (-1, 1), MINE),
        (BOTH, goal_dict(), (-1, 1), MINE),
        (BOX, box(3), (-2, 3), spaces.Box(-2, 3, (2,))),
        (BOX, box(3), (-0.5, 0.5), MINE),  # data that use a part of the range
        (BOX, box(3), (-7, 7), box(2)),  # no bounds at all
    ],
)
def test_what_fits_passes(
    layout: ObservationLayout,
    observations: spaces.Space,
    bounds: tuple[float, float],
    actions: spaces.Space,
) -> None:
    check_spaces(layout, info(*bounds), observations, actions)


@pytest.mark.parametrize(
    ("layout", "observations", "actions", "message"),
    [
        (BOX, box(5), MINE, r"gives Box\(5,\) observations, dataset mine.npz has \(3,\); evaluate"),
        (BOX, box(3, 4), MINE, r"gives Box\(3, 4\) observations.* flatten them to \(12,\)"),
        (BOX, spaces.Discrete(7), MINE, r"gives Discrete\(7\) observations, .* needs vectors"),
        (BOX, goal_dict(), MINE, "gives dict observations with .*arrays of 3 columns.*Flatten"),
        (GOAL, box(4), MINE, r"gives Box\(4,\) observations, .* a dict with observation, desired"),
        (GOAL, goal_dict(5), MINE, "of 5 numbers under observation, dataset mine.npz has 4 "),
        (GOAL, goal_dict(4, 3), MINE, r"goals of shape \(3,\), dataset mine.npz of \(2,\)"),
        (GOAL, spaces.Dict(observation=box(4)), MINE, "needs 'desired_goal' among them"),
        (
            GOAL,
            spaces.Dict(observation=box(2, 2), desired_goal=box(2)),
            MINE,
            r"gives Box\(2, 2\) under 'observation'",
        ),
        (BOX, box(3), spaces.Discrete(4), r"takes Discrete\(4\) actions, .*continuous"),
        (BOX, box(3), spaces.Box(0, 9, (2,), np.int64), "takes actions of type int64, expected fl"),
        (BOX, box(3), box(3), r"takes Box\(3,\) actions, dataset mine.npz has \(2,\)"),
        (BOX, box(3), spaces.Box(-1, 1, (1, 2)), r"flatten them to \(2,\)"),
        (
            BOX,
            box(3),
            spaces.Box(np.float32([-1, -0.4]), np.float32([1, 0.4])),
            r"takes actions of \[-0.4, 0.4\] in column 1, dataset mine.npz has \[-1, 1\]",
        ),
    ],
)
def test_the_first_thing_that_does_not_fit_is_named(
    layout: ObservationLayout, observations: spaces.Space, actions: spaces.Space, message: str
) -> None:
    with pytest.raises(DiffplanError, match=message) as caught:
        check_spaces(layout, info(), observations, actions)
    assert str(caught.value).startswith("environment Mine-v0 ")
    assert "\n" not in str(caught.value)


def test_an_environment_is_made_for_its_spaces_and_time_limit() -> None:
    with pytest.raises(DiffplanError, match=r"Hopper-v5 gives Box\(11,\) observations"):
        check_environment(BOX, info(env_id="Hopper-v5"))
    three = DatasetInfo("x", "arrays", "Hopper-v5", {}, (-1.0,) * 3, (1.0,) * 3, {})
    assert (
        check_environment(ObservationLayout(11), three) == gym.spec("Hopper-v5").max_episode_steps
    )


class _Elsewhere(gym.Env):
    """A goal dict whose achieved goal stands in columns 2 and 3 of the observation."""

    observation_space = goal_dict()
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation = np.array([5.0, 6.0, 0.25, -0.5])
        goal = np.zeros(2)
        parts = {"achieved_goal": observation[2:], "desired_goal": goal}
        return {"observation": observation, **parts}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], 0.0, False, False, {}


def test_the_achieved_goal_stands_where_the_data_say() -> None:
    def layout(*columns: int) -> ObservationLayout:
        return ObservationLayout(4, 2, columns, (), ("observation",))

    check_environment(layout(2, 3), info(), _Elsewhere())
    with pytest.raises(
        DiffplanError, match=r"achieved_goal \[0\.25, -0\.5\], but columns \[0, 1\]"
    ):
        check_environment(layout(0, 1), info(), _Elsewhere())
