"""Whether the tests notice one-line mistakes, drawn at random from the code.

python -m diffplan.scripts.checks.mutants --count 60 --seed 0

Each is made in a copy of the checkout, where the tests run that import its file, and those of its
room, until one fails. Survivors are to be looked at: some change nothing that can be seen, some
fail a test of another room.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diffplan.scripts.checks import main

_OPERATORS: dict[type[Any], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr,
}  # fmt: skip
_DROPPED = {"detach", "clamp", "clamp_", "abs", "square", "sqrt", "copy"}
_TWINS = {"min": "max", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "any": "all"}
_TWINS |= {new: old for old, new in _TWINS.items()}
_UNSEEN = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
_TINY = 1e-3  # constants below keep divisions finite: twice one is as good


class Mutant(NamedTuple):
    """What stands in a line of a file instead of some of its columns, which are bytes."""

    path: Path
    line: int
    columns: slice
    text: str

    def apply(self, folder: Path) -> str:
        """Write it into a copy of the checkout; returns the changed line."""
        lines = (folder / self.path).read_bytes().split(b"\n")
        row, (first, after) = lines[self.line - 1], (self.columns.start, self.columns.stop)
        lines[self.line - 1] = row[:first] + self.text.encode() + row[after:]
        (folder / self.path).write_bytes(b"\n".join(lines))
        return lines[self.line - 1].decode().strip()


def mutants_of(path: Path, node: ast.AST) -> Iterator[Mutant]:
    """All mutants of a file's tree, of what users are told none."""
    if isinstance(node, ast.expr | ast.stmt) and node.lineno == node.end_lineno:
        columns = slice(node.col_offset, node.end_col_offset)
        for new in _changes(node):
            text = new if isinstance(new, str) else f"({ast.unparse(new)})"
            if text != f"({ast.unparse(node)})":
                yield Mutant(path, node.lineno, columns, text)
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            typed = name in ("annotation", "returns", "decorator_list")
            if isinstance(child, ast.AST) and not isinstance(child, _UNSEEN) and not typed:
                yield from mutants_of(path, child)


def _changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(left, [op], [right]) if type(op) in _OPERATORS:
            yield ast.Compare(left, [_OPERATORS[type(op)]()], [right])
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
            if isinstance(op, ast.Add | ast.Sub | ast.BitAnd):
                yield left
        case ast.BoolOp(op, values):
            yield ast.BoolOp(_OPERATORS[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.Invert() | ast.USub(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(bool() as value):
            yield repr(not value)
        case ast.Constant(int() as value):
            yield repr(value + 1 if value < 10 else 2 * value)
        case ast.Constant(float() as value) if not 0 < value < _TINY:
            yield repr(2 * value if value else 1.0)
        case ast.Call(ast.Attribute(owner, name), args, keywords):
            if name in _DROPPED:
                yield owner
            if name in _TWINS:
                yield ast.Call(ast.Attribute(owner, _TWINS[name]), args, keywords)
        case ast.Call(ast.Name(name), args, keywords) if name in _TWINS:
            yield ast.Call(ast.Name(_TWINS[name]), args, keywords)
        case ast.AugAssign() | ast.Expr(ast.Call()):
            yield "pass"
    match node:  # of one kind: others fail at the first call
        case ast.Call(func, [first, second, *rest], keywords):
            if type(first) is type(second) is not ast.Starred:
                yield ast.Call(func, [second, first, *rest], keywords)


def tests_of(root: Path, path: Path) -> list[str]:
    """Files of tests of a file's room, those first that mirror it, then those that import it."""
    tests = {p: p.read_text() for p in sorted((root / "tests").rglob("test_*.py"))}
    room = root / "tests" / path.parent.relative_to("diffplan")
    module = ".".join(path.with_suffix("").parts)
    own = [p for p in tests if p.parent == room and p.name.startswith(f"test_{path.stem}")]
    users = [p for p, text in tests.items() if f"from {module} import" in text]
    near = [p for p in tests if room in p.parents]
    return [str(p.relative_to(root)) for p in dict.fromkeys(own + users + near)]


@dataclass(frozen=True)
class Mutants:
    """Draw lines and mutants of them, and run the tests against each."""

    count: int = 60
    """Mutants to draw, each in another line."""
    seed: int = 0
    """Of the draw."""
    rooms: tuple[str, ...] = ("model", "data", "planning", "engines", "agents", "envs")
    """Rooms of the package, as many from each, and every line of a room as likely."""
    seconds: int = 600
    """Longest run of the tests against one mutant."""

    def run(self) -> list[dict[str, str]]:
        """Print one line of JSON for each mutant; returns them."""
        root, rows = Path.cwd(), []
        for mutant in self.drawn(root):
            with tempfile.TemporaryDirectory() as name:
                copy = Path(name, "copy")
                ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist")
                shutil.copytree(root, copy, symlinks=True, ignore=ignored)
                row = {"place": f"{mutant.path}:{mutant.line}", "mutant": mutant.apply(copy)}
                rows.append(row | {"killed by": self._killer(copy, mutant.path)})
            print(json.dumps(rows[-1]), flush=True)
        return rows

    def drawn(self, root: Path) -> list[Mutant]:
        """The mutants of this seed, of one room after the other."""
        source, found = random.Random(self.seed), list[Mutant]()
        for index, room in enumerate(self.rooms):
            by_line: dict[tuple[Path, int], list[Mutant]] = {}
            for file in sorted((root / "diffplan" / room).rglob("*.py")):
                for mutant in mutants_of(file.relative_to(root), ast.parse(file.read_text())):
                    by_line.setdefault((mutant.path, mutant.line), []).append(mutant)
            count = (self.count + index) // len(self.rooms)
            found += [source.choice(by_line[at]) for at in source.sample(sorted(by_line), count)]
        return found

    def _killer(self, copy: Path, path: Path) -> str:
        """The first test that fails, "" if none does, "time" if they took too long."""
        where = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "CI": "1"}
        command = [sys.executable, "-m", "pytest", "-xq", "-m", "not slow", *tests_of(copy, path)]
        with open(copy / "said", "w+") as said:
            try:
                subprocess.run(
                    command, cwd=copy, env=where, stdout=said, timeout=self.seconds, check=False
                )
            except subprocess.TimeoutExpired:
                return "time"
            said.seek(0)
            return next((x.strip() for x in said if x.startswith(("FAILED", "ERROR"))), "")


if __name__ == "__main__":
    sys.exit(main(Mutants, __spec__.name, sys.argv[1:]))
