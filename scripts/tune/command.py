"""`diffplan tune RUN`: planning settings of a trained run, chosen on seeds of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffplan.scripts.tune.options import TuneOptions


@dataclass(frozen=True)
class Tune(TuneOptions):
    """Choose how a trained run plans, by episodes on seeds that are never reported.

    Ways of planning, the run's own among them, play the same episodes; the better half goes on, by
    successive halving. The best one takes the place of the run's own if it wins the episodes of a
    final, which chose neither (their 80 % interval lies above 0). The checkpoint then plans so
    wherever it is loaded; tuning.json in it has every episode. No weights change.
    """

    def run(self) -> dict[str, Any]:
        """Tune, print and write; returns what tuning.json holds.

        Raises:
            DiffplanError: RUN is no run, a number out of range, a budget too small, seeds that an
                earlier tuning has used, no evaluation environment, or no episode that finishes.
        """
        self.check()
        from diffplan.scripts.tune.tuning import tune

        return tune(self)
