"""The one error that people are meant to read."""

from functools import partial
from typing import Any


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
