"""Exceptions for what a user can mend."""

from collections.abc import Sequence


class DiffplanError(Exception):
    """A user's mistake: one line that says what was given, what was expected and how to fix it.

    The command line prints the message without a traceback and exits with status 2. Not a
    ValueError: argument parsers and validators catch those and wrap them in messages of their own.
    """


class RowsError(DiffplanError):
    """No action for some rows of a batch; the others can be had without them."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class PartialResult(DiffplanError):
    """Part of what was asked for could not be done, the rest is kept: exit status 3."""
