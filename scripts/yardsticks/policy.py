"""Training model-free methods on datasets, and their actors as policies for rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
from diffplan.scripts.yardsticks.methods import METHODS
from diffplan.scripts.yardsticks.networks import Ensemble
from diffplan.scripts.yardsticks.replay import Replay, Steps
from diffplan.scripts.yardsticks.settings import Settings
from diffplan.training.graph import CapturedUpdate

BLOCK = 50
"""Updates that a GPU does at a call."""
_TOGETHER = 10  # calls after which all learners wait for each other, so that progress is told


@dataclass
class ActorPolicy:
    """The actor of one training for batches of environments, on the CPU; it keeps no state.

    mean, deviation: of observations. centre, half: of actions.
    """

    actor: Ensemble
    layout: ObservationLayout
    mean: Tensor
    deviation: Tensor
    centre: Tensor
    half: Tensor

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Observations (array [B, D] or dict) to actions [B, A] in environment units."""
        states, goals = self.layout.split(observation)
        given = [torch.from_numpy(each) for each in (states, goals) if each is not None]
        observed = (torch.cat(given, 1) - self.mean) / self.deviation
        action = self.centre + self.half * torch.tanh(self.actor(observed[None])[0, 0])
        return action.numpy(), None


class Training(NamedTuple):
    """A method on a dataset with a training seed."""

    settings: Settings
    episodes: Episodes
    seed: int


class Learner:
    """Trainings of one method at once, which have the same shapes.

    On a GPU `BLOCK` updates are one CUDA graph, in a stream of its own.
    """

    def __init__(
        self, trainings: Sequence[Training], updates: int, device: torch.device | str = "cpu"
    ) -> None:
        self.done, self.batch = 0, trainings[0].settings.batch
        self.replays = [_replay(*each, device) for each in trainings]
        width, actions = len(self.replays[0].mean), len(self.replays[0].centre)
        settings, seeds = [each.settings for each in trainings], [each.seed for each in trainings]
        kind = METHODS[settings[0].method]
        self.method = kind(settings, width, actions, updates, seeds, device)
        self.stream: torch.cuda.Stream | None = None
        if self.method.device.type == "cuda":
            self.stream = torch.cuda.Stream(device)
            own = [replay.generator for replay in self.replays]
            self._captured = CapturedUpdate(self._block, own, self.method.device)
            # what it begins with is being made there
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def update(self) -> None:
        """One update; on a GPU, which is not waited for, `BLOCK` of them."""
        if self.stream is None:
            self.method.update(self._draw(1)[0])
            self.done += 1
            return
        with torch.cuda.stream(self.stream):
            self._captured()
        self.done += BLOCK

    def _draw(self, count: int) -> list[Steps]:
        """Batches for so many updates."""
        drawn = [replay.draw(count * self.batch) for replay in self.replays]
        parts = [
            torch.stack([getattr(each, part.name) for each in drawn]).split(self.batch, 1)
            for part in fields(Steps)
        ]
        return [Steps(*each) for each in zip(*parts, strict=True)]

    def _block(self) -> Tensor:
        for steps in self._draw(BLOCK):
            self.method.update(steps)
        return self.method.actor.biases[-1]

    def policies(self) -> list[ActorPolicy]:
        """The actors of the moment, copied, one for each training."""
        if self.stream is not None:
            self.stream.synchronize()
        return [
            ActorPolicy(
                self.method.actor.alone(place),
                replay.layout,
                *(t.cpu() for t in (replay.mean, replay.deviation, replay.centre, replay.half)),
            )
            for place, replay in enumerate(self.replays)
        ]


def _replay(
    settings: Settings, episodes: Episodes, seed: int, device: torch.device | str
) -> Replay:
    return Replay(
        episodes,
        seed,
        device=device,
        discount=settings.discount,
        best=settings.best,
        spread=settings.spread,
        normalise=settings.normalise,
        goals="future" if settings.method == "cloning" else "mixed",
    )


def train(
    learners: Sequence[Learner], marks: Sequence[Sequence[int]], description: str = ""
) -> Iterator[tuple[int, int, list[ActorPolicy]]]:
    """Learn up to the last of each one's marks, one update of each after the other.

    At each of its marks a learner's place, its updates and its policies are yielded. On a GPU
    marks are multiples of `BLOCK`, and the learners' updates run beside each other.
    """
    step = 1 if all(each.stream is None for each in learners) else BLOCK
    last = max(mark for each in marks for mark in each)
    products = torch.get_float32_matmul_precision()
    if step > 1:
        torch.set_float32_matmul_precision("high")  # TF32, as planners are trained
    try:
        with tqdm(total=last, desc=description, unit=" updates", leave=False) as progress:
            while progress.n < last:
                progress.update(step)
                for place, (learner, own) in enumerate(zip(learners, marks, strict=True)):
                    if learner.done < own[-1]:
                        learner.update()
                        if learner.done in own:
                            yield place, learner.done, learner.policies()
                if step > 1 and progress.n % (step * _TOGETHER) == 0:
                    torch.cuda.synchronize()
    finally:
        torch.set_float32_matmul_precision(products)
