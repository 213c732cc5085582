"""Ctrl-C, SIGTERM and a closed terminal: a command ends with a line, training after its update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """A signal that ends a command. kept: what of its work is kept, None where nothing is said."""

    def __init__(self, signum: int, kept: str | None = None) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(name if kept is None else f"{name} {kept}")
        self.status = 128 + signum
        self.kept = kept


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within, the signals raise Stopped."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise Stopped(signum)

    with _handled_by(stop):
        yield


class Brake:
    """Within a with statement the first signal is only noted, and says so when called.

    A second one raises Stopped at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._handling = contextlib.ExitStack()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signum is not None

    def __enter__(self) -> Brake:
        self._handling.enter_context(_handled_by(self._note))
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.close()

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signum is not None:
            raise Stopped(signum, "twice: stopped at once, without a checkpoint")
        self.signum = signum


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    # only the main thread may; elsewhere somebody else minds the signals
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    # what is ignored stays so: nohup, or a shell's background job
    mine = [signum for signum, was in before.items() if was not in (signal.SIG_IGN, None)]
    for signum in mine:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in mine:
            signal.signal(signum, before[signum])
