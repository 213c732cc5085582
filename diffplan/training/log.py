"""The log of a run: a file of JSON lines that a resumed run continues."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path


class MetricsFile:
    """metrics.jsonl: one JSON object a line with `step`, `seconds` and what was measured."""

    def __init__(self, path: Path, step: int, active: bool) -> None:
        """Lines after the resumed `step` are dropped. Nothing is written unless `active`."""
        self.path, self.active = path, active
        self.pending: dict[str, float] = {}
        if active and path.exists():
            kept = [row for row in path.read_text().splitlines() if _step_of(row) <= step]
            temporary = path.with_name(f".{path.name}.writing")
            temporary.write_text("".join(f"{row}\n" for row in kept))
            os.replace(temporary, path)

    def __enter__(self) -> MetricsFile:
        self.file = self.path.open("a") if self.active else None
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, name: str, value: float) -> None:
        """Keep a value for the next line."""
        self.pending[name] = value

    def write(self, step: int, seconds: float, values: dict[str, float]) -> dict[str, float]:
        """Write a line; returns the values in it."""
        row = {**values, **self.pending}
        self.pending = {}
        if self.file is not None:
            line = {"step": step, "seconds": round(seconds, 3), **row}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        return row


def _step_of(row: str) -> float:
    """The step of a metrics line; infinite where a killed process left half a line."""
    try:
        return float(json.loads(row)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
