"""Processes that end together: with the one that starts them, and with the first that fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from tqdm import tqdm

from diffplan.errors import DiffplanError


@contextmanager
def worker_pool(workers: int, advice: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes; whatever ends the block early, they are stopped at once.

    advice: what to do where one dies. DiffplanError in that case.
    """
    before = set(active_children())
    # a forked process would inherit locks and a device context that it cannot use
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        _stop(pool, before)
        print(file=sys.stderr)  # what the process has left of its progress bar ends here
        raise DiffplanError(
            f"one of the {workers} processes was killed or died, perhaps for want of memory; "
            f"{advice}"
        ) from None
    except BaseException:
        _stop(pool, before)
        raise


def _stop(pool: ProcessPoolExecutor, before: set[BaseProcess]) -> None:
    children = [child for child in active_children() if child not in before]
    for child in children:
        child.kill()
    pool.shutdown(wait=False, cancel_futures=True)
    for child in children:
        child.join()


def _begin() -> None:
    # Ctrl-C goes to the whole group; the starting process stops the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # its own lock is one between processes, which is missed aloud where a process is killed
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
