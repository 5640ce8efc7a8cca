"""User-facing errors, reported in one line, and the messages of others on one line."""

import errno

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Of an OSError: the disk is full or limited, or may not be written to."""


class UserError(Exception):
    """A mistake in a config, file or command. Its message is one line that names the field or file and the mend.

    The command line prints the message alone and exits with status 2.
    """


def one_line(error: BaseException) -> str:
    """The whole message on one line; the kind of error where there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The message's first line; the kind of error where there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Diverged(UserError):
    """The loss, the gradient or the parameters of a run are no longer finite numbers."""
