"""Target returns read off the data: what the better episodes still reach from a step on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
BINS = 128
_FEWEST = 20  # states that make a quantile


@dataclass(frozen=True)
class Sample:
    """Training states with their return-to-go [N] and their step in the episode [N], from 0."""

    returns: Tensor
    steps: Tensor


class TargetTable(nn.Module):
    """Quantiles of the data's returns-to-go, over all states and along the episode.

    overall: buffer [Q]. by_step: buffer [Q, BINS]; bin i holds the states at steps
    [i, i + 1) * width of their episodes.
    """

    overall: Tensor
    by_step: Tensor
    width: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("overall", torch.zeros(len(QUANTILES)))
        self.register_buffer("by_step", torch.zeros(len(QUANTILES), BINS))
        self.register_buffer("width", torch.ones(()))

    def fit(self, sample: Sample) -> None:
        """Read the quantiles off a sample. A bin of few states takes over the one before."""
        returns = sample.returns.double().cpu().numpy()
        steps = sample.steps.cpu().numpy()
        width = max(1.0, (int(steps.max()) + 1) / BINS)
        place = np.minimum(steps / width, BINS - 1).astype(np.int64)
        # sorted once, so that each bin is a slice
        order = np.argsort(place, kind="stable")
        ends = np.searchsorted(place[order], np.arange(BINS + 1))
        everything = np.quantile(returns, QUANTILES)
        # a first bin of few states falls back on all of them
        table = np.tile(everything[:, None], (1, BINS))
        for i in range(BINS):
            members = order[ends[i] : ends[i + 1]]
            if len(members) >= _FEWEST:
                table[:, i] = np.quantile(returns[members], QUANTILES)
            elif i:
                table[:, i] = table[:, i - 1]
        self.overall.copy_(torch.from_numpy(everything))
        self.by_step.copy_(torch.from_numpy(table))
        self.width.fill_(width)

    def forward(self, quantile: float, steps: Tensor | None = None) -> Tensor:
        """The quantile's return-to-go at steps [B] of an episode, [B]; without steps over all, [].

        Linear between bins and between the quantiles of the table.
        """
        place = float(np.interp(quantile, QUANTILES, np.arange(len(QUANTILES))))
        low = min(int(place), len(QUANTILES) - 2)
        if steps is None:
            return torch.lerp(self.overall[low], self.overall[low + 1], place - low)
        wanted = torch.lerp(self.by_step[low], self.by_step[low + 1], place - low)
        # a bin's quantile stands at its centre
        at = (steps / self.width - 0.5).clamp(0, BINS - 1)
        before = at.long().clamp(max=BINS - 2)
        return torch.lerp(wanted[before], wanted[before + 1], at - before)
