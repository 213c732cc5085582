"""Returns of a dataset's episodes, as the evaluation environment would have counted them."""

from __future__ import annotations

import numpy as np

from diffplan.data.episodes import Episodes

# details["rewards_are"] of data whose rewards are not those of the environment.
TASKS_SO_FAR = "the number of tasks completed so far, at every step"
_KITCHEN_TASKS = 4


def are_tasks_so_far(rewards: np.ndarray, step_starts: np.ndarray) -> bool:
    """Whether a kitchen's rewards [N] say at every step how many tasks are completed by then.

    D4RL's kitchen files do; its environment pays each of the four tasks once, in the step that
    completes it, so that no episode can then add up to more.
    """
    starts = step_starts[:-1]
    sums = np.add.reduceat(rewards.astype(np.float64), starts) if len(starts) else np.zeros(1)
    return bool((sums > _KITCHEN_TASKS).any())


def comparable_returns(episodes: Episodes) -> np.ndarray:
    """Return of each episode, [E] float64, to set beside those of evaluated episodes.

    The sum of its rewards, or where these count the tasks completed so far, the largest of them:
    what the environment pays for the same episode.
    """
    if episodes.info.details.get("rewards_are") != TASKS_SO_FAR:
        return episodes.returns
    # an empty episode has no first step for reduceat
    returns, filled = np.zeros(episodes.num_episodes), episodes.lengths > 0
    starts = episodes.step_starts[:-1][filled]
    if len(starts):
        returns[filled] = np.maximum.reduceat(episodes.rewards.astype(np.float64), starts)
    return returns
