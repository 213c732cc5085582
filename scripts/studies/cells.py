"""The cells of a study: which there are, which are done, what is left and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffplan.errors import DiffplanError
from diffplan.scripts.report.markdown import duration
from diffplan.scripts.studies.rows import Row
from diffplan.scripts.studies.sources import Source
from diffplan.scripts.studies.work import Budget, do

# CPU seconds of an update and of an episode on a core of an Intel Xeon, until cells tell better
_UPDATE = {None: 0.04, "cloning": 0.0024, "td3bc": 0.0065, "iql": 0.0085, "rebrac": 0.015}
_EPISODE = 0.5


@dataclass(frozen=True)
class Cell:
    """One row, on one source, with one training seed."""

    source: Source
    label: str
    row: Row
    seed: int

    def __str__(self) -> str:
        return f"{self.source.name}, {self.label}, training seed {self.seed}"


@dataclass(frozen=True)
class Cells:
    """Of one study. out: its folder. group, rows: what is compared.

    seeds: of the training; a source that is a run has its own.
    """

    out: Path
    sources: tuple[Source, ...]
    group: str
    rows: Mapping[str, Row]
    seeds: range
    budget: Budget

    @cached_property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Source -> row -> why it is not done. Looks at all data and environments.

        Raises DiffplanError where data, environments or settings do not go together.
        """
        found: dict[str, dict[str, str]] = {}
        for source in self.sources:
            reasons = {k: why for k, row in self.rows.items() if (why := source.refusal(row))}
            if len(reasons) == len(self.rows):
                label, why = next(iter(reasons.items()))
                raise DiffplanError(f"{source.word} goes with none of the rows; {label}: {why}")
            found[source.name] = reasons
            for label, row in self.rows.items():
                if label not in reasons:
                    self.asked(Cell(source, label, row, 0))
        return found

    @cached_property
    def all(self) -> tuple[Cell, ...]:
        """Seed by seed, so that a study that is cut has every row."""
        places = range(len(self.seeds))
        return tuple(
            Cell(source, label, row, self.seeds[place] if own is None else own)
            for place in places
            for label, row in self.rows.items()
            for source in self.sources
            if label not in self.left_out[source.name]
            and place < (row.seeds or len(self.seeds))
            and ((own := _own_seed(source)) is None or place == 0)
        )

    def of(self, source: Source, label: str) -> list[dict[str, Any]]:
        """The finished cells of a row, with their training seeds, in order."""
        mine = [c for c in self.all if c.source is source and c.label == label]
        found = [(cell.seed, self.done(cell)) for cell in mine]
        return [{**kept, "training_seed": seed} for seed, kept in found if kept is not None]

    def folder(self, source: Source) -> Path:
        return self.out / source.name

    def run(self, cell: Cell) -> Path:
        """Of a planner's network."""
        if cell.source.header is not None:
            return Path(cell.source.word)
        return self.folder(cell.source) / cell.row.trained / f"seed-{cell.seed}"

    def file(self, cell: Cell) -> Path:
        group = () if self.group == "main" else (self.group,)
        return self.folder(cell.source).joinpath(
            "cells", *group, f"{cell.label}, seed {cell.seed}.json"
        )

    def asked(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell: another one is not taken for it."""
        source, budget = cell.source, self.budget
        row = cell.row.on(source.name)
        asked = {"row": row.identity, "updates": budget.length(row)}
        asked |= {"terminations": source.terminations}
        asked |= {"episodes": budget.episodes, "seed": budget.seed}
        asked["data"] = source.about.identity
        if source.env is not None:
            asked["env"] = source.env
        if row.strides(source.has_goal):
            asked["chosen"] = [budget.tune_episodes, budget.tune_seed]
        if row.method is None and source.header is None:
            asked["settings"] = source.settings(row)
        return dict(json.loads(json.dumps(asked)))

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """The finished cell, None if there is none with these settings."""
        file = self.file(cell)
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found if _same(found["asked"], self.asked(cell)) else None

    def missing(self, index: int = 0, count: int = 1) -> list[Cell]:
        """Those to do, or the share of a part; rows that share a network are in one part."""
        runs = list(dict.fromkeys(map(self.unit, self.all)))
        mine = set(runs[index::count])
        return [c for c in self.all if self.unit(c) in mine and self.done(c) is None]

    def unit(self, cell: Cell) -> Path:
        """What its cells have in common that one process must do."""
        return self.run(cell) if cell.row.method is None else self.file(cell)

    def do(self, cell: Cell) -> None:
        """Train and score, and keep it."""
        self.keep(cell, do(cell.source, cell.row, self.run(cell), cell.seed, self.budget))

    def keep(self, cell: Cell, found: dict[str, Any]) -> None:
        from diffplan.scripts.report.files import write_json

        file = self.file(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"asked": self.asked(cell), **found})

    def told(self, cells: Sequence[Cell]) -> str:
        """How much cells are, and how long they take, by those of their row that are done."""
        taken: dict[str, list[float]] = {}
        for cell in self.all:
            # of what learned on a GPU beside others no core's seconds are known
            if (found := self.done(cell)) is not None and "trained_on" not in found:
                seconds = (found["train_cpu_seconds"] or 0) + found["evaluation_cpu_seconds"]
                taken.setdefault(cell.label, []).append(seconds)
        known = {label: sum(each) / len(each) for label, each in taken.items()}
        seconds, trained = 0.0, set()
        for cell in cells:
            first = self.unit(cell) not in trained
            trained.add(self.unit(cell))
            seconds += known[cell.label] if cell.label in known else self._guess(cell, first)
        guessed = any(cell.label not in known for cell in cells)
        by = "a guess until each row has a cell" if guessed else "by the cells that are done"
        count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
        return f"{count}, about {duration(seconds)} of a core ({by})"

    def _guess(self, cell: Cell, trains: bool) -> float:
        """CPU seconds. trains: whether its network is not there from another row."""
        row, budget = cell.row.on(cell.source.name), self.budget
        trains = trains and cell.source.header is None
        tried = len(row.strides(cell.source.has_goal)) * budget.tune_episodes + row.tuned
        method = None if row.method is None else row.method.method
        return _EPISODE * (budget.episodes + tried) + trains * _UPDATE[method] * budget.length(row)


def _own_seed(source: Source) -> int | None:
    """The training seed of a source that is a run."""
    return None if source.header is None else source.header.seed


def _same(kept: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether a cell is the one that is asked for.

    A setting that the kept cell does not have was not there to be changed: at its default it is
    the same.
    """
    if kept == asked:
        return True
    usual = _usual()
    settings, there = asked.get("settings", {}), kept.get("settings", {})
    filled = {
        section: _over(usual.get(section), there[section]) if section in there else usual[section]
        for section in settings
        if section in there or section in usual
    }
    return filled == settings and kept | {"settings": None} == asked | {"settings": None}


def _over(usual: Any, there: Any) -> Any:
    return usual | there if isinstance(usual, dict) and isinstance(there, dict) else there


def _usual() -> dict[str, Any]:
    from diffplan.config.config import Config, config_to_dict

    return dict(json.loads(json.dumps(config_to_dict(Config()))))
