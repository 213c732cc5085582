"""Processes that do jobs and end together: with the one that starts them, and with the first that
fails.

Each has a pipe of its own, and no thread of the starting process has a part in it: whatever stops
that one finds nothing half-sent.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from tqdm import tqdm

from diffplan.errors import DiffplanError

_IDLE = -1

T = TypeVar("T")
Job = Callable[[], T]
"""What a process does: picklable, as is what it returns."""


def count_of(workers: int | None) -> int:
    """How many processes are asked for; None: one per core up to 8."""
    return workers or min(8, os.cpu_count() or 1)


def in_order(jobs: Sequence[Job[T]], workers: int | None, advice: str) -> Iterator[T]:
    """What jobs return, in their order; with one worker they are done here. As `worker_pool`.

    workers: at most, see `count_of`.
    """
    workers = min(count_of(workers), len(jobs))
    if workers == 1:
        for job in jobs:
            yield job()
        return
    with worker_pool(workers, advice) as pool:
        yield from pool.in_order(jobs)


@contextmanager
def worker_pool(workers: int, advice: str) -> Iterator[Workers]:
    """Processes for a block; whatever ends it early, they are stopped at once.

    advice: what to do where one dies. DiffplanError in that case.
    """
    pool = Workers(workers)
    try:
        yield pool
        pool.close()
    except _DiedError:
        pool.kill()
        print(file=sys.stderr)  # what the process has left of its progress bar ends here
        raise DiffplanError(
            f"one of the {workers} processes was killed or died, perhaps for want of memory; "
            f"{advice}"
        ) from None
    except BaseException:
        pool.kill()
        raise


class _DiedError(Exception):
    """A process ended without an answer."""


class _RemoteError(Exception):
    """Where an error was raised, in words: tracebacks do not travel."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ticket: int = _IDLE  # of the job that it does

    def give(self, ticket: int, job: Job[Any]) -> None:
        """Send it a job."""
        sent = pickle.dumps(job)
        try:
            self.pipe.send_bytes(sent)
        except OSError:
            raise _DiedError from None
        self.ticket = ticket

    def take(self) -> Any:
        """What the job returned or raised."""
        try:
            told = self.pipe.recv_bytes() if self.pipe.poll() else b""
        except (EOFError, OSError):
            told = b""
        if not told:
            raise _DiedError
        self.ticket = _IDLE
        outcome, error, where = pickle.loads(told)
        if error is not None:
            raise error from _RemoteError(where)
        return outcome


class Workers:
    """Processes that wait for jobs. See `worker_pool`, which ends them."""

    def __init__(self, count: int) -> None:
        # a forked process would inherit locks and a device context that it cannot use
        context = get_context("spawn")
        self._workers: list[_Worker] = []
        self._tickets = itertools.count()
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,))
            process.start()
            there.close()
            self._workers.append(_Worker(process, here))

    def as_done(self, jobs: Iterable[Job[T]]) -> Iterator[tuple[int, T]]:
        """Numbers of jobs and what they return, as they end. A job is taken when it is begun.

        Raises what a job raises.
        """
        left, numbers = enumerate(jobs), dict[int, int]()
        while True:
            for worker in self._workers:
                if worker.ticket == _IDLE and (given := next(left, None)) is not None:
                    ticket = next(self._tickets)
                    worker.give(ticket, given[1])
                    numbers[ticket] = given[0]
            # an idle one was offered a job: there is none left
            if not numbers and any(worker.ticket == _IDLE for worker in self._workers):
                return
            for worker in self._ready():
                number, outcome = numbers.pop(worker.ticket, None), worker.take()
                if number is not None:  # of these jobs, not of some that were left to themselves
                    yield number, outcome

    def in_order(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """What jobs return, in their order."""
        held, following = dict[int, T](), 0
        for number, outcome in self.as_done(jobs):
            held[number] = outcome
            while following in held:
                yield held.pop(following)
                following += 1

    def close(self) -> None:
        """End those that wait; what nobody waits for is not done to its end."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.ticket != _IDLE:
                worker.process.kill()
        self._join()

    def kill(self) -> None:
        """End all at once."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        self._join()

    def _join(self) -> None:
        for worker in self._workers:
            worker.process.join()

    def _ready(self) -> list[_Worker]:
        """Workers with an answer, or that have ended."""
        busy = [worker for worker in self._workers if worker.ticket != _IDLE]
        found = wait([each for w in busy for each in (w.pipe, w.process.sentinel)])
        return [w for w in busy if w.pipe in found or w.process.sentinel in found]


def _serve(jobs: Connection) -> None:
    """Do jobs until there is nobody to do them for."""
    # Ctrl-C goes to the whole group; the starting process stops the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # its own lock is one between processes, which is missed aloud where a process is killed
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            sent = jobs.recv_bytes()
            jobs.send_bytes(_done(sent))


def _done(sent: bytes) -> bytes:
    try:
        return pickle.dumps((pickle.loads(sent)(), None, ""))
    except BaseException as error:
        where = "".join(traceback.format_exception(error))
        try:
            told = pickle.dumps((None, error, where))
            pickle.loads(told)
        except Exception:  # some errors do not travel
            told = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}"), where))
        return told


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
