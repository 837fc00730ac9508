"""The one error that people are meant to read."""

from __future__ import annotations

from typing import Any


class RecsysError(Exception):
    """A problem the user can mend, said in one line.

    The message names the file, row, column or setting, what was found and what was expected; `mend` says what to do.
    The command line prints it without a traceback; inside Dagster it becomes the failure of the step.
    """

    def __init__(self, message: str, *, mend: str) -> None:
        self.mend = mend
        super().__init__(f"{message} To mend: {mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of worker processes travel: `mend` is part of the message already."""
        return _again, (self.args[0], self.mend)


def _again(message: str, mend: str) -> RecsysError:
    error = RecsysError("", mend=mend)
    error.args = (message,)
    return error
