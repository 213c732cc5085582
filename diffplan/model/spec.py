"""Sizes of a model, which come from its data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSpec:
    """Sizes that come from the dataset.

    goal_columns: columns of the state that hold the achieved goal, () without a goal. tasks: how
    many there are, 0 where it is not said.
    """

    state_dim: int
    action_dim: int
    goal_columns: tuple[int, ...]
    tasks: int = 0

    @property
    def goal_dim(self) -> int:
        return len(self.goal_columns)
