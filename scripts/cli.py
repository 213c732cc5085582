"""The `diffplan` command: finds the subcommand, parses its options, runs it.

A subcommand is a frozen dataclass with a `run` method; its docstring is the help. Its module is
imported only when asked for, so that `diffplan --help` answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from diffplan import __version__
from diffplan.errors import DiffplanError, PartialResult
from diffplan.scripts.parser import read_options

# words on the command line -> (module, class, one line for the overview)
COMMANDS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("datasets", "make"): ("datasets", "Make", "make a maze dataset here, seeded"),
    ("datasets", "list"): ("datasets", "List", "datasets on this machine and those it can make"),
    ("datasets", "download"): ("datasets", "Download", "fetch D4RL or Minari data by name"),
    ("datasets", "show"): ("datasets", "Show", "what a dataset holds, before training on it"),
    ("train",): ("train", "Train", "train a planner: diffplan train CONFIG --dataset ID"),
    ("evaluate",): ("evaluate", "Evaluate", "seeded episodes of a trained planner, with pictures"),
    ("compare",): ("studies", "Compare", "one trained model, every way of planning with it"),
    ("export",): ("export", "Export", "a trained planner for a machine without PyTorch"),
    ("calibrate",): ("calibrate", "Calibrate", "statistics of a trained model for dpm-solver-v3"),
    ("queries",): ("queries", "Queries", "what a model of several heads or streams knows, drawn"),
    ("benchmark",): ("benchmark", "Benchmark", "what a decision costs, stage by stage, and why"),
    ("study",): ("studies", "Study", "several datasets and training seeds, one table"),
    ("survey",): ("studies", "Survey", "every planner and process on the same data, one table"),
    ("family",): ("studies", "Family", "one proposal refined by each process of a survey, drawn"),
    ("demo",): ("demo", "Demo", "all of it once: data, training, evaluation, pictures"),
}

_GROUPS = {words[0] for words in COMMANDS if len(words) == 2}


def _overview(group: str | None = None) -> str:
    """The commands, or those of a group: all that begin with the same word."""
    shown = {words: line for words, (*_, line) in COMMANDS.items() if group in (None, words[0])}
    width = max(len(" ".join(words)) for words in shown)
    command = "COMMAND" if group is None else f"{group} COMMAND"
    return "\n".join(
        [
            f"diffplan {__version__}: planning from offline data",
            "",
            f"usage: diffplan {command} [OPTIONS]      (diffplan {command} --help tells more)",
            "",
            *(f"  {' '.join(words):{width}}  {line}" for words, line in shown.items()),
        ]
    )


def _split(args: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The subcommand's words and what follows. DiffplanError for an unknown one."""
    # a command of two words before one of its first word
    for length in (2, 1):
        words = tuple(args[:length])
        if words in COMMANDS:
            return words, list(args[length:])
    if args[0] in _GROUPS:
        group = [words[1] for words in COMMANDS if words[0] == args[0] and len(words) == 2]
        asked = args[1] if len(args) > 1 else "nothing"
        raise DiffplanError(
            f"diffplan {args[0]} was given {asked!r}, expected one of: {', '.join(group)}"
        )
    known = sorted({words[0] for words in COMMANDS})
    near = difflib.get_close_matches(args[0], known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DiffplanError(f"unknown command {args[0]!r}; {hint}commands: {', '.join(known)}")


def _run(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
    elif args[0] in _GROUPS and args[1:] in (["-h"], ["--help"]):
        print(_overview(args[0]))
    elif args[0] == "--version":
        print(f"diffplan {__version__}")
    else:
        words, rest = _split(args)
        module, name, _ = COMMANDS[words]
        # the module of this command alone: others load what they need
        command = getattr(import_module(f"diffplan.scripts.{module}"), name)
        parsed(command, rest, " ".join(["diffplan", *words])).run()


def parsed(command: Any, args: Sequence[str], prog: str) -> Any:
    """A command with the options of a command line, by its own `parse` if it has one."""
    if hasattr(command, "parse"):
        return command.parse(args)
    return read_options(command, args, prog)


def exit_status(run: Callable[[], object]) -> int:
    """Do something for the command line; a user's mistake is one line and status 2.

    Status 3 is for a result with parts missing.
    """
    try:
        run()
    except DiffplanError as error:
        # one line, whatever a library said in several
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 3 if isinstance(error, PartialResult) else 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader (head, less) has gone; python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a user's mistake)."""
    args = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: _run(args))


if __name__ == "__main__":
    sys.exit(main())
