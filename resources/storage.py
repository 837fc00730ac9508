"""Where assets lie: one root, readable keys, and IO managers that never leave half a file behind.

Keys are ``<root>/<asset>/<partition><extension>``. The root is a local folder or any object store that fsspec knows
(``s3://bucket/prefix``, ``memory://...``). A local write goes to a hidden file beside its target, which is then renamed
over it; a remote write is finished locally first and then put as one object. Readers see the old value or the new one.
"""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from resources.stored_table import PartedTable, StoredTable

if TYPE_CHECKING:
    from upath import UPath

STALE_S = 86_400
"""Seconds after which something unfinished is taken for abandoned."""

CURRENT = "current"
"""Name of the file that says which version of a stored directory is the valid one."""


def home() -> Path:
    """The state directory: ``RECSYS_HOME``, or ``.recsys`` in the working directory; absolute."""
    return Path(os.environ.get("RECSYS_HOME") or ".recsys").absolute()


def as_local(path: "UPath") -> Path | None:
    """The plain local path, or None where `path` lies in an object store."""
    return Path(path.path).absolute() if path.protocol in ("", "file", "local") else None


def write_atomically(path: "UPath", write: Callable[[Path], None]) -> None:
    """Let `write` fill a local file, then publish it as `path` in one step.

    Args:
        path: target, local or remote; its folder is made.
        write: writes the whole content to the local path that it is given.
    """
    target = as_local(path)
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            write(local)
            path.fs.makedirs(path.parent.path, exist_ok=True)
            path.fs.put_file(str(local), path.path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.part"):
        if time.time() - left.stat().st_mtime > STALE_S:
            left.unlink(missing_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        write(beside)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


class AssetStore(dg.ConfigurableResource):
    """The root folder of all assets, and the paths in it."""

    root: str = Field(
        default="",
        description="Folder or URL (s3://bucket/prefix) that holds all assets; empty means RECSYS_HOME/assets.",
    )

    def base(self) -> "UPath":
        """The root as a path."""
        from upath import UPath

        return UPath(self.root) if self.root else UPath(home() / "assets")

    def path(self, asset: str, partition: str, extension: str = ".parquet") -> "UPath":
        """Where the IO managers keep one partition of an asset."""
        return self.base() / asset / f"{partition}{extension}"

    def previous_table(self, asset: str, partition: str) -> Any | None:
        """The table that the last materialization left, with its `attrs`, or None where there is none yet."""
        path = self.path(asset, partition)
        return read_parquet(path) if path.exists() else None

    def previous_directory(self, asset: str, partition: str) -> Path | None:
        """A local path to the directory that the last materialization left, or None where there is none yet."""
        path = self.base() / asset / partition
        return local_directory(path) if current_version(path) is not None else None

    def staging(self, asset: str, partition: str) -> Path:
        """A new empty local folder for an asset to write a directory into; the IO manager moves it away.

        Folders that killed runs left there are removed after a day.
        """
        place = home() / "staging" / asset
        folder = place / f"{partition}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        for left in place.iterdir():
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)
        return folder

    def parts(self, asset: str, partition: str) -> "UPath":
        """A new folder for the parts of a table that workers write; the IO manager joins and removes them."""
        return self.base() / ".parts" / asset / f"{partition}-{uuid.uuid4().hex[:8]}"

    def checkpoint(self, asset: str, partition: str, fingerprint: str) -> Path:
        """The local folder where training of this asset, partition and configuration leaves what it needs to resume."""
        return home() / "checkpoints" / asset / f"{partition}-{fingerprint}"


class _StoreIOManager(dg.UPathIOManager):
    """Places of `AssetStore`; subclasses say how to write and read."""

    def __init__(self, base_path: "UPath", extension: str | None) -> None:
        self.extension = extension
        super().__init__(base_path=base_path)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the input; a missing one is said in words instead of as a path.

        Raises:
            FileNotFoundError: the asset has not been materialized for this partition.
        """
        try:
            return super().load_input(context)
        except FileNotFoundError as error:
            asset, partition = context.asset_key.to_user_string(), " and ".join(context.asset_partition_keys)
            raise FileNotFoundError(
                f"{asset} has not been materialized for {partition}. "
                f"To mend: recsys-dagster materialize --dataset {partition} --select {asset}"
            ) from error

    def make_directory(self, path: "UPath") -> None:
        """Do nothing: writing makes the folder, and object stores have none."""

    def get_metadata(self, context: dg.OutputContext, obj: Any) -> dict[str, Any]:
        """Size of what was stored."""
        paths = (
            self._get_paths_for_partitions(context) if context.has_asset_partitions else {"": self._get_path(context)}
        )
        path = next(iter(paths.values()))
        return {"dagster/uri": str(path), "bytes": self.stored_bytes(path)}

    def stored_bytes(self, path: "UPath") -> int:
        """Bytes that `path` takes."""
        return int(path.stat().st_size)


def read_parquet(path: "UPath") -> Any:
    """Read one stored table as a pandas DataFrame."""
    import pandas as pd

    with path.open("rb") as file:
        return pd.read_parquet(file)


class _ParquetManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        import pandas as pd

        if isinstance(obj, PartedTable):
            write_atomically(path, obj.write)
            obj.source.remove()
            return
        if not isinstance(obj, pd.DataFrame):
            raise TypeError(f"{context.asset_key.to_user_string()}: expected a DataFrame, found {type(obj).__name__}")
        write_atomically(path, lambda local: obj.to_parquet(local, index=False, compression="zstd"))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        table = read_parquet(path)
        table.attrs.clear()  # pandas copies them at every step; who needs them asks `previous_table`
        return table

    def get_metadata(self, context: dg.OutputContext, obj: Any) -> dict[str, Any]:
        return {"dagster/row_count": len(obj), **super().get_metadata(context, obj)}


class _TableManager(_ParquetManager):
    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        if not path.exists():
            raise FileNotFoundError(str(path))  # said in words by `load_input`
        return StoredTable(path)


class _SafetensorsManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        import numpy as np
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(array) for name, array in obj.items()}
        write_atomically(path, lambda local: save_file(tensors, local))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        from safetensors.numpy import load, load_file

        local = as_local(path)
        return load(path.read_bytes()) if local is None else load_file(local)


class _JsonManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        import json

        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, lambda local: _write_text(local, text))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        import json

        return json.loads(path.read_text(encoding="utf-8"))


class _TextManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        write_atomically(path, lambda local: _write_text(local, str(obj)))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        return path.read_text(encoding="utf-8")


class _DirectoryManager(_StoreIOManager):
    """A directory is stored as ``<partition>/<version>/``; the file ``<partition>/current`` names the valid version.

    Replacing a directory cannot be one step (and on object stores nothing but a single object can), replacing that one
    small file is. The version before the current one is kept for readers that are still in it, older ones are removed.
    """

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        source = Path(obj)
        if not source.is_dir() or not any(source.iterdir()):
            raise FileNotFoundError(
                f"{context.asset_key.to_user_string()}: {source} is not a directory with files in it"
            )
        version = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{uuid.uuid4().hex[:4]}"
        target = as_local(path)
        if target is None:
            path.fs.put(f"{source}/", f"{(path / version).path}/", recursive=True)
            shutil.rmtree(source, ignore_errors=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target / version)
        before = current_version(path)
        write_atomically(path / CURRENT, lambda local: _write_text(local, version))
        self._prune(path, min(before or version, version))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Path:
        return local_directory(path)

    def stored_bytes(self, path: "UPath") -> int:
        version = path / (current_version(path) or "")
        return sum(int(file.stat().st_size) for file in version.rglob("*") if file.is_file())

    @staticmethod
    def _prune(path: "UPath", oldest: str) -> None:
        # Names sort by time, so this can neither touch the version before nor one that another run is writing now.
        for version in path.iterdir():
            if version.is_dir() and version.name < oldest:
                version.fs.rm(version.path, recursive=True)


def current_version(path: "UPath") -> str | None:
    """The valid version of a stored directory, or None where nothing was stored."""
    pointer = path / CURRENT
    return pointer.read_text().strip() if pointer.exists() else None


def local_directory(path: "UPath") -> Path:
    """A local path to the valid version of a stored directory; fetched once from an object store.

    Raises:
        FileNotFoundError: nothing has been stored there.
    """
    version = current_version(path)
    if version is None:
        raise FileNotFoundError(
            f"{path} holds no stored directory: materialize {path.parent.name} for {path.name} first"
        )
    local = as_local(path)
    if local is not None:
        return local / version
    cached = home() / "cache" / "directories" / path.parent.name / path.name / version
    if not cached.is_dir():
        beside = cached.parent / f".{version}.{uuid.uuid4().hex[:8]}.part"
        beside.mkdir(parents=True)
        path.fs.get(f"{(path / version).path}/", f"{beside}/", recursive=True)
        beside.replace(cached)
    return cached


class StoreIOManager(dg.ConfigurableIOManagerFactory):
    """IO managers over one `AssetStore`; `form` says what kind of value they store."""

    store: dg.ResourceDependency[AssetStore]
    form: str = Field(
        default="parquet", description="parquet, table (Parquet, read in pieces), safetensors, directory, json or html"
    )

    def create_io_manager(self, context: dg.InitResourceContext) -> dg.UPathIOManager:
        """Make the IO manager of this form."""
        kinds: dict[str, tuple[type[_StoreIOManager], str | None]] = {
            "parquet": (_ParquetManager, ".parquet"),
            "table": (_TableManager, ".parquet"),
            "safetensors": (_SafetensorsManager, ".safetensors"),
            "directory": (_DirectoryManager, None),
            "json": (_JsonManager, ".json"),
            "html": (_TextManager, ".html"),
        }
        if self.form not in kinds:
            raise ValueError(f"storage form {self.form!r} is not known; expected one of {', '.join(kinds)}")
        manager, extension = kinds[self.form]
        return manager(self.store.base(), extension)


FORMS = ("parquet", "table", "safetensors", "directory", "json", "html")


def io_managers(store: AssetStore) -> dict[str, dg.ConfigurableIOManagerFactory]:
    """The IO managers of the project by resource key; ``io_manager`` (the default) stores tables."""
    managers = {f"{form}_io": StoreIOManager(store=store, form=form) for form in FORMS[1:]}
    return {"io_manager": StoreIOManager(store=store, form="parquet"), **managers}
