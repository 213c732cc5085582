"""The `diffplan` command: finds the subcommand, parses its options, runs it.

A subcommand is a frozen dataclass with a `run` method; its docstring is the help. Its module is
imported only when asked for, so that `diffplan --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from diffplan.errors import DiffplanError, PartialResult, nearest
from diffplan.model.run_folder import own_version
from diffplan.scripts.parser import check_counts, read_options
from diffplan.scripts.stopping import Stopped, stopped_by_signals

# words on the command line -> (module, class, one line for the overview)
COMMANDS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("datasets", "make"): ("datasets", "Make", "make data here, seeded: mazes, locomotion, arms"),
    ("datasets", "list"): ("datasets", "List", "datasets on this machine and those it can make"),
    ("datasets", "download"): ("datasets", "Download", "fetch D4RL or Minari data by name"),
    ("datasets", "show"): ("datasets", "Show", "what a dataset holds, before training on it"),
    ("train",): ("train", "Train", "train a planner: diffplan train CONFIG --dataset ID"),
    ("evaluate",): ("evaluate", "Evaluate", "seeded episodes of a trained planner, with pictures"),
    ("tune",): ("tune", "Tune", "choose how a trained run plans, on seeds of their own"),
    ("export",): ("export", "Export", "a trained planner for a machine without PyTorch"),
    ("calibrate",): ("calibrate", "Calibrate", "statistics of a trained model for dpm-solver-v3"),
    ("queries",): ("queries", "Queries", "what a model of several heads or streams knows, drawn"),
    ("analyse",): ("analyse", "Analyse", "what decides a run's plans, and what to change, drawn"),
    ("benchmark",): ("benchmark", "Benchmark", "what a decision costs, stage by stage, and why"),
    ("study",): ("studies", "Study", "learners, planners or ways of planning in one fair table"),
    ("family",): ("studies", "Family", "one proposal refined by each process of a study, drawn"),
    ("demo",): ("demo", "Demo", "all of it once: data, training, evaluation, pictures"),
}

# of these the same words go on where they were
_GOING_ON = {("tune",), ("study",), ("demo",), ("datasets", "download")}
_SIMULATORS = {"gymnasium", "gymnasium_robotics", "metaworld", "mujoco", "dm_control", "ogbench"}
_LONG = 120  # characters of a path in a message
_GROUPS = {words[0] for words in COMMANDS if len(words) == 2}


def _overview(group: str | None = None) -> str:
    """The commands, or those of a group: all that begin with the same word."""
    shown = {words: line for words, (*_, line) in COMMANDS.items() if group in (None, words[0])}
    width = max(len(" ".join(words)) for words in shown)
    command = "COMMAND" if group is None else f"{group} COMMAND"
    return "\n".join(
        [
            f"diffplan {own_version()}: planning from offline data",
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
    raise DiffplanError(
        f"unknown command {args[0]!r}; {nearest(args[0], known)}commands: {', '.join(known)}"
    )


def _run(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
    elif args[0] in _GROUPS and args[1:] in (["-h"], ["--help"]):
        print(_overview(args[0]))
    elif args[0] == "--version":
        print(f"diffplan {own_version()}")
    else:
        words, rest = _split(args)
        module, name, _ = COMMANDS[words]
        # the module of this command alone: others load what they need
        command = getattr(import_module(f"diffplan.scripts.{module}"), name)
        parsed(command, rest, " ".join(["diffplan", *words])).run()


def parsed(command: Any, args: Sequence[str], prog: str) -> Any:
    """A command with the options of a command line, by its own `parse` if it has one."""
    _refuse_nothing(args)
    if hasattr(command, "parse"):
        found = command.parse(args)
    else:
        found = read_options(command, args, prog, turned=_turned(command))
    check_counts(found)
    return found


def _refuse_nothing(args: Sequence[str]) -> None:
    """Raise DiffplanError for "": as a path it would be the folder that the command runs in."""
    option = "an argument"
    for word in args:
        name, equals, value = word.partition("=")
        option = name if word.startswith("--") else option
        if not word or (equals and not value and word.startswith("--")):
            raise DiffplanError(f"{option} was given nothing (''); give it a value")


def _turned(command: Any) -> set[str]:
    """The options that --help shows: its own, where it does not name some, and some of planning."""
    from diffplan.scripts.planning_options import TURNED

    own = getattr(command, "turned", None) or {each.name for each in fields(command)}
    return {*own, *TURNED}


def exit_status(run: Callable[[], object], args: Sequence[str] = ()) -> int:
    """Do something for the command line; a user's mistake is one line and status 2.

    Status 3 is for a result with parts missing, 128 and the signal's number for one that stopped
    it. args: of the command line, to say how to go on.
    """
    try:
        with stopped_by_signals():
            run()
    except DiffplanError as error:
        return _refused(str(error), 3 if isinstance(error, PartialResult) else 2)
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
            _say(f"\nstopped by {stop}{_goes_on(args, stop)}")
        return stop.status
    except BrokenPipeError:
        # the reader (head, less) has gone; python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    # the machine's refusals: disks, names, rights, memory
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return _refused(": ".join([error.strerror or said(error), *map(_shortened, names)]), 2)
    except (MemoryError, RuntimeError) as error:
        if not _wants_memory(error):
            raise
        return _refused(f"out of memory: {said(error)}; ask for less at once", 2)
    return 0


def _refused(message: str, status: int) -> int:
    # one line, whatever a library said in several
    _say(f"error: {' '.join(message.split())}")
    return status


def _say(line: str) -> None:
    """A line on stderr, past what is left of a progress bar; nothing where nobody reads it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def said(error: BaseException) -> str:
    """The first line of an exception's message, or what it is called."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _shortened(name: str) -> str:
    return name if len(name) <= _LONG else f"{name[:_LONG]}... ({len(name)} characters)"


def _wants_memory(error: Exception) -> bool:
    # PyTorch's own exceptions, without an import of it
    marks = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in marks)


def _goes_on(args: Sequence[str], stop: Stopped) -> str:
    """How to go on from what a stopped command has kept."""
    if args[:1] == ["train"] and stop.kept is not None:
        words = [*args, *([] if "--resume" in args else ["--resume"])]
        return f"; go on with: diffplan {shlex.join(words)}"
    from diffplan.envs.makers.catalogue import OGBENCH  # tables alone

    going_on = not {tuple(args[:1]), tuple(args[:2])}.isdisjoint(_GOING_ON)
    if going_on or (args[:2] == ["datasets", "make"] and not OGBENCH.keys().isdisjoint(args)):
        return f"; what is done is kept, go on with: diffplan {shlex.join(args)}"
    return "; nothing half-done is left"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `exit_status`."""
    args = list(sys.argv[1:] if argv is None else argv)
    with warnings_in_a_line():
        return exit_status(lambda: _run(args), args)


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Warnings of ours without the place in the code, and without those of simulators.

    What these say of a version, or of an environment's form, is tried by `check_environment`.
    """
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: Any, filename: str, *place: Any) -> None:
            parts = Path(filename).parts
            if "diffplan" in parts:
                _say(f"note: {message}")
            elif not _SIMULATORS & set(parts):
                others(message, category, filename, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


if __name__ == "__main__":
    sys.exit(main())
