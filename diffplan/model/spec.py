"""Sizes of a model, which come from its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffplan.config.config import Config
from diffplan.data.episodes import Episodes

if TYPE_CHECKING:
    from diffplan.data.things import Things


@dataclass(frozen=True)
class ModelSpec:
    """Sizes that come from the dataset.

    goal_columns: columns of the state that hold the achieved goal, () without a goal. planned:
    columns of the state that plans hold, () for all. tasks: how
    many there are, 0 where it is not said. landmarks: nodes of the graph that finds subgoals, 0
    without one. things: of each column of the goal, and holds: things and columns of plans, where
    something has to be fetched, and how many moves, see `diffplan.data.things`.
    """

    state_dim: int
    action_dim: int
    goal_columns: tuple[int, ...]
    tasks: int = 0
    landmarks: int = 0
    planned: tuple[int, ...] = ()
    things: tuple[int, ...] = ()
    holds: tuple[tuple[int, int], ...] = ()
    moves: int = 0

    @staticmethod
    def of(
        episodes: Episodes, config: Config, landmarks: int = 0, things: Things | None = None
    ) -> ModelSpec:
        """The sizes of a model that learns from the episodes."""
        return ModelSpec(
            episodes.states.shape[1],
            episodes.actions.shape[1],
            episodes.layout.goal_columns,
            0 if episodes.tasks is None else len(episodes.info.tasks),
            landmarks,
            episodes.layout.goal_columns if config.plan.columns == "goal" else (),
            () if things is None else things.of,
            () if things is None else things.holds,
            0 if things is None or max(things.of) < 1 else len(things.moved),
        )

    @property
    def goal_dim(self) -> int:
        return len(self.goal_columns)

    @property
    def planned_dim(self) -> int:
        """Columns of a state in a plan."""
        return len(self.planned) or self.state_dim

    @property
    def planned_goal_columns(self) -> tuple[int, ...]:
        """Where the achieved goal stands among the columns of a plan."""
        if not self.planned:
            return self.goal_columns
        return tuple(self.planned.index(column) for column in self.goal_columns)
