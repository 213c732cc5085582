"""Reads the options of a command; a refusal is one line, as everywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

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


def read_options(
    command: Any,
    args: Sequence[str],
    prog: str,
    turned: Collection[str] | None = None,
    **options: Any,
) -> Any:
    """A command, a dataclass, with the options of a command line.

    turned: names of the options, "section.key" in sections, that --help shows; --help-all shows
    the rest, too. None: all of them. options: of `tyro.cli`. Raises DiffplanError for what its
    parser refuses, which is drawn as a box of several lines there; SystemExit after --help.
    """
    import tyro

    brief = turned is not None and bool({"-h", "--help"} & set(args))
    if brief:
        assert turned is not None
        command, hidden = _brief(command, turned)
        if "default" in options:
            options["default"] = _as_brief(command, options["default"])
        if hidden:
            said = options.get("description", inspect.getdoc(command))
            options["description"] = f"{said}\n\n{hidden} more options: {prog} --help-all"
    args = ["--help" if word == "--help-all" else word for word in args]
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            found = tyro.cli(command, args=args, prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise DiffplanError(f"{_refusal(box.getvalue())}; see {prog} --help") from None
    sys.stderr.write(box.getvalue())
    return found


def _brief(command: Any, turned: Collection[str], prefix: str = "") -> tuple[Any, int]:
    """The dataclass with all but some options left out of the help, and how many these are."""
    import tyro

    hints = get_type_hints(command, include_extras=True)
    annotations: dict[str, Any] = {}
    inside: dict[str, Any] = {}
    hidden = 0
    for each in dataclasses.fields(command):
        hint, name = hints[each.name], f"{prefix}{each.name}"
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(kind):
            # a section that has no name of its own stands at the top
            plain = any(getattr(mark, "name", None) == "" for mark in marks)
            kind, inner = _brief(kind, turned, prefix if plain else f"{name}.")
            hidden += inner
        elif tyro.conf.Suppress not in marks and name not in turned:
            marks.append(tyro.conf.Suppress)
            hidden += 1
        annotations[each.name] = Annotated[kind, *marks] if marks else kind
        if (make := each.default_factory) is not dataclasses.MISSING:
            if dataclasses.is_dataclass(kind):
                make = functools.partial(_made_brief, kind, make)
            inside[each.name] = dataclasses.field(default_factory=make)
    about = {name: getattr(command, name) for name in ("__doc__", "__module__", "__qualname__")}
    made = type(command.__name__, (command,), {"__annotations__": annotations, **inside, **about})
    return dataclasses.dataclass(frozen=True)(made), hidden


def _made_brief(command: Any, make: Callable[[], Any]) -> Any:
    return _as_brief(command, make())


def _as_brief(command: Any, default: Any) -> Any:
    """The default values in a class made by `_brief`."""
    hints, values = get_type_hints(command), {}
    for each in dataclasses.fields(command):
        value = getattr(default, each.name)
        inner = dataclasses.is_dataclass(hints[each.name]) and dataclasses.is_dataclass(value)
        values[each.name] = _as_brief(hints[each.name], value) if inner else value
    return command(**values)


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
        names = [line.split()[0] for line in shown]
        # tyro also finds words within longer names
        given = first.partition(": ")[2].partition(",")[0]
        nearest = difflib.get_close_matches(given, names, n=1) or names
        refused += f"; did you mean {nearest[0]}?"
    return refused or "these options do not go together"
