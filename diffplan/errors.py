"""Exceptions for what a user can mend."""

import difflib
from collections.abc import Iterable, Sequence


class DiffplanError(Exception):
    """A user's mistake: one line that says what was given, what was expected and how to fix it.

    The command line prints the message without a traceback and exits with status 2. Not a
    ValueError: argument parsers and validators catch those and wrap them in messages of their own.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'? " for a name that is nearly a known one, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def first_line(error: BaseException) -> str:
    """What an error says first; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class RowsError(DiffplanError):
    """No action for some rows of a batch; the others can be had without them."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class PartialResult(DiffplanError):
    """Part of what was asked for could not be done, the rest is kept: exit status 3."""
