"""The return-to-go that plans are asked for."""

from __future__ import annotations

import copy

import numpy as np
import torch

from diffplan.config.sections import PlanningConfig
from diffplan.data.targets import BINS
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel

_LEAST_SHARE = 1 / 3  # of the first target that is still asked for, as in the released code


class Targets:
    """What a model with these settings is asked for, step by step.

    first: at first, where it does not go by the step. least: what is still asked for when more
    than that was received, None where there is no bound.
    """

    def __init__(self, model: PlannerModel, settings: PlanningConfig) -> None:
        """Reads the device, once: a call that waited for it would take as long as a plan."""
        self._settings, self._table = settings, copy.deepcopy(model.targets).to("cpu")
        self.first = self._first()
        # a negative target is no share of itself: there is nothing to hold on to
        self.least = _LEAST_SHARE * self.first if self.first > 0 else None

    def _first(self) -> float:
        settings = self._settings
        if settings.target_return is not None:
            return settings.target_return
        # decremented begins at step 0 of an episode, the others know no step
        start = torch.zeros(1) if settings.target == "decremented" else None
        return float(self._table(settings.target_quantile, start))

    @property
    def by_step(self) -> tuple[list[float], float]:
        """What is asked for in the middle of each bin of steps, and how many steps a bin has."""
        width = float(self._table.width)
        middles = (torch.arange(BINS) + 0.5) * width
        return self._table(self._settings.target_quantile, middles).tolist(), width

    def at(self, step: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return-to-go [B] to ask for in rows that make a plan at these steps of their episodes.

        target: [B] what is left of the one asked for before, NaN in a new episode.
        """
        settings = self._settings
        if settings.target == "by-step":
            # read off anew at each plan: nothing of what was received counts
            asked = self._table(settings.target_quantile, torch.from_numpy(step))
            result: np.ndarray = asked.numpy().astype(np.float64)
            return result
        if settings.target == "fixed":
            return np.full(len(step), self.first)
        least = -np.inf if self.least is None else self.least
        return np.where(np.isnan(target), self.first, np.maximum(target, least))


def check_target(settings: PlanningConfig, model: PlannerModel, goals: bool) -> None:
    """Raise DiffplanError for a setting of the target that would have no effect."""
    own = model.config.planning
    names = ("target", "target_quantile", "target_return")
    if not model.use_returns:
        for name in names:
            if getattr(settings, name) != getattr(own, name):
                raise DiffplanError(
                    f"planning.{name} is given, but this model plans for a goal and not for a "
                    "return; leave it out"
                )
    elif goals and settings.target == "decremented":
        raise DiffplanError(
            "planning.target is decremented, but with a goal the returns count steps and not the "
            "rewards received; give fixed"
        )
