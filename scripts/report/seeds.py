"""Which seeds choose, and which are held back for what is reported.

What was chosen on some episodes looks better on them than it is. Commands that choose (intervals,
checkpoints, planning settings) take episode seeds from `CHOOSING` on; those below are for scores.
Training seeds are split alike: those of `TRIED` choose settings of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffplan.errors import DiffplanError

REPORTING = 1000
"""The first episode seed of a score."""
CHOOSING = 5000
"""The first episode seed that may choose."""
TRIED = range(10, 20)
"""Training seeds that choose."""


def check_choosing(option: str, first: int) -> None:
    """Refuse to choose on episodes that are held back."""
    if first < CHOOSING:
        raise DiffplanError(
            f"{option} is {first}: episode seeds below {CHOOSING} are held back for scores, and "
            f"what is chosen on them would look better than it is; give {CHOOSING} or more"
        )


def check_apart(chosen: range, scored: range, option: str) -> None:
    """Refuse to score on the very episodes that chose. option: how to choose on others."""
    if max(chosen.start, scored.start) < min(chosen.stop, scored.stop):
        raise DiffplanError(
            f"seeds {chosen.start} to {chosen.stop - 1}, which choose, overlap seeds "
            f"{scored.start} to {scored.stop - 1}, which score; choose another {option}"
        )


def scored(first: int, count: int, training: Sequence[int]) -> dict[str, Any]:
    """Which seeds scored, for results; range: what they are for."""
    kept = first + count <= CHOOSING and not any(seed in TRIED for seed in training)
    return {
        "episode_seeds": [first, first + count - 1],
        "training_seeds": list(training),
        "range": "reporting" if kept else "choosing",
    }


def chosen(what: str, episode_seeds: Sequence[Sequence[int]] | None) -> dict[str, Any]:
    """What was chosen, and on which episodes (first and last seed of each stretch), for results.

    episode_seeds: None where nobody knows, as of settings that were given by hand.
    """
    seeds = None if episode_seeds is None else [list(each) for each in episode_seeds]
    return {"what": what, "episode_seeds": seeds}


def seeds_line(scored_on: dict[str, Any], chosen_on: Sequence[dict[str, Any]]) -> str:
    """Both in a line, for tables."""
    first, last = scored_on["episode_seeds"]
    training = ", ".join(map(str, scored_on["training_seeds"]))
    many = "s" if len(scored_on["training_seeds"]) > 1 else ""
    line = f"scored on episode seeds {first} to {last}, training seed{many} {training}"
    if scored_on["range"] == "choosing":
        line += f" (of the range that chooses, {_RANGES}: no figures to report)"
    if not chosen_on:
        return f"{line}; the command chose nothing"
    return "; ".join([line, *(f"chosen {_where(each)}" for each in chosen_on)])


_RANGES = f"episode seeds from {CHOOSING}, training seeds {TRIED.start} to {TRIED.stop - 1}"


def _where(choice: dict[str, Any]) -> str:
    if choice["episode_seeds"] is None:
        return f"by hand: {choice['what']}"
    seeds = ", ".join(f"{first} to {last}" for first, last in choice["episode_seeds"])
    return f"on episode seeds {seeds}: {choice['what']}"
