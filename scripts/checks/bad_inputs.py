"""Hundreds of bad inputs, each through the command it would reach: is it named, in one line?

A case is bad if no user can have meant it. It passes if the command ends with status 2 and one line
on stderr, or, of `datasets show`, with a line PROBLEM; if no code of it ran; and if nothing is left
that was not there before.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main
from diffplan.scripts.checks.bad_cases import CANARY, FILES, Case
from diffplan.scripts.checks.bad_folders import FOLDERS

KINDS = {**FILES, **FOLDERS}
_FAULTS = ("traceback", "silent", "several lines", "code run", "left behind")


@dataclass(frozen=True)
class BadInputs:
    """Feed bad inputs to the commands and count what goes wrong, by kind.

    Exits with 1 where a case fails.
    """

    every: int = 1
    """Only every so many cases of a kind, the first included."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND...")] = ()
    """Kinds to do, where not all."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the counts go."""
    show: bool = True
    """Print what each failing case said."""

    def run(self) -> None:
        """Do the cases, print the table, write the counts."""
        from diffplan.scripts.report.files import check_writable, write_json

        if self.every < 1:
            raise DiffplanError(f"--every is {self.every}, expected at least 1")
        if unknown := set(self.only) - set(KINDS):
            raise DiffplanError(f"unknown kind {min(unknown)}; known: {', '.join(KINDS)}")
        if self.json is not None:
            check_writable(self.json, "--json")
        began, rows = time.perf_counter(), dict[str, dict[str, int]]()
        with _scratch() as folder:
            for kind in self.only or KINDS:
                rows[kind] = {"cases": 0, **dict.fromkeys(_FAULTS, 0)}
                for number, case in enumerate(KINDS[kind](folder)):
                    if number % self.every:
                        continue
                    rows[kind]["cases"] += 1
                    for fault, said in _tried(case, folder):
                        rows[kind][fault] += 1
                        if self.show:
                            print(f"{kind}: {case.name}: {fault}: {said[:300]!r}")
        total = {key: sum(row[key] for row in rows.values()) for key in ("cases", *_FAULTS)}
        for kind, row in {**rows, "all": total}.items():
            print(f"{kind:<22}" + "".join(f"{row[key]:>6} {key} " for key in row))
        print(f"{time.perf_counter() - began:.0f} s")
        if self.json is not None:
            write_json(self.json, {"rows": rows, "all": total})
        if any(total[fault] for fault in _FAULTS):
            sys.exit(1)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of its own for the data and caches of everything that follows, entered."""
    keys = ("DIFFPLAN_CACHE", "MINARI_DATASETS_PATH", "D4RL_DATASET_DIR")
    before, where = {key: os.environ.get(key) for key in keys}, Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="diffplan-bad-inputs-"))
    try:
        os.environ |= {key: str(folder / "home" / key.lower()) for key in keys}
        (folder / "work").mkdir()
        os.chdir(folder / "work")
        yield folder
    finally:
        os.chdir(where)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Said:
    """What a command left of itself."""

    status: int = 0
    out: str = ""
    error: str = ""
    trace: str = ""
    left: list[str] = field(default_factory=list)


def _tried(case: Case, folder: Path) -> Iterator[tuple[str, str]]:
    """The faults of a case, with what was said."""
    canary = folder / CANARY
    before = _files(folder)
    said = _run(case)
    text = said.error.strip()
    if said.trace:
        yield "traceback", said.trace
    elif said.status == 0 and not any(word in said.out for word in ("PROBLEM", "doubt  ")):
        yield "silent", said.out
    elif said.status != 0 and len(text.splitlines()) != 1:
        yield "several lines", text
    if canary.exists():
        canary.unlink()
        yield "code run", text
    if left := sorted(_files(folder) - before):
        for name in left:
            _remove(folder / name)
        yield "left behind", ", ".join(left)
    for path in case.files:
        _remove(path)


def _run(case: Case) -> _Said:
    out, error, said = io.StringIO(), io.StringIO(), _Said()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            said.status = case.run()
        except SystemExit as stop:
            said.status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            said.trace = traceback.format_exc()[-400:]
    said.out, said.error = out.getvalue(), error.getvalue()
    return said


def _files(folder: Path) -> set[str]:
    """Everything in the folder but finished copies in the cache."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or name.parts[0] != "home":
            found.add(str(name))
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(BadInputs, "diffplan.scripts.checks.bad_inputs", sys.argv[1:]))
