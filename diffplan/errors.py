"""The one exception for mistakes a user can mend."""


class DiffplanError(Exception):
    """A user's mistake: one line that says what was given, what was expected and how to fix it.

    The command line prints the message without a traceback and exits with status 2. Not a
    ValueError: argument parsers and validators catch those and wrap them in messages of their own.
    """
