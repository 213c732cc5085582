"""Fine-tuning of a few-step planner: its plans and the data's, told apart by nothing.

MMD fine-tuning (Aiello et al. 2024, arXiv 2301.07969): the whole chain is unrolled with gradients,
and the loss is the maximum mean discrepancy between what comes out and the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffplan.data.windows import WindowSampler
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import chain_of
from diffplan.planning.stages import Noise, optimise, propose
from diffplan.training.strategies import features_of

_RADII = (0.5, 1.0, 2.0)  # of the radial kernels, in median distances of the data
_CLIP = 0.5


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD [] of samples [n, F] and [n, F], paired or not; it may be negative.

    Gretton et al. 2012, lemma 6. Kernels: (<x, y> / F + 1)^3 and radial ones, in float64.
    """
    x, y = x.double(), y.double()
    apart = torch.cdist(y, y).detach()
    median = apart[~torch.eye(len(y), dtype=torch.bool, device=y.device)].median()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        product = (a @ b.T / a.shape[1] + 1) ** 3
        squares = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        radial = [torch.exp(-squares / (2 * (r * median) ** 2)) for r in _RADII]
        return product + torch.stack(radial).sum(0)

    n = len(x)
    # row i of both is for one condition: such pairs say nothing of the laws
    parts = [k.sum() - k.diagonal().sum() for k in (kernel(x, x), kernel(y, y), kernel(x, y))]
    return (parts[0] + parts[1] - 2 * parts[2]) / (n * (n - 1))


class Matching:
    """Updates of a trained model's denoiser, whose chain is that of its own planning."""

    def __init__(self, model: PlannerModel, rate: float) -> None:
        settings = model.config.planning
        self.model, self.settings, self.chain = model, settings, chain_of(model, settings)
        assert model.denoiser is not None
        weights = list(model.denoiser.requires_grad_(True).parameters())
        self.optimiser = torch.optim.Adam(weights, lr=rate)
        self.weights = weights

    def update(self, sampler: WindowSampler, rows: int, generator: torch.Generator) -> float:
        """One update from so many windows; returns the discrepancy."""
        model, settings = self.model, self.settings
        drawn = sampler.sample(rows, generator)
        windows = model.normalised_windows(drawn)
        context = model.context_of(windows)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        start = normal(rows, 1, model.rows, model.plan_dim)
        noise = Noise(normal(rows, 1, 1), start, None, normal(rows, 1))
        with torch.no_grad():
            proposal = propose(model, context, noise.propose, settings)
        x, _ = optimise(model, context, proposal, noise, settings, self.chain)
        # where an episode has ended the data stand still, and plans need not
        still = windows.mask.unsqueeze(-1) == 0
        true = windows.states[:, 1:]
        ours = torch.where(still, true, model.from_plan(context.state, x)[:, 1:])
        with torch.no_grad():
            told = self._told(context, true, windows.returns)
        loss = discrepancy(self._told(context, ours, windows.returns), told)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, _CLIP)
        self.optimiser.step()
        return float(loss)

    def _told(self, context: Context, states: Tensor, returns: Tensor) -> Tensor:
        """Features of plans beside what they are made for, or the marginal alone would match."""
        known = [context.state, context.goal, context.target_return]
        given = torch.cat([x.view(len(x), -1) for x in known if x is not None], 1)
        features = features_of(self.model, context, states, returns).flatten(1)
        return torch.cat([features, given * (features.shape[1] / given.shape[1]) ** 0.5], 1)
