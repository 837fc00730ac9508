"""Has a dataset's source changed? What its files say of themselves, and the fingerprint of what is in them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from recsys_dagster.data.registry import TIMETABLE, DatasetSpec, Role
from recsys_dagster.data.sources import (
    GZIP_ERRORS,
    checksum,
    is_published,
    is_remote,
    local_places,
    remote_checksum,
    remote_version,
)
from recsys_dagster.errors import RecsysError

SETTLED_S = 10.0
"""Seconds without a write after which a local file is taken for whole."""

_NOT_CONTENT = {*TIMETABLE, "homepage", "note", "name", "source", "items_source", "attributes_source", "file_names",
                "sha256", "size"}  # fmt: skip
"""Settings that say where the data is and when it is read, not what it is."""


def fingerprint(spec: DatasetSpec, files: dict[Role, Path]) -> str:
    """Sixteen hexadecimal digits that change when the content of a file does, or how it is read.

    A published file (see `sources.is_published`) counts by its SHA-256 or address: it does not change.

    Args:
        spec: the dataset.
        files: a local path for each role, as `sources.fetch` returns them.
    """
    return _fingerprint(spec, {role: _published(spec, role) or checksum(path)[0] for role, path in files.items()})


def _published(spec: DatasetSpec, role: Role) -> str | None:
    return (spec.sha256.get(role) or spec.sources[role]) if is_published(spec, role) else None


def _fingerprint(spec: DatasetSpec, contents: dict[Role, str]) -> str:
    settings = spec.model_dump(mode="json", exclude=_NOT_CONTENT)
    text = json.dumps([settings, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_watched(spec: DatasetSpec) -> bool:
    """Whether some file of a dataset can be replaced (see `sources.is_published`)."""
    return bool(_replaceable(spec))


def _replaceable(spec: DatasetSpec) -> list[Role]:
    return [role for role in spec.sources if not is_published(spec, role)]


def marks(spec: DatasetSpec, data_dir: Path | None) -> dict[Role, str] | None:
    """A cheap mark for each file that can be replaced: while it stays, the file was not. None where one is not there.

    No content is read.

    Raises:
        RecsysError: a store cannot be reached, or has no such object.
    """
    found: dict[Role, str] = {}
    for role in _replaceable(spec):
        path = _local(spec, role, data_dir)
        if path is not None:
            state = path.stat()
            found[role] = f"{path}:{state.st_size}:{state.st_mtime_ns}:{state.st_ino}"
        elif not is_remote(spec.sources[role]):
            return None
        else:
            found[role] = remote_version(spec, role)
    return found


def is_settled(spec: DatasetSpec, data_dir: Path | None, now: float | None = None) -> bool:
    """Whether no local file of the dataset was written to in the last seconds (a copy may still be under way)."""
    now = time.time() if now is None else now
    paths = [path for role in _replaceable(spec) if (path := _local(spec, role, data_dir)) is not None]
    return all(now - path.stat().st_mtime >= SETTLED_S for path in paths)


def current_fingerprint(spec: DatasetSpec, data_dir: Path | None) -> str:
    """The fingerprint that reading the source now would give. Objects of a store are read through, not kept.

    Raises:
        RecsysError: a file is nowhere, or not whole.
    """
    contents: dict[Role, str] = {}
    for role, place in spec.sources.items():
        path = _local(spec, role, data_dir)
        try:
            if (known := _published(spec, role)) is not None:
                contents[role] = known
            elif path is None and is_remote(place):
                contents[role] = remote_checksum(spec, role)
            else:
                contents[role] = checksum(path or local_places(spec, role, data_dir)[-1])[0]
        except (OSError, *GZIP_ERRORS) as error:
            raise RecsysError(
                f"dataset '{spec.name}': {role} {path or place} cannot be read ({type(error).__name__}: {error}).",
                mend="put the whole file there.",
            ) from None
    return _fingerprint(spec, contents)


def _local(spec: DatasetSpec, role: Role, data_dir: Path | None) -> Path | None:
    return next((path for path in local_places(spec, role, data_dir) if path.is_file()), None)
