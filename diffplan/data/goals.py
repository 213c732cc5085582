"""Which goal a window has, how far it is, and what the window then weighs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffplan.config.config import Config
from diffplan.data.arrivals import arrivals
from diffplan.data.drawing import Drawing
from diffplan.data.landmarks import StepsBetween
from diffplan.data.rows import PerEpisode, Rows, TaskRows

_CALIBRATION = 8192  # draws that place the zero of the advantage
_NO_PATH = 1e8  # steps, see LandmarkGraph


@dataclass(frozen=True)
class Aims:
    """Goals of windows.

    goal: [B] states whose goal columns they are. own: [B] bool, of the window's own episode.
    steps: [B] how far they are from the start. weight: [B] of the window, in [0, 1].
    until: [B] steps from which on the window rests elsewhere, of which nothing is learned.
    """

    goal: Tensor
    own: Tensor
    steps: Tensor
    weight: Tensor
    until: Tensor


class Goals:
    """Draws goals for states; every draw comes from the given generator.

    Its constants are those of `Drawing`.

    hindsight: a state reached later in the episode. arrivals: one in which what the goal is
    about has come to rest, see `arrivals`. stitched: with probability
    1 - hindsight_share a state of any training episode, the steps to it taken from the landmark
    graph, which is fitted to the training episodes alone; among `goal_candidates` one is drawn by
    softmax of the advantage (where plans aim at subgoals, these and those of hindsight lie
    `goal_reach` times as far off at most)

        A = steps(s_t, g) - n - steps(s_{t+n}, g) - A0,    n the steps in the window,

    and the window weighs exp(min(A, 0) / temperature): detours teach little. A0 places the zero
    at the upper quartile of the data's own advantages. Data that have come to rest lose nothing:
    n counts the steps until the window stays where it ends. One that never moves teaches to stay at
    a goal, and nothing about goals elsewhere.

    Rewards are 1 while the goal is held, times (1 - discount): R = discount^(steps to goal);
    undiscounted they are -1 a step: R = -(steps to goal).
    """

    def __init__(
        self,
        config: Config,
        drawing: Drawing,
        last: PerEpisode,
        task_of: PerEpisode | None,
        parts: dict[str, TaskRows],
    ) -> None:
        """last: last state of each episode. task_of: its task.

        parts: states to draw from, as of `WindowSampler`.
        """
        self.config, self.drawing = config.data, drawing
        # a body that is walked needs room: ways along the edge of what was visited lead by walls
        self.centred = config.plan.columns == "goal"
        self.stride = config.plan.stride
        self.span = config.plan.horizon * self.stride
        aimed = config.planning.subgoal_steps if config.data.relabel == "stitched" else 0
        self.reach = math.ceil(drawing.goal_reach * aimed) if aimed else None
        self._last, self._task_of, self._parts = last, task_of, parts
        self.offset = 0.0
        self.between: StepsBetween | None = None
        self.arrivals: Tensor | None = None

    def arrive(self, states: Tensor, columns: list[int], starts: Tensor) -> None:
        """Look up where goals are arrived at; arguments as of `stitch`."""
        self.arrivals = arrivals(states, columns, starts)

    def stitch(
        self,
        states: Tensor,
        columns: list[int],
        starts: Tensor,
        groups: Iterable[Tensor],
        held: Tensor,
        leapt: Tensor,
        seed: int,
    ) -> None:
        """Fit the landmark graph, and the zero of the advantage.

        states: [N, D], of which `columns` hold the achieved goal. starts: [E+1] offsets of the
        episodes. groups: the episodes of each task. held: [E] bool, held out. leapt: [E] bool, cut
        where they leap.
        """
        counts = starts[1:] - starts[:-1]
        self.between = StepsBetween(states, columns)
        # held-out episodes are located in the graph, but no path runs through them
        for own in groups:
            seen = own[~held[own]]
            known = Rows(starts[seen], counts[seen])
            offsets = nn.functional.pad(counts[seen].cumsum(0), (1, 0))
            every = Rows(starts[own], counts[own])
            count = self.drawing.landmarks
            self.between.add(known, offsets, every, count, seed, self.centred, leapt[seen])
        if self.reach is not None:
            self.between.index(self._parts["valued"].tensor())
        generator = torch.Generator().manual_seed(seed)
        train = self._parts["train"]
        start = train.draw((_CALIBRATION,), generator, train.draw_tasks((_CALIBRATION,), generator))
        advantage = self._pick(start, self.between, generator)[1]
        # pairs without a path say nothing about what is usual
        reached = advantage[advantage > -_NO_PATH]
        self.offset = float(reached.quantile(0.75)) if len(reached) else 0.0

    def aim(self, start: Tensor, generator: torch.Generator) -> Aims:
        """Goals of windows from states `start` [B]."""
        drawing, last = self.drawing, self._ends(start)
        # uniform over the states still to come in the episode, or where something arrives
        if self.arrivals is None:
            later = start + 1 + (_rand(start, generator) * (last - start)).long()
            goal = torch.minimum(later, last)
        else:
            goal = self.arrivals[start]
        # as many steps as the episode took
        to_goal = (goal - start).float()
        weight = torch.ones(len(start), device=start.device)
        # without a graph every goal is of the own episode
        own = torch.ones_like(start, dtype=torch.bool)
        until = torch.full_like(start, self.span)
        if self.between is not None:
            # drawn for every row, so that the draws do not depend on the coin
            other, *of_other = self._pick(start, self.between, generator)
            own = _rand(start, generator) < drawing.hindsight_share
            # the window may end before its goal; from there on the graph knows the way
            end = torch.minimum(goal, start + self.span)
            here, there = self.between(torch.stack([start, end]), goal)
            there = there * (end < goal)
            moved = self.between.come_to_rest(start, end, self.stride, self.span)
            # it has come when it comes to rest there, however long the data then wait
            goal = torch.where(there <= self.stride, start + moved, goal)
            of_own = self._advantage(here, moved, there), there, moved
            advantage, rest, moved = (
                torch.where(own, a, b) for a, b in zip(of_own, of_other, strict=True)
            )
            weight = (advantage.clamp(max=0) / drawing.advantage_temperature).exp()
            # to another episode's goal: the window as it is driven, then the shortest way
            to_goal = torch.where(own, (goal - start).float(), moved + rest)
            goal = torch.where(own, goal, other)
            until = torch.where(rest <= self.stride, self.span, moved)
        return Aims(goal, own, to_goal, weight, until)

    def near_and_far(self, start: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Goals for values of states `start` [B], half of them near: states [B], steps [B]."""
        last = self._ends(start)
        later = (_rand(start, generator) * (last - start + 1)).long()
        goal = torch.minimum(start + later, last)
        steps = (goal - start).float()
        if self.between is not None:
            other = self._anywhere(start, 1, generator)[:, 0]
            own = _rand(start, generator) < 0.5
            goal = torch.where(own, goal, other)
            found = self.between(start, goal)
            # the graph may know a shorter way than the episode took
            steps = torch.where(own, torch.minimum(steps, found), found)
        return goal, steps

    def _pick(
        self, start: Tensor, between: StepsBetween, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A goal state of the same task in training per start [B].

        Index [B], its advantage [B], the steps [B] to it from where the window ends, and those
        [B] that the window moves for.
        """
        drawing = self.drawing
        candidates = self._anywhere(start, drawing.goal_candidates, generator)
        end = torch.minimum(self._last[start], start + self.span)
        here, there = between(torch.stack([start, end])[..., None], candidates)
        moved = between.come_to_rest(start, end, self.stride, self.span)
        advantage = self._advantage(here, moved[:, None], there)
        # argmax with Gumbel noise is a draw by softmax
        drawn = torch.empty(candidates.shape, device=start.device)
        gumbel = -drawn.exponential_(generator=generator).log()
        pick = (advantage.clamp(max=0) / drawing.advantage_temperature + gumbel).argmax(1)
        row = torch.arange(len(start), device=start.device)
        return candidates[row, pick], advantage[row, pick], there[row, pick], moved

    def _advantage(self, here: Tensor, moved: Tensor, there: Tensor) -> Tensor:
        """A of windows that move for so many steps."""
        # a goal out of reach, or one that the window does not set out for
        nothing = (here >= _NO_PATH) | ((there > self.stride) & (moved == 0))
        return torch.where(nothing, -2 * _NO_PATH, here - moved - there - self.offset)

    def _ends(self, start: Tensor) -> Tensor:
        """The last states that can be goals of hindsight for states `start` [B]."""
        last = self._last[start]
        return last if self.reach is None else torch.minimum(last, start + self.reach)

    def _anywhere(self, start: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """States [B, count] of training episodes of the same task, within reach."""
        if self.reach is not None and self.between is not None:
            return self.between.within(start, self.reach, count, generator)
        task = None if self._task_of is None else self._task_of[start[:, None]]
        return self._parts["valued"].draw((len(start), count), generator, task)

    def to(self, device: torch.device, states: Tensor) -> None:
        """Answer for indices on the device from here on. states: those of `stitch`, there."""
        if self.between is not None:
            self.between.to(device, states)
        if self.arrivals is not None:
            self.arrivals = self.arrivals.to(device)

    @property
    def nbytes(self) -> int:
        """Of tables."""
        tables = 0 if self.arrivals is None else self.arrivals.nbytes
        return tables + (0 if self.between is None else self.between.nbytes)

    def returns(self, steps: Tensor) -> Tensor:
        """Return-to-go of a goal that is `steps` away."""
        discount = self.config.discount
        return discount**steps if discount < 1 else -steps


def _rand(like: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform number for each row of a tensor, where it lies."""
    return torch.rand(len(like), generator=generator, device=like.device)
