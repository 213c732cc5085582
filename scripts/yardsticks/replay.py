"""What model-free methods learn from: single steps of a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError

_OTHER_GOALS = 0.3  # share of goals out of all data, as OGBench's value goals
_EPSILON = 1e-3  # beside standard deviations: TD3+BC


@dataclass(frozen=True)
class Steps:
    """A batch of steps, observations normalised, actions in [-1, 1].

    observation, following: [B, D + G]. action, next_action: [B, A]. reward: [B]. goes_on: [B] 1
    where values are bootstrapped, 0 after a termination. has_next: [B] 1 where the data hold the
    next step's action. noise: [B, A] standard normal. Of S trainings all begin with S.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    next_action: Tensor
    goes_on: Tensor
    has_next: Tensor
    noise: Tensor


class Replay:
    """Draws steps of a dataset, every draw from a generator of its own.

    Truncated episodes go on: their last step is bootstrapped from the state after it, or left out
    where the data do not hold that. With a goal the observation is state and goal, and goals are
    relabelled: a later state of the episode (`goals` "future": any, uniformly; "mixed": the
    steps to it geometric, and with probability 0.3 a state of all data instead), the
    reward is -1 and the step that arrives at the goal ends it (Andrychowicz et al. 2017; shares
    as in OGBench, Park et al. 2024).

    Args:
        episodes: The data.
        device: Where the data lie and are drawn.
        discount: Of the geometric distribution of goals.
        best: Share of the steps to learn from, in the order of their episodes' returns (Chen et
            al. 2021, section 5.1).
        spread: Scale rewards so that returns span this much (IQL: 1000); None leaves them.
        normalise: Observations to mean 0 and deviation 1.
        goals: See above.

    Raises DiffplanError for goals without known columns.
    """

    def __init__(
        self,
        episodes: Episodes,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        discount: float = 0.99,
        best: float = 1.0,
        spread: float | None = None,
        normalise: bool = True,
        goals: Literal["future", "mixed"] = "mixed",
    ) -> None:
        layout, info = episodes.layout, episodes.info
        if layout.goal_dim and not layout.goal_columns:
            raise DiffplanError(
                f"{info.id} does not say in which columns of the state its goals are reached "
                "(goal_columns), and hindsight goals need them"
            )
        self.generator = torch.Generator(device).manual_seed(seed)
        self.discount, self.future = discount, goals == "future"
        self.layout = layout
        self.states = torch.from_numpy(np.array(episodes.states))
        low, high = np.asarray(info.action_low), np.asarray(info.action_high)
        self.centre = torch.from_numpy((low + high) / 2).float()
        self.half = torch.from_numpy((high - low) / 2).float()
        actions = torch.from_numpy(np.array(episodes.actions))
        self.actions = ((actions - self.centre) / self.half).clamp(-1, 1)
        returns = episodes.returns
        rewards = np.asarray(episodes.rewards, np.float32)
        if spread is not None and returns.max() > returns.min():
            rewards = rewards * np.float32(spread / (returns.max() - returns.min()))
        self.rewards = torch.from_numpy(rewards)
        self._index(episodes, best)
        mean, deviation = self.states.mean(0), self.states.std(0) + _EPSILON
        if not normalise:
            mean, deviation = torch.zeros_like(mean), torch.ones_like(deviation)
        columns = [*range(layout.state_dim), *layout.goal_columns]
        self.mean, self.deviation = mean[columns], deviation[columns]
        self.goal_columns = torch.tensor(layout.goal_columns, dtype=torch.long)
        for name, held in list(vars(self).items()):
            if isinstance(held, Tensor):
                setattr(self, name, held.to(device))

    def _index(self, episodes: Episodes, best: float) -> None:
        """Which steps are drawn, the row of each one's state and the last row of its episode."""
        lengths = episodes.lengths
        episode = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(episodes.num_steps)
        row = step + (episodes.state_starts - episodes.step_starts)[episode]
        last = (episodes.state_starts[1:] - 1)[episode]
        ended = np.asarray(episodes.terminations)
        drawn = (row < last) | ended
        if best < 1:
            order = np.argsort(-episodes.returns, kind="stable")
            before = np.cumsum(lengths[order]) - lengths[order]
            drawn &= np.isin(episode, order[before < best * episodes.num_steps])
        has_next = np.append(episode[1:] == episode[:-1], False)
        self.steps = torch.from_numpy(step[drawn])
        self.row, self.last = torch.from_numpy(row), torch.from_numpy(last)
        self.ended, self.has_next = (
            torch.from_numpy(flags.astype(np.float32)) for flags in (ended, has_next)
        )

    def observe(self, states: Tensor, goals: Tensor | None) -> Tensor:
        """Normalised observations [B, D + G] of states [B, D] and goals [B, G]."""
        joined = states if goals is None else torch.cat([states, goals], 1)
        return (joined - self.mean) / self.deviation

    def draw(self, size: int) -> Steps:
        """Steps drawn uniformly."""
        step = self.steps[self._below(len(self.steps), size)]
        row, last = self.row[step], self.last[step]
        following = torch.minimum(row + 1, last)
        goals, reward, goes_on = None, self.rewards[step], 1 - self.ended[step]
        if self.layout.goal_dim:
            aim = self._goal_rows(row, last)
            goals = self.states[aim][:, self.goal_columns]
            reward, goes_on = torch.full_like(reward, -1.0), (aim != following).float()
        return Steps(
            self.observe(self.states[row], goals),
            self.actions[step],
            reward,
            self.observe(self.states[following], goals),
            self.actions[(step + 1).clamp(max=len(self.actions) - 1)],
            goes_on,
            self.has_next[step],
            torch.randn(size, self.actions.shape[1], generator=self.generator, device=step.device),
        )

    def _goal_rows(self, row: Tensor, last: Tensor) -> Tensor:
        size, device = len(row), row.device
        share = torch.rand(size, generator=self.generator, dtype=torch.float64, device=device)
        if self.future:
            return torch.minimum(row + 1 + (share * (last - row)).long(), last)
        # the inverse of the geometric distribution function
        ahead = 1 + (torch.log1p(-share) / math.log(self.discount)).long()
        anywhere = self._below(len(self.states), size)
        other = torch.rand(size, generator=self.generator, device=device) < _OTHER_GOALS
        return torch.where(other, anywhere, torch.minimum(row + ahead, last))

    def _below(self, end: int, size: int) -> Tensor:
        return torch.randint(end, (size,), generator=self.generator, device=self.states.device)
