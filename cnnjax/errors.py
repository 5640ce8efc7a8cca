"""User-facing errors, reported in one line, and the messages of others on one line."""

import errno
import os
import signal
import sys
from collections.abc import Callable

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Of an OSError: the disk is full or limited, or may not be written to."""


class UserError(Exception):
    """A mistake in a config, file or command. Its message is one line that names the field or file, and what to do.

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


class Interrupted(Exception):
    """A run was asked to stop by a signal, and was saved. Its message says how to go on."""

    def __init__(self, signum: int, saved: str):
        super().__init__(f"stopped by {signal.Signals(signum).name} and saved {saved}; "
                         "run the same command again to go on")
        self.signum = signum


def exit_status(run: Callable[[], object]) -> int:
    """The exit status of a command that calls `run`: 0; 2 for an error that the user can correct, told in one line on
    standard error; 128 + N when signal N stopped it."""
    try:
        run()
        return 0
    except UserError as error:
        print(f"cnnjax: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"cnnjax: {stop}", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("cnnjax: stopped at once; run the same command again to go on from the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:                             # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except MemoryError as error:
        print(f"cnnjax: out of memory: {error}; a smaller batch_size or data.image_size needs less", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"cnnjax: {error.filename or 'writing'}: {error.strerror}; what was written stays; make room or choose "
              "another --workdir, then run the same command again", file=sys.stderr)
        return 2
