"""How windows are drawn where nobody needs to choose: constants, and the reason of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Drawing:
    """Constants of `WindowSampler`, whose docstring has the formulas."""

    held_out: float = 0.05
    """Share of episodes that measure free-running errors: few, as they teach nothing."""
    hindsight_share: float = 0.4
    """Share of windows whose goal comes from their own episode: all would never join two, none
    would seldom show how to arrive."""
    landmarks: int = 400
    """Nodes of the landmark graph, fewer where there are fewer states: a maze's corridors are then
    a few nodes wide, and all shortest paths take less than a second."""
    goal_reach: float = 1.5
    """Goals lie at most so many times as far off as plans aim (`planning.subgoal_steps`)."""
    goal_candidates: int = 8
    """Goals of other episodes proposed per window; one is kept by its advantage."""
    advantage_temperature: float = 6.0
    """Lost steps that cut a window's weight by a factor e; infinite: no weighting."""
    return_temperature: float = 0.2
    """Shortfall of the return, in standard deviations, that cuts a window's chance by e."""
    prompt: int = 16
    """States of a demonstration, evenly spaced over it."""


DRAWING = Drawing()


def held_out_of(episodes: int, share: float) -> int:
    """How many of so many episodes are held out: their share, one at least, none of one or two."""
    return min(max(1, round(share * episodes)), episodes - 1) if episodes > 2 else 0
