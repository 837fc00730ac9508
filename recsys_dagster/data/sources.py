"""Where a dataset's files come from: a local folder first, else fsspec, each file checked before it is used."""

from __future__ import annotations

import glob
import gzip
import hashlib
import logging
import os
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlparse

import fsspec

from recsys_dagster.data.registry import DatasetSpec, Role
from recsys_dagster.errors import RecsysError, disk_told
from recsys_dagster.progress import Progress

logger = logging.getLogger("recsys_dagster")

DATA_DIR_ENVIRONMENT = "RECSYS_DATA_DIR"
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What a cut or damaged gzip file raises while it is read."""
_CHUNK = 1 << 20


def data_directory() -> Path | None:
    """The folder named by RECSYS_DATA_DIR, or None where it is not set.

    Raises:
        RecsysError: it is set to something that is not a folder.
    """
    named = os.environ.get(DATA_DIR_ENVIRONMENT)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise RecsysError(f"{DATA_DIR_ENVIRONMENT}={named} is not a folder.", mend="correct it, or unset it.")
    return folder


def open_source(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed if it is gzip (told by its first bytes, not by its name)."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def checksum(path: Path) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and number of the decompressed bytes of a file."""
    with open_source(path) as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and number of the bytes that are left to read."""
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def fetch(spec: DatasetSpec, data_dir: Path | None, cache_dir: Path) -> dict[Role, Path]:
    """Make every file of a dataset available locally and check it.

    A file of the source's name under `data_dir` (there or in a folder named as the dataset; gzipped or not) comes
    first. Next a path is taken as it stands, relative to the folder of `datasets.toml`. Anything else is
    downloaded into `cache_dir` through fsspec, by way of a temporary file: a published file once, an object of a store
    again whenever the store says that it was replaced.

    Args:
        spec: the dataset.
        data_dir: folder of local files, usually RECSYS_DATA_DIR.
        cache_dir: folder for downloads, usually RECSYS_HOME/downloads.

    Returns:
        A local path for each role that the dataset has.

    Raises:
        RecsysError: a file is nowhere, cannot be downloaded, or has the wrong size or SHA-256.
    """
    return {role: _obtain(spec, role, place, data_dir, cache_dir) for role, place in spec.sources.items()}


def file_name(spec: DatasetSpec, role: Role) -> str:
    """The name under which a dataset's file is looked for locally, without ``.gz``."""
    place = spec.file_names.get(role) or unquote(urlparse(spec.sources[role].split("::")[0]).path)
    return Path(place).name.removesuffix(".gz")


def is_remote(place: str) -> bool:
    """Whether a place is an address that has to be fetched."""
    return "://" in place and not place.startswith("file://")


def is_published(spec: DatasetSpec, role: Role) -> bool:
    """Whether a file stays as it is once fetched: its SHA-256 is written down, or it comes from a web server.

    Everything else (a local file, an object in a store) may be replaced by its owner at any time.
    """
    place = spec.sources[role]
    return role in spec.sha256 or (is_remote(place) and ("http://" in place or "https://" in place))


def local_places(spec: DatasetSpec, role: Role, data_dir: Path | None) -> list[Path]:
    """Where a file of a dataset may lie on this machine, in the order in which they are looked at."""
    place, name = spec.sources[role], file_name(spec, role)
    folders = [] if data_dir is None else [data_dir, data_dir / spec.name]
    places = [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]
    if not is_remote(place):
        path = Path(unquote(urlparse(place).path)) if place.startswith("file://") else Path(place).expanduser()
        places.append(path if path.is_absolute() else (spec.folder or Path()) / path)
    return places


def remote_version(spec: DatasetSpec, role: Role) -> str:
    """What the store says of an object (its ETag, or time and size): another text where the object was replaced.

    Raises:
        RecsysError: the store cannot be reached, or has no such object.
    """
    place = spec.sources[role]
    try:
        filesystem, path = fsspec.url_to_fs(place)
        filesystem.invalidate_cache()  # a sensor lives for weeks, and some stores keep their listings as long
        return str(filesystem.ukey(path))
    except Exception as error:  # fsspec's backends share no base class of errors
        raise _unreachable(spec, role, error) from None


