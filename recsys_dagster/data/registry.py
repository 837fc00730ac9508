"""The registry of datasets: `datasets.toml`, read and checked.

Imports stay light (no pandas, no numpy) because the partitions of the asset graph are read from here.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recsys_dagster.data.timetable import Nightly, Retraining
from recsys_dagster.errors import RecsysError

Role = Literal["source", "items_source", "attributes_source"]
"""The files a dataset may have; also the names of the keys that hold their places."""

ROLES: tuple[Role, ...] = get_args(Role)
FILE_NAME = "datasets.toml"
ENVIRONMENT = "RECSYS_DATASETS"
DEFAULTS = "defaults"
"""Table of `datasets.toml` whose settings hold for every dataset that does not set them itself."""

TIMETABLE = ("nightly", "retraining", "run_config")
"""What `[defaults]` may set: how datasets are run by themselves."""

MAX_LENGTH = {"leave_one_out": 50, "chronological_622": 20}
"""Longest history a model looks at, by protocol, where the dataset says nothing."""


class Columns(BaseModel):
    """Names of the columns of a `table` dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str = Field(default="user", description="User key, in the log.")
    item: str = Field(default="item", description="Item key, in the log and in the items file.")
    timestamp: str = Field(default="timestamp", description="Time of the interaction, or its position within the user.")
    title: str = Field(default="title", description="Title, in the items file.")
    categories: str = Field(
        default="categories", description="Categories, in the items file; may be absent unless it is named here."
    )


class DatasetSpec(BaseModel):
    """One entry of `datasets.toml`.

    Places (`source`, `items_source`, `attributes_source`) are paths, relative to the folder of `datasets.toml`, or
    addresses that fsspec understands (``file://``, ``s3://``, ``https://``, ``zip://a.txt::https://...``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Key of the entry; the partition key.")
    reader: Literal["sequences", "amazon", "movielens", "table", "sample"] = Field(description="How files are read.")
    protocol: Literal["leave_one_out", "chronological_622"] = Field(
        "leave_one_out", description="How each user's interactions are split."
    )
    source: str | None = Field(None, description="Place of the interactions.")
    items_source: str | None = Field(None, description="Place of the items' titles and categories.")
    attributes_source: str | None = Field(None, description="Place of attribute numbers (`sequences` without titles).")
    file_names: dict[Role, str] = Field(
        default_factory=dict, description="Names to look for under RECSYS_DATA_DIR where they differ from the source's."
    )
    sha256: dict[Role, str] = Field(default_factory=dict, description="SHA-256 of the decompressed bytes.")
    size: dict[Role, int] = Field(default_factory=dict, description="Number of decompressed bytes.")
    k_core_users: int = Field(5, ge=1, description="Fewest interactions of a user that is kept.")
    k_core_items: int = Field(5, ge=1, description="Fewest interactions of an item that is kept.")
    max_length: int = Field(ge=2, description="Longest history; 50 or, for chronological_622, 20 unless set.")
    columns: Columns = Field(Columns(), description="Column names of a `table` dataset.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Delimiter of a `table` dataset in CSV.")
    item_key_offset: int = Field(
        0, description="`sequences`: key in the items file = item number of the log + this offset."
    )
    repeats: Literal["keep", "earliest"] = Field(
        description="A user's repeated item: keep all, or the earliest (the default of `amazon`)."
    )
    duplicate_items: Literal["error", "first"] = Field("error", description="An item listed twice in the items file.")
    seed: int = Field(0, ge=0, description="Seed of the `sample` generator.")
    nightly: Nightly | None = Field(
        None, description="When the source is looked at again; the schedule is on where this is set, and not false."
    )
    retraining: Retraining | None = Field(
        None, description="When the models follow, if they must; the schedule is on where this is set, and not false."
    )
    run_config: Path | None = Field(
        None, description="Dagster run config in YAML for runs of this dataset that are given none."
    )
    homepage: str = Field("", description="Where the data comes from.")
    note: str = Field("", description="Origin, licence, what to know.")
    folder: Path | None = Field(None, exclude=True, description="Folder of `datasets.toml`; set on loading.")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        values.setdefault("max_length", MAX_LENGTH.get(str(values.get("protocol", "leave_one_out")), 50))
        values.setdefault("repeats", "earliest" if values.get("reader") == "amazon" else "keep")
        return values

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError("a dataset's name may hold letters, digits, '_' and '-' only")
        return name

    @field_validator("nightly", "retraining", mode="before")
    @classmethod
    def _switched_off(cls, value: object) -> object:
        return None if value is False else value

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, sums: dict[Role, str]) -> dict[Role, str]:
        for role, digest in sums.items():
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError(f"{role} is not 64 lower-case hexadecimal digits")
        return sums

    @model_validator(mode="after")
    def _files_fit_reader(self) -> Self:
        if self.reader == "sample":
            if self.sources:
                raise ValueError("the reader 'sample' generates its data and takes no source")
        elif self.source is None:
            raise ValueError(f"the reader '{self.reader}' needs a source")
        if self.attributes_source is not None and self.reader != "sequences":
            raise ValueError("attributes_source belongs to the reader 'sequences' only")
        for key in ("file_names", "sha256", "size"):
            for role in getattr(self, key):
                if role not in self.sources:
                    raise ValueError(f"{key} names {role}, which the dataset does not have")
        return self

    @property
    def sources(self) -> dict[Role, str]:
        """The places that are set, by role."""
        places = {"source": self.source, "items_source": self.items_source, "attributes_source": self.attributes_source}
        return {role: place for role in ROLES if (place := places[role]) is not None}

    @property
    def run_config_path(self) -> Path | None:
        """`run_config` from the folder of `datasets.toml`."""
        return None if self.run_config is None else (self.folder or Path()) / self.run_config.expanduser()

    @property
    def has_titles(self) -> bool:
        """Whether items have titles; if not, an item's text is its attribute words, or nothing."""
        return self.reader == "sample" or self.items_source is not None


