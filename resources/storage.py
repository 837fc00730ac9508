"""Where assets lie: one root, readable keys, and a lock that a run holds on its partition.

Keys are ``<root>/<asset>/<partition><extension>``. The root is a local folder or any object store that fsspec knows
(``s3://bucket/prefix``, ``memory://...``). `resources.io_managers` writes there.
"""

import io
import os
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from recsys_dagster.errors import DamagedFileError
from resources.files import as_local, check_whole, finish_publishing, read_whole, reading
from resources.lock import locked

if TYPE_CHECKING:
    from upath import UPath

ASSETS_ENVIRONMENT = "RECSYS_ASSETS"
STALE_S = 86_400
"""Seconds after which a fetched copy that is not the current one is taken for abandoned."""

CURRENT = "current"
"""Name of the file that says which version of a stored directory is the valid one."""

PARTITION_TAG = "dagster/partition"


def home() -> Path:
    """The state directory: ``RECSYS_HOME``, or ``.recsys`` in the working directory; absolute."""
    return Path(os.environ.get("RECSYS_HOME") or ".recsys").absolute()


class AssetStore(dg.ConfigurableResource):
    """The root folder of all assets, and the paths in it."""

    root: str = Field(
        default="",
        description="Folder or URL (s3://bucket/prefix) that holds all assets; empty means what the environment's "
        "RECSYS_ASSETS names, else RECSYS_HOME/assets.",
    )

    def base(self) -> "UPath":
        """The root as a path."""
        from upath import UPath

        root = self.root or os.environ.get(ASSETS_ENVIRONMENT) or str(home() / "assets")
        if "://" not in root:
            return UPath(Path(root).expanduser().absolute())
        # Stores keep listings for the life of a process unless told not to, and a server would see no new object.
        return UPath(root, use_listings_cache=False)

    def path(self, asset: str, partition: str, extension: str = ".parquet") -> "UPath":
        """Where the IO managers keep one partition of an asset."""
        return self.base() / asset / f"{partition}{extension}"

    def lock_file(self, partition: str) -> Path:
        """The lock that a run of a partition holds (see `resources.lock`)."""
        return self._workplace() / ".locks" / f"{partition}.json"

    def _workplace(self) -> Path:
        """Where locks and unfinished directories lie: in a local root, else in the state directory."""
        return as_local(self.base()) or home()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator["AssetStore", None, None]:
        """Hold the lock of the run's partition while the run lasts; end what a killed run had begun to publish.

        A second run of the partition waits here until the first one is done or dead.
        """
        run = context.run
        partition = run.tags.get(PARTITION_TAG) if run is not None else None
        if run is None or partition is None:
            yield self
            return

        def waits(who: str) -> None:
            if context.log is not None:
                context.log.warning(f"{who} is at work on {partition}; this run waits until it is done.")

        with locked(self.lock_file(partition), run.run_id, waits):
            finish_publishing(self.base(), partition)
            yield self

    def previous_table(self, asset: str, partition: str) -> Any | None:
        """The table that the last materialization left, with its `attrs`, or None where there is none yet.

        Raises:
            DamagedFileError: it cannot be read.
        """
        finish_publishing(self.base(), partition)
        path = self.path(asset, partition)
        return read_parquet(path) if path.exists() else None

    def previous_directory(self, asset: str, partition: str) -> Path | None:
        """A local path to the directory that the last materialization left, or None where there is none yet."""
        path = self.base() / asset / partition
        return local_directory(path) if current_version(path) is not None else None

    def staging(self, asset: str, partition: str) -> Path:
        """A new empty local folder for an asset to write a directory into; the IO manager moves it away.

        What a killed run left there is removed: a run has its partition for itself.
        """
        place = self._workplace() / ".staging" / asset / partition
        shutil.rmtree(place, ignore_errors=True)
        folder = place / uuid.uuid4().hex[:8]
        folder.mkdir(parents=True)
        return folder

    def parts(self, asset: str, partition: str) -> "UPath":
        """A new folder for the parts of a table that workers write; the IO manager joins and removes them."""
        return self.base() / ".parts" / asset / f"{partition}-{uuid.uuid4().hex[:8]}"

    def checkpoint(self, asset: str, partition: str, fingerprint: str) -> Path:
        """The local folder where training of this asset, partition and configuration leaves what it needs to resume."""
        return home() / "checkpoints" / asset / f"{partition}-{fingerprint}"


def read_parquet(path: "UPath") -> Any:
    """Read one stored table as a pandas DataFrame.

    Raises:
        DamagedFileError: it is no whole Parquet file.
    """
    import pandas as pd

    local = as_local(path)
    with reading(path):
        return pd.read_parquet(io.BytesIO(read_whole(path)) if local is None else local)


def current_version(path: "UPath") -> str | None:
    """The valid version of a stored directory, or None where nothing was stored."""
    try:
        return read_whole(path / CURRENT).decode().strip()
    except FileNotFoundError:
        return None


def local_directory(path: "UPath") -> Path:
    """A local path to the valid version of a stored directory; fetched once from an object store.

    Raises:
        FileNotFoundError: nothing has been stored there, or it has gone.
        DamagedFileError: one of its files is not whole.
    """
    version = current_version(path)
    while version is not None:
        try:
            found = _version_of(path, version)
        except FileNotFoundError:
            found = None
        # A version that two others followed meanwhile is removed, perhaps while it was being read.
        before, version = version, current_version(path)
        if found is not None and (as_local(path) is not None or version == before):
            check_whole(found, path)
            return found
        if version == before:
            break
    raise FileNotFoundError(f"{path} holds no stored directory: materialize {path.parent.name} for {path.name} first")


def _version_of(path: "UPath", version: str) -> Path:
    """A local path to one version of a stored directory, fetched where it has to be; nothing is checked."""
    local = as_local(path)
    if local is not None:
        if not (local / version).is_dir():
            raise FileNotFoundError(str(local / version))
        return local / version
    cached = home() / "cache" / "directories" / path.parent.name / path.name / version
    if cached.is_dir():
        try:
            check_whole(cached, path)
        except DamagedFileError:
            shutil.rmtree(cached)
    if not cached.is_dir():
        beside = cached.parent / f".{version}.{uuid.uuid4().hex[:8]}.part"
        beside.mkdir(parents=True)
        try:
            path.fs.get(f"{(path / version).path}/", f"{beside}/", recursive=True)
            beside.replace(cached)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)
            if not cached.is_dir():  # else another process was quicker
                raise
        for left in cached.parent.iterdir():
            if left != cached and time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    return cached