def remote_checksum(spec: DatasetSpec, role: Role) -> str:
    """SHA-256 of the decompressed bytes of an object as it is now; it is read through and not kept.

    Raises:
        RecsysError: it cannot be read, or is not whole.
    """
    try:
        with fsspec.open(spec.sources[role], "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return digest_of(cast(BinaryIO, gzip.open(file)) if compressed else file)[0]
    except Exception as error:  # fsspec's backends share no base class of errors
        raise _unreachable(spec, role, error) from None


def _obtain(spec: DatasetSpec, role: Role, place: str, data_dir: Path | None, cache_dir: Path) -> Path:
    places = local_places(spec, role, data_dir)
    for path in places:
        if path.is_file():
            _verify(spec, role, path)
            return path
    if is_remote(place):
        return _cached(spec, role, place, cache_dir)
    name = file_name(spec, role)
    where = f"{DATA_DIR_ENVIRONMENT}={data_dir}" if data_dir is not None else f"{places[-1].parent}"
    origin = f"get it from {spec.homepage}" if spec.homepage else "correct the place in datasets.toml, or get the file"
    origin += f" ({spec.note.rstrip('.')})" if spec.note else ""
    raise RecsysError(
        f"dataset '{spec.name}': {role} '{name}' (or {name}.gz) is not in {where}.",
        mend=f"{origin} and put it into a folder that {DATA_DIR_ENVIRONMENT} names.",
    )


def _cached(spec: DatasetSpec, role: Role, place: str, cache_dir: Path) -> Path:
    """The download of a remote file: one for ever if it is published, else one for each version of the object."""
    mark, name = _short(place), Path(urlparse(place.split("::")[0]).path).name
    fixed = is_published(spec, role)
    path = cache_dir / (f"{mark}-{name}" if fixed else f"{mark}-{_short(remote_version(spec, role))}-{name}")
    if path.is_file():
        _verify(spec, role, path)
        return path
    _download(spec, role, place, path)
    if not fixed:
        for older in cache_dir.glob(f"{mark}-*-{glob.escape(name)}"):
            if older != path:
                older.unlink(missing_ok=True)
    return path


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _unreachable(spec: DatasetSpec, role: Role, error: Exception) -> RecsysError:
    """What went wrong with a remote file."""
    place = spec.sources[role]
    if isinstance(error, ImportError):
        return RecsysError(
            f"dataset '{spec.name}': {role} {place} needs a package that is missing: {error}.",
            mend="install it, or put the file into the folder that RECSYS_DATA_DIR names.",
        )
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return RecsysError(
        f"dataset '{spec.name}': {role} {place} could not be fetched ({cause}).",
        mend=f"check the network, or get the file by hand ({spec.homepage or place}) and put it as "
        f"'{file_name(spec, role)}' into the folder that {DATA_DIR_ENVIRONMENT} names.",
    )


def _verify(spec: DatasetSpec, role: Role, path: Path, *, found_in: str | None = None) -> None:
    """Compare a file with the recorded size and SHA-256, if there are any."""
    expected_size, expected_sum = spec.size.get(role), spec.sha256.get(role)
    if expected_size is None and expected_sum is None:
        return
    where = found_in or str(path)
    mend = (
        f"replace the file by the original ({spec.homepage or spec.sources[role]}), or correct {{}} in datasets.toml."
    )
    try:
        digest, size = checksum(path)
    except GZIP_ERRORS as error:
        raise RecsysError(
            f"dataset '{spec.name}': {role} {where} is not a whole gzip file ({error}).", mend=mend.format("the source")
        ) from None
    if expected_size is not None and size != expected_size:
        raise RecsysError(
            f"dataset '{spec.name}': {role} {where} has {size:,} decompressed bytes, expected {expected_size:,}.",
            mend=mend.format(f"size.{role}"),
        )
    if expected_sum is not None and digest != expected_sum:
        raise RecsysError(
            f"dataset '{spec.name}': {role} {where} has sha256 {digest}, expected {expected_sum}.",
            mend=mend.format(f"sha256.{role}"),
        )


def _download(spec: DatasetSpec, role: Role, place: str, target: Path) -> None:
    """Bring a remote file to `target`; nothing is left there if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("dataset %s: fetching %s", spec.name, place)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    part = Path(temporary)
    try:
        try:
            with disk_told(target), os.fdopen(descriptor, "wb") as out, fsspec.open(place, "rb") as remote:
                total = getattr(remote, "size", None) or 0
                with Progress(f"{spec.name}: {file_name(spec, role)}", -(-total // _CHUNK), "MiB") as progress:
                    while chunk := remote.read(_CHUNK):
                        out.write(chunk)
                        progress.update()
        except RecsysError:
            raise
        except Exception as error:  # fsspec's backends share no base class of errors
            raise _unreachable(spec, role, error) from None
        _verify(spec, role, part, found_in=place)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