def registry_path() -> Path:
    """The `datasets.toml` in force: RECSYS_DATASETS, else the working folder's, else the one beside the package.

    Raises:
        RecsysError: RECSYS_DATASETS names no file, or there is none anywhere.
    """
    if named := os.environ.get(ENVIRONMENT):
        path = Path(named).expanduser()
        if not path.is_file():
            raise RecsysError(
                f"{ENVIRONMENT}={named} is not a file.", mend=f"set it to a {FILE_NAME}, or unset it for the default."
            )
        return path
    beside = Path(__file__).resolve().parents[2] / FILE_NAME
    for path in (Path(FILE_NAME), beside):
        if path.is_file():
            return path
    raise RecsysError(
        f"there is no {FILE_NAME} in {Path.cwd()} nor in {beside.parent}.",
        mend=f"run from the project's root, or set {ENVIRONMENT} to the file.",
    )


def load_registry(path: Path | None = None) -> dict[str, DatasetSpec]:
    """Read `datasets.toml` into one checked `DatasetSpec` an entry, in the order of the file.

    What stands under ``[defaults]`` holds for every entry that does not set it; tables are merged key by key. An entry
    with ``extends = "other"`` takes every key of `other` that it does not set itself. Checksums, sizes and file names
    of a place that it sets anew are not taken over.

    Args:
        path: the file; `registry_path()` unless given.

    Raises:
        RecsysError: no file, broken TOML, unknown key, wrong value, unknown or circular `extends`.
    """
    path = registry_path() if path is None else path
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except FileNotFoundError:
        raise RecsysError(f"{path} does not exist.", mend=f"name an existing {FILE_NAME}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecsysError(f"{path} is not valid TOML: {error}.", mend="correct the file there.") from None
    for name, entry in raw.items():
        if not isinstance(entry, dict):
            raise RecsysError(
                f"{path}: '{name}' stands outside a dataset's table.", mend="put it under a header such as [my_data]."
            )
    defaults = raw.pop(DEFAULTS, {})
    for key in defaults:
        if key not in TIMETABLE:
            raise RecsysError(
                f"{path}: [{DEFAULTS}] sets '{key}', which belongs to one dataset.",
                mend=f"move it to the datasets' tables; [{DEFAULTS}] may set {', '.join(TIMETABLE)}.",
            )
    if not raw:
        raise RecsysError(f"{path} has no dataset.", mend="add an entry such as [sample] with reader = 'sample'.")
    folder = path.resolve().parent
    return {name: _spec(path, name, _merged(defaults, _resolve(path, raw, name, ())), folder) for name in raw}


def dataset_names(path: Path | None = None) -> list[str]:
    """Names of all datasets, in the order of `datasets.toml`."""
    return list(load_registry(path))


def get_dataset(name: str, path: Path | None = None) -> DatasetSpec:
    """One dataset by name.

    Raises:
        RecsysError: the name is unknown; the error proposes the nearest one.
    """
    registry = load_registry(path)
    if name not in registry:
        raise RecsysError(
            f"there is no dataset '{name}'; there are: {', '.join(registry)}.",
            mend=_nearest(name, list(registry)) or "choose one of them, or add an entry to datasets.toml.",
        )
    return registry[name]


def _resolve(path: Path, raw: dict[str, Any], name: str, trail: tuple[str, ...]) -> dict[str, Any]:
    if name in trail:
        raise RecsysError(
            f"{path}: 'extends' runs in a circle: {' -> '.join((*trail, name))}.", mend="remove one of the 'extends'."
        )
    own = dict(raw[name])
    parent = own.pop("extends", None)
    if parent is None:
        return own
    if parent not in raw:
        raise RecsysError(
            f"{path}: [{name}] extends '{parent}', which is not in the file.",
            mend=_nearest(str(parent), list(raw)) or f"name one of: {', '.join(raw)}.",
        )
    base = dict(_resolve(path, raw, parent, (*trail, name)))
    renewed = [role for role in ROLES if role in own]
    for key in ("file_names", "sha256", "size"):
        if isinstance(base.get(key), dict):
            base[key] = {role: value for role, value in base[key].items() if role not in renewed}
    return {**base, **own}


def _merged(defaults: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """An entry over the defaults; a table over a table key by key."""
    both = {**defaults, **entry}
    for key in defaults.keys() & entry.keys():
        if isinstance(defaults[key], dict) and isinstance(entry[key], dict):
            both[key] = {**defaults[key], **entry[key]}
    return both


def _spec(path: Path, name: str, entry: dict[str, Any], folder: Path) -> DatasetSpec:
    for reserved in ("name", "folder"):
        if reserved in entry:
            raise RecsysError(f"{path}: [{name}] sets '{reserved}', which is not a setting.", mend="remove the key.")
    try:
        return DatasetSpec.model_validate({**entry, "name": name, "folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    tables: dict[str, type[BaseModel]] = {"nightly": Nightly, "retraining": Retraining}
    table = tables.get(str(first["loc"][0]), Columns) if first["loc"] else Columns
    known = [*DatasetSpec.model_fields, "extends"] if len(first["loc"]) == 1 else list(table.model_fields)
    if first["type"] == "extra_forbidden":
        last = str(first["loc"][-1])
        raise RecsysError(
            f"{path}: [{name}] has the unknown key '{place}'.",
            mend=_nearest(last, known) or f"use one of: {', '.join(k for k in known if k not in ('name', 'folder'))}.",
        )
    if first["type"] == "missing":
        raise RecsysError(f"{path}: [{name}] lacks the key '{place}'.", mend=f"add {place} = ... to the entry.")
    what = first["msg"].removeprefix("Value error, ")
    found = f" (found {first['input']!r})" if first["loc"] else ""
    where = f"'{place}': " if place else ""
    raise RecsysError(f"{path}: [{name}] {where}{what}{found}.", mend=f"correct the entry [{name}] of that file.")


def _nearest(word: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else None
