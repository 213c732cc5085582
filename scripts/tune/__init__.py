"""`diffplan tune`: planning settings chosen on seeds of their own."""

from diffplan.scripts.tune.command import Tune

__all__ = ["Tune"]
