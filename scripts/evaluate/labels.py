"""What a reader must know before comparing a score: other data, another environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffplan.data.info import DatasetInfo
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE, D4RL_FILE, NOT_D4RL_FILE
from diffplan.envs.rollouts.references import reference_key
from diffplan.envs.simulators.matches import match_environment


@dataclass(frozen=True)
class Labels:
    """What sets an evaluation apart from D4RL's own; "" where nothing does."""

    data: str
    """Which data these are, unless D4RL's own file."""
    environment_differences: str
    """How the environment differs from the one behind the data."""
    environment_changed: str
    """The environment or time limit asked for in place of the dataset's own."""
    time_limit: str
    """Where episodes end elsewhere than in D4RL."""
    reference: str | None
    """Key of the reference score, None where D4RL has none."""

    @staticmethod
    def of(own: DatasetInfo, used: DatasetInfo, width: int, limit: int | None) -> Labels:
        """The labels of an evaluation.

        own: what the dataset says about itself. used: the same with the environment evaluated in.
        width: columns of the observations. limit: the environment's time limit in steps, None if
        Gymnasium knows of none.
        """
        known = CATALOGUE.get(str(own.details.get("d4rl_name")))
        # the environment that D4RL's name stands for, whatever the file says
        usual = match_environment(known.name, width) if known is not None else None
        differences = str(own.details.get("environment_differences", ""))
        changed = []
        if used.env_id != own.env_id:
            differences = ""  # they are about the dataset's own environment
            was = f"the dataset's is {own.env_id}" if own.env_id else "the dataset names none"
            changed.append(f"{used.env_id}, asked for; {was}")
        elif known is not None and usual is not None and usual.env_id != used.env_id:
            changed.append(f"{used.env_id} in place of {usual.env_id}, the one of {known.name}")
        for key, value in used.env_kwargs.items():
            # of another environment every argument would differ, which says nothing
            if used.env_id == own.env_id and own.env_kwargs.get(key) != value:
                was = own.env_kwargs.get(key, "its own default")
                changed.append(f"{key} is {value}, asked for; the dataset's environment has {was}")
        other_limit = ""
        if limit is None:
            other_limit = f"{used.env_id} has none; an episode ends only where it says so"
        elif known is not None and known.time_limit != limit:
            other_limit = f"{limit} steps, {known.name} has {known.time_limit}"
        return Labels(
            _data_label(own), differences, "; ".join(changed), other_limit, reference_key(used)
        )

    @property
    def comparable(self) -> bool:
        """Whether a normalised score may stand beside D4RL's."""
        differing = self.data, self.environment_differences, self.environment_changed
        # one difference is enough: a score beside published ones is taken for one of them
        return self.reference is not None and not any(differing) and not self.time_limit

    @property
    def score(self) -> str | None:
        """Header of the normalised scores: a benchmark's score, or only its scale."""
        if self.reference is None:
            return None
        return f"D4RL {self.reference} {'score' if self.comparable else 'scale'}"

    @property
    def fields(self) -> dict[str, Any]:
        """For results.json; empty labels are null."""
        return {
            "reference": self.reference and f"D4RL {self.reference}",
            "score_label": self.score,
            "data_label": self.data or None,
            "environment_differences": self.environment_differences or None,
            "environment_changed": self.environment_changed or None,
            "time_limit_differs": self.time_limit or None,
        }

    @property
    def lines(self) -> list[str]:
        """For the printed report, what differs, a line each."""
        found = []
        if self.reference is not None and self.data:
            found.append(f"data: {self.data}")
        if self.environment_changed:
            found.append(f"environment: {self.environment_changed}")
        if self.environment_differences:
            found.append(f"environment: {self.environment_differences}")
        if self.time_limit:
            found.append(f"time limit: {self.time_limit}")
        if self.reference is not None and not self.comparable:
            found.append(
                f"scores are on D4RL's {self.reference} scale, for orientation; they are not "
                "D4RL benchmark scores"
            )
        return found


def _data_label(info: DatasetInfo) -> str:
    stated = info.details.get("data_source")
    if stated == D4RL_FILE:
        return ""
    return f"{info.id}, {stated or NOT_D4RL_FILE}"
