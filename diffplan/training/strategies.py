"""Ways to train the denoiser otherwise: each off by default, each at a place of its own.

Everything here is in plan units.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffplan.data.batches import Windows
from diffplan.errors import DiffplanError
from diffplan.model.build import PROJECTED
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.autoregressive import AutoregressiveProposer

# --- Which noise meets which plan ----------------------------------------------------------------

_MOST_PAIRED = 256  # rows: an assignment takes the cube of them


def paired(noise: Tensor, centres: Tensor, mask: Tensor | None = None) -> Tensor:
    """The rows of noise [B, H, D] in the order that is nearest to the centres [B, H, D].

    Immiscible diffusion (Li et al. 2024, arXiv 2406.12303), by the least sum of squared distances.
    centres: what the condition leaves open of a plan (residuals to the proposals, in units of the
    noise): plans themselves would tell the noise where they start. mask: weights [B, H] of the
    plan states. Reads the device: no CUDA graph can hold it.
    """
    assign = importlib.import_module("scipy.optimize").linear_sum_assignment
    if mask is not None:
        centres = centres * mask.unsqueeze(-1)
    orders = []
    for first in range(0, len(noise), _MOST_PAIRED):
        part = slice(first, first + _MOST_PAIRED)
        # squares of both sides are the same in every order
        gain = centres[part].flatten(1) @ noise[part].flatten(1).T
        orders.append(torch.from_numpy(assign(gain.cpu().numpy(), maximize=True)[1]) + first)
    return noise[torch.cat(orders).to(noise.device)]


def residuals(model: PlannerModel, x0: Tensor, proposal: Tensor, main: int) -> Tensor:
    """x0 - x̂ [B, H, D] in units of the noise, of which the first `main` rows have the process's."""
    left = x0 - proposal
    if (scale := model.noise_scale) is not None:
        left = torch.cat([left[:main] / scale.clamp(min=1e-6), left[main:]])
    return left


# --- Which levels are learned --------------------------------------------------------------------

_CLUSTERS = 5  # of levels, even in t
_DECAY, _BETTER = 0.99, 1e-4
_FAR = 1e9  # from any loss; checkpoints hold no infinity
_STALLED = 20  # updates without a better loss end a stage


class Curriculum:
    """Levels from easy to hard: first the noisiest cluster, then one more at every stage.

    Kim et al. 2024 (arXiv 2403.10348): a stage ends when the averaged loss gets no better. On small
    data it would go on getting better for the whole training, so a stage has a length, too.
    state: [5] stage from 1, best and averaged loss (-1: none yet), updates since the best and of
    the stage; on the device, and written to in place, so that a CUDA graph goes on with it.
    """

    def __init__(self, longest: int, device: torch.device) -> None:
        """longest: updates of a stage at most."""
        self.longest = longest
        self.state = torch.tensor([1.0, _FAR, -1.0, 0.0, 0.0]).to(device)

    def levels(self, levels: Tensor) -> Tensor:
        """Uniform levels [B] in [0, 1) to such as the stage learns."""
        return 1 - (self.state[0] / _CLUSTERS) * (1 - levels)

    def hear(self, loss: Tensor) -> None:
        """One update was made with this loss."""
        stage, best, mean, stalled, length = self.state.unbind()
        mean = torch.where(mean < 0, loss, torch.lerp(loss, mean, _DECAY))
        better = mean < best - _BETTER
        best = torch.where(better, mean, best)
        stalled = torch.where(better, 0.0, stalled + 1)
        ends = ((stalled >= _STALLED) | (length + 1 >= self.longest)) & (stage < _CLUSTERS)
        new = (
            stage + ends,
            torch.where(ends, _FAR, best),
            mean,
            torch.where(ends, 0.0, stalled),
            torch.where(ends, 0.0, length + 1),
        )
        self.state.copy_(torch.stack(new))

    def restore(self, state: Tensor) -> None:
        """Stand where another stood."""
        if state.shape != self.state.shape:
            raise DiffplanError("the curriculum's stage in training.safetensors is damaged")
        self.state.copy_(state)


# --- What features are like ----------------------------------------------------------------------


class Alignment:
    """Features of the denoiser's first third, held to those of the proposer on the clean plan.

    REPA (Yu et al. 2025, arXiv 2410.06940), whose frozen encoder is the proposer as it is, without
    a gradient into it. A projector tells from them those of four parts of the plan.
    """

    def __init__(self, model: PlannerModel) -> None:
        assert model.denoiser is not None
        blocks = model.denoiser.network.blocks
        assert isinstance(blocks, torch.nn.ModuleList)
        blocks[(len(blocks) - 1) // 3].register_forward_hook(self._keep)
        self._seen: Tensor | None = None

    def _keep(self, block: object, given: object, made: Tensor) -> None:
        self._seen = made

    def loss(self, model: PlannerModel, parts: list[tuple[Context, Windows]], draws: int) -> Tensor:
        """Minus the cosine, per row [B], of the pass that was just made.

        parts: contexts and windows, the first of which were noised `draws` times.
        """
        features, seen = [], self._seen
        assert seen is not None and model.projector is not None
        with torch.no_grad():
            for context, windows in parts:
                features.append(features_of(model, context, windows.states[:, 1:], windows.returns))
        features[0] = features[0].repeat_interleave(draws, 0)
        target = F.adaptive_avg_pool1d(torch.cat(features).transpose(1, 2), PROJECTED)
        found = model.projector(seen).unflatten(1, (-1, PROJECTED))
        self._seen = None
        return -F.cosine_similarity(found, target, dim=1).mean(1)


def features_of(model: PlannerModel, context: Context, states: Tensor, returns: Tensor) -> Tensor:
    """The proposer's features [B, H, F] of future states [B, H, D], returns [B, H + 1] before."""
    proposer = model.proposer
    assert isinstance(proposer, AutoregressiveProposer)
    steps = states.shape[1]
    goal, task = (
        None if x is None else x[:, None].expand(-1, steps, -1)
        for x in (context.goal, context.task)
    )
    past = returns[:, 1:] if proposer.spec.use_returns else None
    return proposer.sequence_features(proposer.token(Context(states, goal, past, task=task)))


# --- All that has a state ------------------------------------------------------------------------


@dataclass(frozen=True)
class Strategies:
    """What an update keeps for the next one, or looks at on the way."""

    curriculum: Curriculum | None = None
    alignment: Alignment | None = None


NONE = Strategies()


def strategies_of(model: PlannerModel) -> Strategies:
    """Those of the configuration; of a model on its device."""
    training = model.config.training
    if model.denoiser is None or not (training.curriculum or training.alignment):
        return NONE
    device = model.plan_scale.device
    return Strategies(
        Curriculum(training.curriculum, device) if training.curriculum else None,
        Alignment(model) if training.alignment else None,
    )
