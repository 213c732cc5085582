"""Behaviour cloning, TD3+BC, ReBRAC and IQL, from the formulas of their papers.

Each is S trainings at once, which have nothing in common but shapes and batched products: S comes
first in all tensors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffplan.scripts.yardsticks.networks import Ensemble, Learning, follow
from diffplan.scripts.yardsticks.replay import Steps
from diffplan.scripts.yardsticks.settings import Settings

POLICY_NOISE, NOISE_CLIP, POLICY_DELAY = 0.2, 0.5, 2  # TD3's
LARGEST_WEIGHT = 100.0  # IQL's, of exp(advantage)
_TARGET_RATE = 0.005


class Cloning:
    """Squared error of the actions of the data.

    settings, seeds: of the S trainings; those that are no numbers are the first one's. updates:
    how long they are. device: where they learn.
    """

    def __init__(
        self,
        settings: Sequence[Settings],
        observation_dim: int,
        action_dim: int,
        updates: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.updates, self.device = settings[0], updates, torch.device(device)

        def own(of: Callable[[Settings], float]) -> Tensor:
            return torch.tensor([of(each) for each in settings], device=device)[:, None]

        self.discount, self.q_weight = own(lambda s: s.discount), own(lambda s: s.q_weight)
        self.penalties = own(lambda s: s.penalties[0]), own(lambda s: s.penalties[1])
        self.expectile, self.temperature = own(lambda s: s.expectile), own(lambda s: s.temperature)
        # networks begin the same on every device
        self._drawn = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._build(observation_dim, action_dim)

    def _ensemble(
        self, count: int, inputs: int, outputs: int, *, layers: int = 2, layer_norm: bool = False
    ) -> Ensemble:
        made = Ensemble(count, inputs, outputs, self._drawn, layers=layers, layer_norm=layer_norm)
        return made.to(self.device)

    def _build(self, observation_dim: int, action_dim: int) -> None:
        layers = 3 if self.settings.method == "rebrac" else 2
        self.actor = self._ensemble(1, observation_dim, action_dim, layers=layers)
        self.actor_learning = Learning(self.actor, self.settings.rate)

    def act(self, observation: Tensor, actor: nn.Module | None = None) -> Tensor:
        """Actions [S, B, A] in [-1, 1]."""
        return torch.tanh((actor or self.actor)(observation)[:, 0])

    def update(self, steps: Steps) -> None:
        """Learn from one batch."""
        loss = (self.act(steps.observation) - steps.action).square().mean((1, 2))
        self.actor_learning.step(loss.sum())


class TD3BC(Cloning):
    """TD3 whose actor also imitates: TD3+BC (arXiv 2106.06860) and ReBRAC (arXiv 2305.09836).

    Both maximise Q over its mean size; TD3+BC weighs it by alpha against the squared error of the
    action (equations 4 and 5), ReBRAC weighs the error, of the actor by beta_1 and, in the
    target, of the next action by beta_2 (equations 4 and 5 there).
    """

    def _build(self, observation_dim: int, action_dim: int) -> None:
        super()._build(observation_dim, action_dim)
        ours = self.settings.method == "rebrac"
        inputs, layers = observation_dim + action_dim, 3 if ours else 2
        self.critics = self._ensemble(2, inputs, 1, layers=layers, layer_norm=ours)
        self.critic_learning = Learning(self.critics, self.settings.rate)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.done = 0

    def target(self, steps: Steps) -> Tensor:
        """What both critics are to say of the steps [S, B]."""
        with torch.no_grad():
            action = self.act(steps.following, self.target_actor)
            noise = (POLICY_NOISE * steps.noise).clamp(-NOISE_CLIP, NOISE_CLIP)
            action = (action + noise).clamp(-1, 1)
            value = values(self.target_critics, steps.following, action).amin(1)
            if self.settings.method == "rebrac":
                strayed = (action - steps.next_action).square().sum(2)
                value = value - self.penalties[1] * steps.has_next * strayed
            return steps.reward + self.discount * steps.goes_on * value

    def actor_loss(self, steps: Steps) -> Tensor:
        """What the actor descends."""
        action = self.act(steps.observation)
        error = (action - steps.action).square()
        if self.settings.method == "rebrac":
            q = values(self.critics, steps.observation, action).amin(1)
            weight, imitation = torch.ones_like(self.q_weight), self.penalties[0] * error.sum(2)
        else:
            q = values(self.critics, steps.observation, action, members=1)[:, 0]
            weight, imitation = self.q_weight, error.mean(2)
        scale = weight / q.abs().mean(1, keepdim=True).detach()
        return (imitation - scale * q).mean(1).sum()

    def update(self, steps: Steps) -> None:
        """Learn from one batch; the actor and the targets from every second."""
        target = self.target(steps)
        q = values(self.critics, steps.observation, steps.action)
        self.critic_learning.step((q - target[:, None]).square().mean(2).sum())
        self.done += 1
        if self.done % POLICY_DELAY == 0:
            self.actor_learning.step(self.actor_loss(steps))
            follow(self.target_critics, self.critics, _TARGET_RATE)
            follow(self.target_actor, self.actor, _TARGET_RATE)


class _Gaussian(nn.Module):
    """Mean of a policy and its deviation, which is the same in all states."""

    def __init__(self, mean: Ensemble, action_dim: int) -> None:
        super().__init__()
        self.mean = mean
        weight = mean.weights[0]
        self.log_deviation = nn.Parameter(weight.new_zeros(len(weight), 1, action_dim))


class IQL(Cloning):
    """Values by expectile regression, actions by advantage (arXiv 2110.06169, equations 5 to 7)."""

    def _build(self, observation_dim: int, action_dim: int) -> None:
        super()._build(observation_dim, action_dim)
        self.policy = _Gaussian(self.actor, action_dim)
        self.actor_learning = Learning(self.policy, self.settings.rate)
        self.critics = self._ensemble(2, observation_dim + action_dim, 1)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = self._ensemble(1, observation_dim, 1)
        self.critic_learning = Learning(self.critics, self.settings.rate)
        self.value_learning = Learning(self.value, self.settings.rate)
        self.done = torch.zeros((), device=self.device)

    def update(self, steps: Steps) -> None:
        """Learn from one batch."""
        with torch.no_grad():
            q = values(self.target_critics, steps.observation, steps.action).amin(1)
            following = self.value(steps.following)[:, 0, :, 0]
            target = steps.reward + self.discount * steps.goes_on * following
        advantage = q - self.value(steps.observation)[:, 0, :, 0]
        self.value_learning.step(expectile_loss(advantage, self.expectile).sum())
        weight = (self.temperature * advantage.detach()).exp().clamp(max=LARGEST_WEIGHT)
        # the actor's rate falls along a cosine
        factor = (1 + torch.cos(math.pi * self.done / self.updates)) / 2
        likely = (weight * self.log_likelihood(steps)).mean(1)
        self.actor_learning.step(-likely.sum(), factor=factor)
        both = values(self.critics, steps.observation, steps.action)
        self.critic_learning.step((both - target[:, None]).square().mean(2).sum())
        follow(self.target_critics, self.critics, _TARGET_RATE)
        self.done += 1

    def log_likelihood(self, steps: Steps) -> Tensor:
        """Of the actions [S, B], less a constant."""
        log_deviation = self.policy.log_deviation.clamp(-5, 2)
        strayed = (steps.action - self.act(steps.observation)) * (-log_deviation).exp()
        return -(0.5 * strayed.square() + log_deviation).sum(2)


METHODS: dict[str, type[Cloning]] = {
    "cloning": Cloning,
    "td3bc": TD3BC,
    "rebrac": TD3BC,
    "iql": IQL,
}


def values(
    critics: nn.Module, observation: Tensor, action: Tensor, members: int | None = None
) -> Tensor:
    """Values [S, E, B] of each critic, or of the first `members`."""
    found: Tensor = critics(torch.cat([observation, action], 2), members)[..., 0]
    return found


def expectile_loss(difference: Tensor, expectile: Tensor | float) -> Tensor:
    """Mean [S] of |expectile - 1(u < 0)| u^2, u [S, B]: its minimiser is that expectile.

    (IQL, equation 4.)
    """
    return ((expectile - (difference < 0).float()).abs() * difference.square()).mean(1)
