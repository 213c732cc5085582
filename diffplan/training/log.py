"""The log of a run: mean losses, in a file of JSON lines that a resumed run continues."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


class Diverged(Exception):
    """What is not finite any more, and since which update."""


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


class Means:
    """Mean losses since the line before, summed where they are: the device is not waited for."""

    def __init__(self, windows: int) -> None:
        """windows: of one update, in all processes."""
        self.windows = windows
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.count, self.totals = 0, dict[str, Tensor]()
        self.each = list[dict[str, Tensor]]()
        self.began = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the losses of an update."""
        self.count += 1
        self.each.append({name: value.detach() for name, value in losses.items()})
        for name, value in self.each[-1].items():
            total = self.totals.get(name)
            self.totals[name] = value if total is None else total + value

    def windows_per_second(self) -> float:
        """Windows learned per second."""
        if self.totals:
            next(iter(self.totals.values())).item()  # a GPU may not have learned from all of them
        return self.count * self.windows / (time.perf_counter() - self.began)

    def take(self, step: int) -> dict[str, float]:
        """The means; they begin anew. Diverged for the first loss that is not finite."""
        values = {f"loss/{name}": float(sum_) / self.count for name, sum_ in self.totals.items()}
        if not all(math.isfinite(value) for value in values.values()):
            for update, losses in enumerate(self.each, step - self.count + 1):
                for name, value in losses.items():
                    if not math.isfinite(value):
                        raise Diverged(f"loss/{name} is {float(value)} at update {update}")
        self.count, self.totals, self.each = 0, {}, []
        return values
