"""Ways to run a decision."""

from diffplan.engines.eager import EagerEngine
from diffplan.engines.table import ENGINES, Engine, make_engine

__all__ = ["ENGINES", "EagerEngine", "Engine", "make_engine"]
