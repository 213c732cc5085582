"""What was decided from the data in place of the user: a setting, its value and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ConfigDict

from diffplan.config.config import Config, with_settings


@dataclass(frozen=True)
class Decision:
    """One setting, "section.key", its value and, in a sentence with figures, what was measured."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    setting: str
    value: bool | int | float | str
    reason: str

    def __str__(self) -> str:
        value = f"{self.value:.4g}" if isinstance(self.value, float) else self.value
        return f"{self.setting} = {value}: {self.reason}"


def with_decisions(config: Config, decisions: Iterable[Decision]) -> Config:
    """A copy with what was decided."""
    return with_settings(config, {each.setting: each.value for each in decisions})
