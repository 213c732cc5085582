"""Reads the options of a command; a refusal is one line, as everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from diffplan.errors import DiffplanError

_MOST = {
    "threads": 1024,
    "workers": 1024,
    "num_envs": 100_000,
    "batch": 1_000_000,
    "candidates": 1_000_000,
    "horizon": 100_000,
    "denoising_steps": 100_000,
    "episodes": 10_000_000,
    "tune_episodes": 10_000_000,
    "select_episodes": 10_000_000,
    "time_limit": 10_000_000,
    "seeds": 10_000,
}


def read_options(command: Any, args: Sequence[str], prog: str, **options: Any) -> Any:
    """A command, a dataclass, with the options of a command line.

    options: of `tyro.cli`. Raises DiffplanError for what its parser refuses, which is drawn as a
    box of several lines there; SystemExit after --help.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(command, args=args, prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise DiffplanError(f"{_refusal(said.getvalue())}; see {prog} --help") from None
    sys.stderr.write(said.getvalue())
    return found


def check_counts(command: Any) -> None:
    """Raise DiffplanError for a number of a command, a dataclass, that no machine could serve."""
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        most = _MOST.get(field.name, 2**31 - 1)
        for count in value if isinstance(value, tuple) else (value,):
            if isinstance(count, int) and count > most:
                option = f"--{field.name.replace('_', '-')}"
                raise DiffplanError(f"{option} must be at most {most:,}, got {count:,}")


def _refusal(box: str) -> str:
    """What tyro's box says, without what it repeats of the help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # the frame is drawn in ASCII, or left out, where the terminal knows no better
    lines = [line[2:].rstrip(" │") for line in text.splitlines() if line[:2] in ("│ ", "  ")]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= set("─-"):
            parts.append([])
        else:
            parts[-1].append(line)
    body = parts[:-1] or parts  # the last part is about --help
    first = " ".join(line.strip() for line in parts[0] if not line.startswith(" "))
    # options are indented, and what they are for further still
    shown = [line.strip() for part in body for line in part if re.match(r" {4}\S", line)]
    if first.startswith("Missing from"):
        return f"missing: {', '.join(shown)}"
    # of a union of types each says why it is none
    refused = first.removeprefix("Error parsing ").partition(" Got errors")[0].rstrip(". ")
    refused = re.sub(
        r"invalid literal for int\(\) with base 10: (.*)", r"\1, expected INT", refused
    )
    if shown and any("meant" in line for part in body for line in part):
        refused += f"; did you mean {shown[0].split()[0]}?"
    return refused or "these options do not go together"
