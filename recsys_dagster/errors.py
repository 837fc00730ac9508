"""The one error that people are meant to read, and what to say of a disk that is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "disk is full", "disk I/O error")
"""What libraries say that do not raise `OSError` (safetensors, SQLite)."""


class RecsysError(Exception):
    """A problem the user can mend, said in one line.

    The message names the file, row, column or setting, what was found and what was expected; `mend` says what to do.
    The command line prints it without a traceback; inside Dagster it becomes the failure of the step.
    """

    def __init__(self, message: str, *, mend: str) -> None:
        self.message, self.mend = message, mend
        super().__init__(f"{message} To mend: {mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        """How it comes out of another process the same."""
        return partial(type(self), mend=self.mend), (self.message,)


class DamagedFileError(RecsysError):
    """A stored file that is there and cannot be read."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that there was no room left to write (or that the disk fails)."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_told(place: object) -> Iterator[None]:
    """Turn the error of a full disk into one that says so.

    Args:
        place: what was to be written, for the message.

    Raises:
        RecsysError: there was no room.
    """
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:  # each library has its own for this
        if not is_disk_full(error):
            raise
        what = str(error).partition("\n")[0]
        raise RecsysError(
            f"{place} could not be written: the disk is full, or a quota or limit is reached ({what}).",
            mend="make room there, or set RECSYS_HOME to a larger disk, then run again; what was stored is whole.",
        ) from error
