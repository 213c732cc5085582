"""The one exception for mistakes a user can mend."""


class DiffplanError(ValueError):
    """A user's mistake: one line that says what was given, what was expected and how to fix it.

    The command line prints the message without a traceback and exits with status 2.
    """
