"""Commands in processes of their own, and what became of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PATIENCE = 120.0  # seconds until a command counts as hanging
_TICK = 0.01


@dataclass
class Command:
    """A `diffplan` command that runs in a session of its own."""

    pid: int
    folder: Path

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return (self.folder / "err").read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """Lines of stderr without progress bars."""
        every = self.err.replace("\r", "\n").splitlines()
        return [line for line in every if line.strip() and "|" not in line]

    def send(self, signum: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def wait(self) -> int:
        """Its exit status, negative for the signal that killed it; -99 where it hangs."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_TICK)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -99

    @property
    def survivors(self) -> list[int]:
        """Processes of its session that live on, which are ended."""
        # the last helper of multiprocessing ends a moment after the others
        left: list[int] = []
        for _ in range(200):
            left = list(_session(self.pid))
            if not left:
                return []
            time.sleep(_TICK)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def start(
    words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None
) -> Command:
    """Start a command in a folder; `before` runs in its process.

    Forked: PyTorch is imported once, in this process, which has one thread.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("out", "err"):
        (folder / name).write_text("")
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Command(pid, folder)
    status = 1
    try:
        os.setsid()
        out, err = (os.open(folder / name, os.O_WRONLY) for name in ("out", "err"))
        os.dup2(out, 1)
        os.dup2(err, 2)
        # those of a test run are its own
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        before()
        from diffplan.scripts.cli import main

        status = main(list(words))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def run(
    words: Sequence[str], folder: Path, before: Callable[[], object] = lambda: None
) -> tuple[Command, int]:
    """Run a command to its end; its exit status."""
    command = start(words, folder, before)
    return command, command.wait()


def until(there: Callable[[], object], command: Command) -> bool:
    """Wait for something to be there; False where the command ends or hangs before."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if there():
            return True
        if os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return bool(there())
        time.sleep(_TICK)
    return False


def _session(leader: int) -> Iterator[int]:
    """Living processes of a session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state not in "ZX":
                    yield int(entry.name)


def hidden(folder: Path) -> list[Path]:
    """Hidden files and folders below a folder: what is half-done has such names."""
    return [path for path in folder.rglob(".*") if path.name not in (".", "..")]


@dataclass
class Outcome:
    """One case. wrong: in what it was not as it should be, in words; "" where it was."""

    kind: str
    name: str
    wrong: list[str] = field(default_factory=list)
    traceback: bool = False
    silent: bool = False
    left: bool = False
    ran: bool = False


class Judge:
    """Collects outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def case(
        self,
        kind: str,
        name: str,
        command: Command,
        status: int,
        expected: int | Sequence[int],
        *says: str,
        kept: Callable[[], str] = lambda: "",
        leaves: Path | None = None,
        marker: Path | None = None,
    ) -> Outcome:
        """Judge a command that has ended.

        expected: exit status. says: texts of its last line on stderr. kept: looks at what should be
        there; "" or what is wrong with it. leaves: folder without hidden files. marker: a file that
        code in the data would write.
        """
        found = Outcome(kind, name)
        statuses = (expected,) if isinstance(expected, int) else expected
        last = command.lines[-1] if command.lines else ""
        found.traceback = "Traceback" in command.err
        found.silent = status not in statuses or any(text not in last for text in says)
        if found.silent:
            found.wrong.append(f"status {status}, {last[:200]!r}, expected {statuses} {says}")
        if found.traceback:
            _, _, told = command.err.partition("Traceback")
            found.wrong.append(f"a traceback{told[-1500:]}")
        if wrong := kept():
            found.silent = True
            found.wrong.append(wrong)
        survivors = command.survivors
        leavings = hidden(leaves if leaves is not None else command.folder)
        found.left = bool(survivors or leavings)
        if found.left:
            found.wrong.append(f"left behind: {survivors} {[str(p) for p in leavings]}")
        found.ran = marker is not None and marker.exists()
        if found.ran:
            found.wrong.append("code of the data was run")
        self.outcomes.append(found)
        return found

    def table(self) -> str:
        """A line for every kind."""
        from diffplan.scripts.report.results import aligned

        rows = [["kind", "cases", "tracebacks", "silent or lost", "left behind", "code run"]]
        for kind in [*dict.fromkeys(o.kind for o in self.outcomes), "all"]:
            mine = [o for o in self.outcomes if kind in (o.kind, "all")]
            counts = (
                sum(getattr(o, name) for o in mine)
                for name in ("traceback", "silent", "left", "ran")
            )
            rows.append([kind, str(len(mine)), *map(str, counts)])
        wrong = [f"{o.kind}, {o.name}: {'; '.join(o.wrong)}" for o in self.outcomes if o.wrong]
        return "\n".join([aligned(rows), *wrong])
