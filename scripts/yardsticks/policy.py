"""Training a model-free method on a dataset, and its actor as a policy for rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.scripts.yardsticks.methods import METHODS, Cloning
from diffplan.scripts.yardsticks.replay import Replay
from diffplan.scripts.yardsticks.settings import Settings


class ActorPolicy:
    """The actor of a method for batches of environments; it keeps no state."""

    def __init__(self, method: Cloning, replay: Replay) -> None:
        self.method, self.replay = method, replay

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Observations (array [B, D] or dict) to actions [B, A] in environment units."""
        replay = self.replay
        states, goals = replay.layout.split(observation)
        observed = replay.observe(
            torch.from_numpy(states), None if goals is None else torch.from_numpy(goals)
        )
        action = replay.centre + replay.half * self.method.act(observed)
        return action.numpy(), None


def train(
    settings: Settings, episodes: Episodes, seed: int, marks: Sequence[int], description: str = ""
) -> Iterator[tuple[int, ActorPolicy]]:
    """Learn up to the last of the marks; at each of them, the updates so far and the policy.

    The policy is that of the moment: use it before going on.
    """
    replay = Replay(
        episodes,
        seed,
        discount=settings.discount,
        best=settings.best,
        spread=settings.spread,
        normalise=settings.normalise,
        goals="future" if settings.method == "cloning" else "mixed",
    )
    width, actions = len(replay.mean), len(replay.centre)
    method = METHODS[settings.method](settings, width, actions, marks[-1], seed)
    policy = ActorPolicy(method, replay)
    updates = range(1, marks[-1] + 1)
    for update in tqdm(updates, desc=description, unit=" updates", leave=False):
        method.update(replay.draw(settings.batch))
        if update in marks:
            yield update, policy
