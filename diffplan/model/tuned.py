"""Planning settings in place of those of the training, beside a checkpoint's weights.

`diffplan tune` chooses them; a planner that is shared keeps those it was loaded with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffplan.config.config import replace_planning
from diffplan.data.header import read_json
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import list_checkpoints, read_header

TUNING = "tuning.json"


@dataclass(frozen=True)
class Tuning:
    """What a checkpoint's tuning.json says.

    planning: settings in place of the trained ones, none where nothing was better. seeds: (first,
    last) of the episodes that chose. episodes: how many were played. gain: of the settings over
    those before, mean and 80 % interval. by_hand: names of settings that somebody gave. record: all
    of the file.
    """

    planning: dict[str, Any]
    seeds: tuple[tuple[int, int], ...]
    episodes: int
    gain: tuple[float, float, float]
    by_hand: tuple[str, ...]
    record: dict[str, Any]

    @property
    def line(self) -> str:
        """For reports and model cards."""
        chosen, given = (
            ", ".join(
                f"{name} {value}"
                for name, value in self.planning.items()
                if (name in self.by_hand) is by_hand
            )
            for by_hand in (False, True)
        )
        parts = []
        if chosen:
            seeds = ", ".join(f"{first}-{last}" for first, last in self.seeds)
            mean, low, high = self.gain
            gain = f"{self.record['by']} {mean:+.3g} [80 %: {low:+.3g}, {high:+.3g}] there"
            parts = [
                f"tuned on seeds {seeds} ({self.episodes} episodes): {chosen}",
                gain + self._where,
            ]
        return "; ".join([*parts, *([f"by hand: {given}"] if given else [])])

    @property
    def _where(self) -> str:
        """The environment that was played, and its time limit."""
        found = self.record.get("environments", ())
        if len(found) != 1:
            return ""
        name, options = found[0]
        limit = options.get("max_episode_steps")
        return f", in {name}" + ("" if limit is None else f" of {limit} steps")

    def overlap(self, first: int, count: int) -> tuple[int, int] | None:
        """The seeds that chose, where they touch `count` seeds from `first` on."""
        for low, high in self.seeds:
            if low < first + count and first <= high:
                return low, high
        return None


def read_tuning(checkpoint: Path) -> Tuning | None:
    """The tuning of a checkpoint folder, None where there is none.

    Raises DiffplanError for a damaged file, and for settings that the checkpoint cannot plan with.
    """
    file = checkpoint / TUNING
    try:
        found = read_json(file)
    except FileNotFoundError:
        return None
    try:
        # JSON has no infinity: a gain without an interval is null
        mean, low, high = (float("nan") if x is None else float(x) for x in found["gain"])
        seeds = tuple((int(first), int(last)) for first, last in found["seeds"])
        by_hand = tuple(map(str, found.get("by_hand", ())))
        gain = mean, low, high
        tuning = Tuning(
            dict(found["planning"]), seeds, int(found["episodes"]), gain, by_hand, found
        )
        str(found["by"])
        replace_planning(read_header(checkpoint).config, **tuning.planning)
    except (KeyError, TypeError, ValueError, DiffplanError) as error:
        reason = error if isinstance(error, DiffplanError) else f"no {error}"
        raise DiffplanError(
            f"{file} is damaged ({reason}); remove it, or run `diffplan tune` anew: without it the "
            "checkpoint plans with the settings of its training"
        ) from None
    return tuning


def with_settings(tuning: Tuning | None, given: dict[str, Any]) -> dict[str, Any] | None:
    """What tuning.json holds where settings are given over the tuned ones; None without either."""
    if not given:
        return None if tuning is None else tuning.record
    none: dict[str, Any] = {
        "planning": {},
        "seeds": [],
        "episodes": 0,
        "gain": [None] * 3,
        "by": None,
    }
    record = none if tuning is None else tuning.record
    by_hand = [*record.get("by_hand", ()), *given]
    return {**record, "planning": record["planning"] | given, "by_hand": by_hand}


def tuned_planning(checkpoint: Path) -> dict[str, Any]:
    """The settings that a checkpoint plans with in place of those of its training."""
    found = read_tuning(checkpoint)
    return {} if found is None else found.planning


def tuned_before(checkpoint: Path) -> Path | None:
    """The last older checkpoint of the run whose settings were tuned, where this one's were not.

    What was tuned belongs to the weights it was measured with: those trained on from there plan
    with the settings of the training.
    """
    if (checkpoint / TUNING).is_file():
        return None
    older = [path for path in list_checkpoints(checkpoint.parent) if path.name < checkpoint.name]
    tuned = [path for path in older if (path / TUNING).is_file()]
    return tuned[-1] if tuned else None
