"""The two errors a user meets. Everything else that escapes is a bug and keeps its traceback."""


class PerpixelError(Exception):
    """The work failed for a reason the user can mend: a file, a value, a machine. Exit code 1."""


class UsageError(PerpixelError):
    """The request itself was wrong: an unknown recipe, setting or flag value. Exit code 2."""
