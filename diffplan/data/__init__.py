"""Training data: the flat episode store, and the windows cut from it."""

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout, Task

__all__ = ["DatasetInfo", "Episodes", "ObservationLayout", "Task"]
