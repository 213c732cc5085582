"""Training windows: where they start, where they end, which goal and return they carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffplan.config.config import Config, settled
from diffplan.data import drawing as constants
from diffplan.data.batches import Acted, Step, Transitions, Valued, Windows
from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.goals import Goals
from diffplan.data.info import DatasetInfo
from diffplan.data.landmarks import LandmarkGraph
from diffplan.data.leaps import cut_at_leaps
from diffplan.data.parts import held_out, of_tasks, split
from diffplan.data.placement import fits
from diffplan.data.returns import penalised, returns_to_go
from diffplan.data.rows import PerEpisode, StepOf, Table
from diffplan.data.targets import Sample, TargetTable
from diffplan.data.things import Things, things
from diffplan.errors import DiffplanError

_GOOD = 0.9  # quantile of the returns at a step from which on they all count as good
_SAMPLE = 1_000_000  # states behind the target returns
_DRAWN = 100_000  # windows behind the return that training shows
_GOALS = 8192  # states and goals behind them


class WindowSampler:
    """Draws windows, transitions and valued states; every draw comes from the given generator.

    Returns-to-go. With rewards: R_t = sum_k discount^k r_{t+k} to the episode's end; where a time
    limit ended it, the episode's mean reward goes on forever (discount < 1). With goals they, the
    goals and the windows' weights are those of `Goals`.

    Without goals, `best_of_windows` starts are drawn for each window and for each action of the
    inverse dynamics, and one is kept by softmax of min(A, 0) / return_temperature with

        A = (R_t - q(t)) / std(R),    q(t) the 90 % quantile of the returns at step t,

    so that what the better episodes did is learned best, at every step of an episode (as by
    cloning the best episodes alone, Chen et al. 2021, arXiv 2106.01345, section 5.1, but softly).

    Several tasks (`Episodes.tasks`). Each is drawn equally often, whatever its share of the data;
    goals, candidates and landmarks are of the window's own task. Episodes are held out in each
    task. The quantiles of the returns are those of all tasks together.

    With stitched goals an episode ends where it leaps by chance (`leaps`): nothing leads there.

    After the goal is reached the window stays at the goal's state with zero velocity: data that
    move on at once never show how to stay.

    Memory. Memory-mapped episodes stay on disk but for the pages that are drawn from; tables take
    a few numbers per episode, and per state 8 bytes, with arrivals 16, with landmarks 32. Where
    they fit, `to` moves data and tables to a GPU; from then on batches are drawn there, by a
    generator of that device, in fixed shapes and without waiting for it.
    """

    def __init__(
        self, episodes: Episodes, config: Config, *, seed: int, drawing: Drawing | None = None
    ) -> None:
        """Prepare the index tables. DiffplanError if all episodes, or all of a task, are too short.

        drawing: constants in place of `DRAWING`, for tests.
        """
        drawing = drawing or constants.DRAWING
        config = settled(config, bool(episodes.layout.goal_dim), len(episodes.info.tasks))
        self.config, self.drawing = config, drawing
        self.layout = episodes.layout
        self.span = config.plan.horizon * config.plan.stride
        starts = torch.from_numpy(np.asarray(episodes.state_starts))
        counts = starts[1:] - starts[:-1]
        self._check_longest(counts, episodes.info.id)
        self.step_of = StepOf(starts, torch.from_numpy(np.asarray(episodes.step_starts)))
        self.tasks = None if episodes.tasks is None else torch.from_numpy(episodes.tasks)
        self.whole_states = self.states = torch.from_numpy(episodes.states)
        self.goal_columns, self.rest_columns = self.layout.goal_columns, self.layout.rest_columns
        if config.plan.columns == "goal":
            self._reduce(episodes.info)
        held = held_out(
            counts, self.tasks, drawing.held_out, config.plan.stride, seed, episodes.info
        )
        self.has_goals = bool(self.goal_columns)
        if self.has_goals and config.data.relabel == "stitched":
            goals = self.states[:, list(self.goal_columns)]
            pieces, episode, leapt = cut_at_leaps(goals, starts, self.tasks)
            del goals
            if leapt.any():
                starts, counts, held = pieces, pieces.diff(), held[episode]
                leaping = f"{episodes.info.id}, cut where it leaps by chance,"
                self._check_longest(counts[~held], leaping)
                self.tasks = None if self.tasks is None else self.tasks[episode]
        self.actions = torch.from_numpy(episodes.actions)
        low, high = episodes.info.action_low, episodes.info.action_high
        self._goal_index = torch.tensor(self.goal_columns, dtype=torch.long)
        self._rest_index = torch.tensor(self.rest_columns, dtype=torch.long)
        self.rest = (torch.tensor(low) + torch.tensor(high)) / 2
        penalty = 0.0 if self.goal_columns else config.data.termination_penalty
        self.rewards = torch.from_numpy(np.asarray(penalised(episodes, penalty)))
        self.ended = torch.from_numpy(np.asarray(episodes.terminations))
        self.first = PerEpisode(starts, starts[:-1])
        self.last = PerEpisode(starts, starts[1:] - 1)
        self.returns = None
        if not self.has_goals:
            self.returns = returns_to_go(episodes, config.data.discount, penalty)
        self.task_of = None if self.tasks is None else PerEpisode(starts, self.tasks)
        self.parts = split(starts, counts, held, self.tasks, config.plan.stride)
        self.preference: Tensor | None = None
        if self.returns is not None and config.data.best_of_windows > 1:
            self.preference = self._preference(self.returns, self.returns_by_step(seed))
        self.goals: Goals | None = None
        self.things: Things | None = None
        if self.has_goals:
            where = self.last, self.task_of, self.parts
            self.goals = Goals(config, drawing, *where)
            if config.data.relabel == "stitched":
                groups, columns = of_tasks(self.tasks, len(counts)), list(self.goal_columns)
                self.goals.stitch(self.states, columns, starts, groups, held, leapt, seed)
            if config.data.relabel == "arrivals":
                columns = list(self.goal_columns)
                self.goals.arrive(self.states, columns, starts)
                self.things = things(self.states, columns, starts)

    def _check_longest(self, counts: Tensor, data: str) -> None:
        """counts: states of the episodes. data: what they are called."""
        longest, plan = int(counts.max()) - 1, self.config.plan
        if longest < self.span:
            raise DiffplanError(
                f"a plan spans {self.span} steps (horizon {plan.horizon} x stride "
                f"{plan.stride}) but the longest episode of {data} has "
                f"{longest}; lower --plan.horizon or --plan.stride"
            )

    def _reduce(self, info: DatasetInfo) -> None:
        """Keep of the states, but for acting, only the columns of the goal."""
        if not self.goal_columns or len(info.tasks) > 1:
            raise DiffplanError(
                f"plan.columns is 'goal', but {info.id} has "
                f"{'several tasks' if self.goal_columns else 'no goal'}; expected 'all'"
            )
        self.states = self.states[:, list(self.goal_columns)]
        kept = {column: place for place, column in enumerate(self.goal_columns)}
        self.rest_columns = tuple(kept[column] for column in self.rest_columns if column in kept)
        self.goal_columns = tuple(range(len(self.goal_columns)))

    @property
    def graph(self) -> LandmarkGraph | None:
        """Landmarks and the ways between them, of data of one task with stitched goals."""
        several = self.tasks is not None and len(self.tasks.unique()) > 1
        if self.goals is None or self.goals.between is None or several:
            return None
        return self.goals.between.graph

    @property
    def landmarks(self) -> int:
        """Nodes of the graph, 0 without one."""
        return 0 if self.graph is None else len(self.graph.centres)

    def _preference(self, returns: Tensor, sample: Sample) -> Tensor:
        """min(A, 0) / return_temperature of every state, see the class."""
        table = TargetTable()
        table.fit(sample)
        std = sample.returns.std()
        # alike, all count as good; else their unit must not matter
        std = std if std > 0 else torch.ones_like(std)
        result = torch.empty(len(returns))
        for first in range(0, len(returns), _SAMPLE):
            index = torch.arange(first, min(first + _SAMPLE, len(returns)))
            wanted = table(_GOOD, index - self.first[index])
            shortfall = ((returns[index] - wanted) / std).clamp(max=0)
            result[index] = shortfall / self.drawing.return_temperature
        return result

    def to(self, device: torch.device) -> WindowSampler:
        """Draw on the device, if all there is to draw from fits beside the training; returns self.

        Else it stays on the host, and so do the batches.
        """
        if device == self.device or not fits(self.nbytes, device):
            return self
        same = self.states is self.whole_states
        for name, value in vars(self).items():
            if isinstance(value, Tensor | Table):
                setattr(self, name, value.to(device))
        if same:
            self.states = self.whole_states
        for part in self.parts.values():
            part.to(device)
        if self.goals is not None:
            self.goals.to(device, self.states)
        return self

    @property
    def device(self) -> torch.device:
        """Where batches are drawn."""
        return self.states.device

    @property
    def nbytes(self) -> int:
        """Of data and tables."""
        own = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(t.nbytes for t in own) + (0 if self.goals is None else self.goals.nbytes)

    def _starts(self, batch: int, generator: torch.Generator, part: str) -> Tensor:
        table = self.parts[part]
        return table.draw((batch,), generator, table.draw_tasks((batch,), generator))

    def _good_starts(self, batch: int, generator: torch.Generator, part: str) -> Tensor:
        """Starts in training of good returns rather than bad ones, see the class; else as any."""
        if self.preference is None or part != "train":
            return self._starts(batch, generator, part)
        table, shape = self.parts["train"], (batch, self.config.data.best_of_windows)
        candidates = table.draw(shape, generator, table.draw_tasks((batch, 1), generator))
        # one number a row: as many Gumbels as candidates take longer than all the rest
        reached = self.preference[candidates].softmax(1).cumsum(1)
        drawn = torch.rand(batch, 1, generator=generator, device=self.device)
        pick = (reached < drawn).sum(1).clamp(max=shape[1] - 1)
        return candidates[torch.arange(batch, device=self.device), pick]

    def _task(self, state: Tensor) -> Tensor | None:
        """The task [B] that states [B] are of; None without tasks."""
        return None if self.task_of is None else self.task_of[state]

    def _told(self, state: Tensor, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        """The task of states [B] and, where networks are told by it, a prompt [B, P, D]."""
        task = self._task(state)
        if task is None or self.config.data.tasks != "prompt":
            return task, None
        return task, self.prompts(task, self.drawing.prompt, generator)

    def sample(
        self, batch: int, generator: torch.Generator, part: str = "train", acted: bool = False
    ) -> Windows:
        """Draw a batch of windows from the training or the held-out episodes.

        acted: with an action of each.
        """
        plan = self.config.plan
        start = self._good_starts(batch, generator, part)
        # rows past the end repeat the last state, and are masked
        last = self.last[start]
        elapsed = plan.stride * torch.arange(plan.horizon + 1, device=self.device)
        ahead = start[:, None] + elapsed
        inside = ahead <= last[:, None]
        ahead = torch.minimum(ahead, last[:, None])
        if self.goals is None:
            assert self.returns is not None
            returns = self.returns[ahead] * inside
            states = self.states[ahead]
            step = self._acted(start, last, generator) if acted else None
            mask, acts = inside[:, 1:].float(), self._actions(start, last)
            rewards = self._rewards(start, last) if self.config.has_head("rewards") else None
            weight = torch.ones(batch, device=self.device)
            told = self._told(start, generator)
            return Windows(states, mask, None, returns, weight, step, rewards, *told, **acts)

        aims = self.goals.aim(start, generator)
        goal, own = aims.goal, aims.own
        # a window with a goal of its own episode stays there once it has come
        reached = own[:, None] & (start[:, None] + elapsed >= goal[:, None])
        states = self.states[torch.where(reached, goal[:, None], ahead)]
        # at rest: velocities are zero, whatever they were on arrival
        resting, rest = reached[..., None], self._rest_index
        states[..., rest] = states[..., rest].masked_fill(resting, 0)
        returns = self.goals.returns((aims.steps[:, None] - elapsed).clamp(min=0))
        # resting at the goal is something to learn; elsewhere, or past an episode's end, nothing is
        moving = inside & (elapsed <= aims.until[:, None])
        mask = (moving | reached)[:, 1:].float()
        goals = self.states[goal][:, self._goal_index]
        # past its own goal a window rests, which no action of the data shows
        until = torch.where(own, goal, last)
        step = self._acted(start, until, generator) if acted else None
        rewards = reached[:, 1:].float() if self.config.has_head("rewards") else None
        acts, told = self._actions(start, until), self._told(start, generator)
        return Windows(states, mask, goals, returns, aims.weight, step, rewards, *told, **acts)

    def _acted(self, start: Tensor, until: Tensor, generator: torch.Generator) -> Acted:
        """An action in the first stride of windows from `start` [B], if before `until` [B]."""
        stride, ahead = self.config.plan.stride, self.config.heads.lookahead
        # at execution an action is asked for at every step of a stride
        offset = torch.randint(0, stride, (len(start),), generator=generator, device=self.device)
        at = torch.minimum(start + offset, until)
        return Acted(
            self.whole_states[at],
            (ahead * stride - offset).float(),
            self.actions[self.step_of[at]],
            (at < until).float(),
        )

    def _actions(self, start: Tensor, until: Tensor) -> dict[str, Tensor]:
        """What windows from `start` [B] hold of their actions, by field.

        Actions are the middle of the bounds from `until` [B] on.
        """
        plan = self.config.plan
        if not self.config.learns_actions:
            return {}
        at = start[:, None] + torch.arange(plan.horizon * plan.stride, device=self.device)
        # the step at a state leads to the next one, so the last state has none
        known = at < until[:, None]
        at = torch.minimum(at, until[:, None])
        actions = self.actions[self.step_of[at]]
        actions = torch.where(known[..., None], actions, self.rest)
        by_row = plan.horizon, plan.stride
        found = {
            "actions": actions.unflatten(1, by_row),
            "acting": known.unflatten(1, by_row).all(-1).float(),
        }
        if self.config.has_head("actions"):
            found["between"] = self.states[at].unflatten(1, by_row)
        return found

    def _rewards(self, start: Tensor, last: Tensor) -> Tensor:
        """Mean rewards [B, H] on the way to each state from `start` [B]; 0 past the end."""
        plan = self.config.plan
        at = start[:, None] + torch.arange(plan.horizon * plan.stride, device=self.device)
        rewards = self.rewards[self.step_of[torch.minimum(at, last[:, None])]]
        return (rewards * (at < last[:, None])).unflatten(1, (plan.horizon, plan.stride)).mean(-1)

    def transitions(self, batch: int, generator: torch.Generator) -> Transitions:
        """Draw state pairs at most `lookahead` strides apart with the action taken at the first."""
        start = self._good_starts(batch, generator, "train")
        # every lag that is asked for on the way, to the end of a plan too
        longest = self.config.heads.lookahead * self.config.plan.stride
        lag = torch.randint(1, longest + 1, (batch,), generator=generator, device=self.device)
        lag = torch.minimum(lag, self.last[start] - start)
        return Transitions(
            self.whole_states[start],
            self.states[start + lag],
            lag.float(),
            self.actions[self.step_of[start]],
        )

    def valued(self, batch: int, generator: torch.Generator) -> Valued:
        """Draw states with their return-to-go (and goal, half of them near).

        Also the last states of episodes, which have no action (theirs is the last one taken):
        plans end there too.
        """
        heads = self.config.heads
        bootstrapped = heads.value == "bootstrapped"
        # an action, or a next state, is needed: last states have neither
        part = "train" if heads.value in ("bootstrapped", "critic") else "valued"
        start = self._starts(batch, generator, part)
        actions = self.actions[self.step_of[start]]
        if self.goals is None:
            assert self.returns is not None
            returns = self.returns[start]
            step = self._step(start) if bootstrapped else None
            told = self._told(start, generator)
            return Valued(self.states[start], None, actions, returns, step, *told)
        goal, steps = self.goals.near_and_far(start, generator)
        goals = self.states[goal][:, self._goal_index]
        step = self._step(start, goal) if bootstrapped else None
        returns = self.goals.returns(steps)
        told = self._told(start, generator)
        return Valued(self.states[start], goals, actions, returns, step, *told)

    def prompts(self, task: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """Demonstrations of tasks [B]: states [B, length, D] of a training episode of each.

        Evenly spaced from its first to its last state; every training episode of a task is as
        likely as any other, also the one that a window is from. Raises DiffplanError without tasks.
        """
        if self.tasks is None:
            raise DiffplanError("prompts show a task, and these data have none; see combine")
        first = self.parts["starts"].draw((len(task),), generator, task)
        # from the first to the last state, both included
        share = torch.linspace(0, 1, length, device=self.device)
        steps = (self.last[first] - first)[:, None] * share
        return self.states[first[:, None] + steps.round().long()]

    def _step(self, start: Tensor, goal: Tensor | None = None) -> Step:
        """What follows states `start` [B], on the way to states `goal` [B] if given."""
        ahead = self.states[start + 1]
        # rewards of the data; with a goal they are those of `Goals`
        if goal is None or self.goals is None:
            taken = self.step_of[start]
            return Step(ahead, self.rewards[taken], self.ended[taken].float())
        reached = goal == start
        there = self.goals.returns(torch.zeros(len(start), device=self.device))
        # the rewards of `Goals`: 0, or -1 a step undiscounted
        on_the_way = there * 0 - float(self.config.data.discount == 1)
        return Step(ahead, torch.where(reached, there, on_the_way), reached.float())

    def returns_by_step(self, seed: int) -> Sample:
        """Returns-to-go of training states with their steps: all, or a seeded draw of a million.

        With goals, of states and goals as the value is trained on; with tasks as they are drawn.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.returns is None:
            returns = self.valued(_GOALS, generator).returns
            return Sample(returns, torch.zeros(len(returns), dtype=torch.long))
        part = self.parts["train"]
        # tasks are drawn alike, however many states each has
        drawn = len(part) > _SAMPLE or self.tasks is not None
        count = min(len(part), _SAMPLE)
        index = self._starts(count, generator, "train") if drawn else part.tensor()
        return Sample(self.returns[index], index - self.first[index])

    def returns_drawn(self, seed: int) -> Sample | None:
        """Returns-to-go of a seeded draw of training windows with their steps; None: as of all."""
        if self.returns is None or self.preference is None:
            return None
        index = self._good_starts(_DRAWN, torch.Generator().manual_seed(seed), "train")
        return Sample(self.returns[index], index - self.first[index])
