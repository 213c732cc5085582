"""Behaviour cloning, TD3+BC, ReBRAC and IQL, from the formulas of their papers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from diffplan.scripts.yardsticks.networks import Ensemble, Learning, follow
from diffplan.scripts.yardsticks.replay import Steps
from diffplan.scripts.yardsticks.settings import Settings

POLICY_NOISE, NOISE_CLIP, POLICY_DELAY = 0.2, 0.5, 2  # TD3's
LARGEST_WEIGHT = 100.0  # IQL's, of exp(advantage)
_TARGET_RATE = 0.005


class Cloning:
    """Squared error of the actions of the data."""

    def __init__(
        self, settings: Settings, observation_dim: int, action_dim: int, updates: int, seed: int
    ) -> None:
        self.settings, self.updates, self.done = settings, updates, 0
        self.generator = torch.Generator().manual_seed(seed)
        self._build(observation_dim, action_dim)

    def _build(self, observation_dim: int, action_dim: int) -> None:
        layers = 3 if self.settings.method == "rebrac" else 2
        self.actor = Ensemble(1, observation_dim, action_dim, self.generator, layers=layers)
        self.actor_learning = Learning(self.actor, self.settings.rate)

    def act(self, observation: Tensor, actor: nn.Module | None = None) -> Tensor:
        """Actions [B, A] in [-1, 1]."""
        return torch.tanh((actor or self.actor)(observation)[0])

    def update(self, steps: Steps) -> None:
        """Learn from one batch."""
        loss = (self.act(steps.observation) - steps.action).square().mean()
        self.actor_learning.step(loss)


class TD3BC(Cloning):
    """TD3 whose actor also imitates: TD3+BC (arXiv 2106.06860) and ReBRAC (arXiv 2305.09836).

    Both maximise Q over its mean size; TD3+BC weighs it by alpha against the squared error of the
    action (equations 4 and 5), ReBRAC weighs the error, of the actor by beta_1 and, in the
    target, of the next action by beta_2 (equations 4 and 5 there).
    """

    def _build(self, observation_dim: int, action_dim: int) -> None:
        super()._build(observation_dim, action_dim)
        ours = self.settings.method == "rebrac"
        self.critics = Ensemble(
            2,
            observation_dim + action_dim,
            1,
            self.generator,
            layers=3 if ours else 2,
            layer_norm=ours,
        )
        self.critic_learning = Learning(self.critics, self.settings.rate)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    def target(self, steps: Steps) -> Tensor:
        """What both critics are to say of the steps [B]."""
        with torch.no_grad():
            action = self.act(steps.following, self.target_actor)
            noise = torch.randn(action.shape, generator=self.generator) * POLICY_NOISE
            action = (action + noise.clamp(-NOISE_CLIP, NOISE_CLIP)).clamp(-1, 1)
            value = values(self.target_critics, steps.following, action).amin(0)
            if self.settings.method == "rebrac":
                strayed = (action - steps.next_action).square().sum(1)
                value = value - self.settings.penalties[1] * steps.has_next * strayed
            return steps.reward + self.settings.discount * steps.goes_on * value

    def actor_loss(self, steps: Steps) -> Tensor:
        """What the actor descends."""
        action = self.act(steps.observation)
        error = (action - steps.action).square()
        if self.settings.method == "rebrac":
            q = values(self.critics, steps.observation, action).amin(0)
            weight, imitation = 1.0, self.settings.penalties[0] * error.sum(1).mean()
        else:
            q = values(self.critics, steps.observation, action, members=1)[0]
            weight, imitation = self.settings.q_weight, error.mean()
        return imitation - weight / q.abs().mean().detach() * q.mean()

    def update(self, steps: Steps) -> None:
        """Learn from one batch; the actor and the targets from every second."""
        target = self.target(steps)
        q = values(self.critics, steps.observation, steps.action)
        self.critic_learning.step((q - target).square().mean(1).sum())
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
        self.log_deviation = nn.Parameter(torch.zeros(action_dim))


class IQL(Cloning):
    """Values by expectile regression, actions by advantage (arXiv 2110.06169, equations 5 to 7)."""

    def _build(self, observation_dim: int, action_dim: int) -> None:
        super()._build(observation_dim, action_dim)
        self.policy = _Gaussian(self.actor, action_dim)
        self.actor_learning = Learning(self.policy, self.settings.rate)
        self.critics = Ensemble(2, observation_dim + action_dim, 1, self.generator)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = Ensemble(1, observation_dim, 1, self.generator)
        self.critic_learning = Learning(self.critics, self.settings.rate)
        self.value_learning = Learning(self.value, self.settings.rate)

    def update(self, steps: Steps) -> None:
        """Learn from one batch."""
        with torch.no_grad():
            q = values(self.target_critics, steps.observation, steps.action).amin(0)
            following = self.value(steps.following)[0, :, 0]
            target = steps.reward + self.settings.discount * steps.goes_on * following
        advantage = q - self.value(steps.observation)[0, :, 0]
        self.value_learning.step(expectile_loss(advantage, self.settings.expectile))
        weight = (self.settings.temperature * advantage.detach()).exp().clamp(max=LARGEST_WEIGHT)
        # the actor's rate falls along a cosine
        factor = (1 + math.cos(math.pi * self.done / self.updates)) / 2
        self.actor_learning.step(-(weight * self.log_likelihood(steps)).mean(), factor=factor)
        both = values(self.critics, steps.observation, steps.action)
        self.critic_learning.step((both - target).square().mean(1).sum())
        follow(self.target_critics, self.critics, _TARGET_RATE)
        self.done += 1

    def log_likelihood(self, steps: Steps) -> Tensor:
        """Of the actions [B], less a constant."""
        log_deviation = self.policy.log_deviation.clamp(-5, 2)
        strayed = (steps.action - self.act(steps.observation)) * (-log_deviation).exp()
        return -(0.5 * strayed.square() + log_deviation).sum(1)


METHODS: dict[str, type[Cloning]] = {
    "cloning": Cloning,
    "td3bc": TD3BC,
    "rebrac": TD3BC,
    "iql": IQL,
}


def values(
    critics: nn.Module, observation: Tensor, action: Tensor, members: int | None = None
) -> Tensor:
    """Values [E, B] of each critic, or of the first `members`."""
    found: Tensor = critics(torch.cat([observation, action], 1), members)[..., 0]
    return found


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Mean of |expectile - 1(u < 0)| u^2: its minimiser is that expectile (IQL, equation 4)."""
    return ((expectile - (difference < 0).float()).abs() * difference.square()).mean()
