"""Ways to run a decision."""

from typing import TYPE_CHECKING

from diffplan.engines.table import DIRECT, ENGINES, Engine, check_engine, make_engine
from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.engines.eager import EagerEngine
else:
    __getattr__, __dir__ = attributes(__name__, {"diffplan.engines.eager": "EagerEngine"})

__all__ = ["DIRECT", "ENGINES", "EagerEngine", "Engine", "check_engine", "make_engine"]
