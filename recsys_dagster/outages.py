"""A database or an object store that does not answer, said in words. It may happen at any moment of any command."""

from __future__ import annotations

import os
from collections.abc import Iterator

from recsys_dagster.errors import RecsysError
from resources.instance import POSTGRES_ENVIRONMENT
from resources.storage import ASSETS_ENVIRONMENT

LOOK = "recsys-dagster doctor looks at it again."


def outage(error: BaseException) -> RecsysError | None:
    """What to say of an error whose cause is a service outside; None if it is none of these.

    Args:
        error: as it arrived at the top.
    """
    for cause in _causes(error):
        module = type(cause).__module__.partition(".")[0]
        said = " ".join(str(getattr(cause, "orig", None) or cause).split())
        if module == "sqlalchemy":
            place = "Postgres" if os.environ.get(POSTGRES_ENVIRONMENT) else "the database"
            return RecsysError(
                f"{place} of the Dagster instance refused ({said}).",
                mend=f"start it, or correct {POSTGRES_ENVIRONMENT} or dagster.yaml; {LOOK}",
            )
        if module in ("botocore", "aiobotocore"):
            return RecsysError(
                f"the object store refused ({said}).",
                mend=f"correct {ASSETS_ENVIRONMENT}, the source, AWS_ENDPOINT_URL_S3 or the keys, or let them read and "
                f"write there; {LOOK}",
            )
        if isinstance(cause, ImportError) and "s3fs" in str(cause):
            return RecsysError("s3fs is not installed.", mend="pip install 'recsys-dagster[s3]'")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
