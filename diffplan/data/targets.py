"""Target returns read off the data: what is still reached from a step of an episode on."""

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
    """Quantiles of the data's returns-to-go and the mean of those drawn, overall and by the step.

    overall: buffer [Q]. by_step: buffer [Q, BINS]; bin i holds the states at steps
    [i, i + 1) * width of their episodes. drawn: buffer [BINS], the mean return-to-go of the windows
    that training draws there; drawn_overall: [] of all of them. Training draws good windows rather
    than bad ones, so this is a return that many of them show: a quantile may lie where none is,
    between the falls and the walks of a mixture.
    """

    overall: Tensor
    by_step: Tensor
    drawn: Tensor
    drawn_overall: Tensor
    width: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("overall", torch.zeros(len(QUANTILES)))
        self.register_buffer("by_step", torch.zeros(len(QUANTILES), BINS))
        self.register_buffer("drawn", torch.zeros(BINS))
        self.register_buffer("drawn_overall", torch.zeros(()))
        self.register_buffer("width", torch.ones(()))

    def fit(self, sample: Sample, drawn: Sample | None = None) -> None:
        """Read the quantiles off a sample of all states, the mean off those drawn (None: as all).

        A bin of few states takes over the one before.
        """
        returns = sample.returns.double().cpu().numpy()
        steps = sample.steps.cpu().numpy()
        width = max(1.0, (int(steps.max()) + 1) / BINS)
        place = _bins(steps, width)
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
        drawn = drawn or sample
        place = _bins(drawn.steps.cpu().numpy(), width)
        values = drawn.returns.double().cpu().numpy()
        counts = np.bincount(place, minlength=BINS)
        means = np.bincount(place, values, BINS) / counts.clip(min=1)
        known = np.maximum.accumulate(np.where(counts >= _FEWEST, np.arange(BINS), -1))
        average = values.mean()
        self.drawn_overall.fill_(average)
        self.drawn.copy_(torch.from_numpy(np.where(known < 0, average, means[known])))

    def forward(self, quantile: float | None, steps: Tensor | None = None) -> Tensor:
        """The quantile's return-to-go at steps [B] of an episode, [B]; without steps over all, [].

        None: the mean of those drawn. Linear between bins and between the quantiles of the table.
        """
        if quantile is None:
            overall, wanted = self.drawn_overall, self.drawn
        else:
            place = float(np.interp(quantile, QUANTILES, np.arange(len(QUANTILES))))
            low = min(int(place), len(QUANTILES) - 2)
            overall = torch.lerp(self.overall[low], self.overall[low + 1], place - low)
            wanted = torch.lerp(self.by_step[low], self.by_step[low + 1], place - low)
        if steps is None:
            return overall
        # what a bin says stands at its centre
        at = (steps / self.width - 0.5).clamp(0, BINS - 1)
        before = at.long().clamp(max=BINS - 2)
        return torch.lerp(wanted[before], wanted[before + 1], at - before)


def _bins(steps: np.ndarray, width: float) -> np.ndarray:
    """The bin [N] of each step [N]."""
    result: np.ndarray = np.minimum(steps / width, BINS - 1).astype(np.int64)
    return result
