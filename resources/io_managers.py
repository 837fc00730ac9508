"""IO managers over the store: what a step makes appears whole and all at once, or not at all.

See `resources.files` for how.
"""

import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from resources.files import as_local, publish, read_whole, reading, stage, write_atomically, write_text
from resources.storage import CURRENT, AssetStore, current_version, local_directory, read_parquet
from resources.stored_table import PartedTable, StoredTable

if TYPE_CHECKING:
    from upath import UPath


class _StoreIOManager(dg.UPathIOManager):
    """Places of `AssetStore`; subclasses say how to write and read."""

    def __init__(self, base_path: "UPath", extension: str | None) -> None:
        self.extension = extension
        self._root = base_path
        self._staged: dict[str, dict[UPath, UPath]] = {}
        super().__init__(base_path=base_path)

    def _publish(self, context: dg.OutputContext, path: "UPath", write: Callable[[Path], None]) -> None:
        """Write `path`; where a step makes several tables, publish them when the last of them is written."""
        if (together := _tables_of_step(context)) == 1:
            write_atomically(path, write)
            return
        staged = self._staged.setdefault(context.step_key, {})
        staged[path] = stage(path, write)
        if len(staged) == together:
            publish(self._root, context.partition_key, self._staged.pop(context.step_key))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the input; a missing one is said in words instead of as a path.

        Raises:
            FileNotFoundError: the asset has not been materialized for this partition.
            DamagedFileError: what is stored cannot be read.
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
        """Bytes that `path` takes, or will take once it is published."""
        staged = {target: source for step in self._staged.values() for target, source in step.items()}
        return int(staged.get(path, path).stat().st_size)


def _tables_of_step(context: dg.OutputContext) -> int:
    """How many assets the step makes that writes this one."""
    try:
        definition = context.step_context.assets_def
    except dg.DagsterInvariantViolationError:  # a context that is of no run
        return 1
    return len(definition.keys) if definition is not None else 1


class _ParquetManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        import pandas as pd

        if isinstance(obj, PartedTable):
            self._publish(context, path, obj.write)
            obj.source.remove()
            return
        if not isinstance(obj, pd.DataFrame):
            raise TypeError(f"{context.asset_key.to_user_string()}: expected a DataFrame, found {type(obj).__name__}")
        self._publish(context, path, lambda local: obj.to_parquet(local, index=False, compression="zstd"))

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
        self._publish(context, path, lambda local: save_file(tensors, local))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        from safetensors.numpy import load, load_file

        local = as_local(path)
        with reading(path):
            return load(read_whole(path)) if local is None else load_file(local)


class _JsonManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        import json

        text = json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self._publish(context, path, lambda local: write_text(local, text))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        import json

        with reading(path):
            return json.loads(read_whole(path))


class _TextManager(_StoreIOManager):
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: "UPath") -> None:
        self._publish(context, path, lambda local: write_text(local, str(obj)))

    def load_from_path(self, context: dg.InputContext, path: "UPath") -> Any:
        with reading(path):
            return read_whole(path).decode()


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
        write_atomically(path / CURRENT, lambda local: write_text(local, version))
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
