"""The one error that people are meant to read."""


class RecsysError(Exception):
    """A problem the user can mend, said in one line.

    The message names the file, row, column or setting, what was found and what was expected; `mend` says what to do.
    The command line prints it without a traceback; inside Dagster it becomes the failure of the step.
    """

    def __init__(self, message: str, *, mend: str) -> None:
        self.mend = mend
        super().__init__(f"{message} To mend: {mend}")
