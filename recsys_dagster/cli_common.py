"""What the commands share: options, output, stored tables and run configs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from recsys_dagster.errors import RecsysError

if TYPE_CHECKING:
    import pandas as pd


def complete_dataset(incomplete: str) -> list[str]:
    """Datasets that go on as typed, for the shell; after a comma, the next one of a list."""
    from recsys_dagster.data.registry import dataset_names

    before, comma, last = incomplete.rpartition(",")
    try:
        return [f"{before}{comma}{name}" for name in dataset_names() if name.startswith(last)]
    except RecsysError:  # a broken file is told by the command itself
        return []


def complete_selection(incomplete: str) -> list[str]:
    """Assets and groups that go on as typed, for the shell."""
    from recsys_dagster.definitions import defs

    specs = defs.resolve_all_asset_specs()
    known = {spec.key.to_user_string() for spec in specs} | {str(spec.group_name) for spec in specs}
    return sorted(name for name in known if name.startswith(incomplete))


def names(values: Iterable[str]) -> list[str]:
    """Names given one by one or joined by commas, each once."""
    return list(dict.fromkeys(name.strip() for value in values for name in value.split(",") if name.strip()))


Dataset = Annotated[
    str, typer.Option("--dataset", "-d", help="Name of a dataset in datasets.toml.", autocompletion=complete_dataset)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console() -> Console:
    """Where people read: long lines are the terminal's to wrap."""
    return Console(soft_wrap=True)


def print_json(value: Any) -> None:
    """Where programs read."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def stored(asset: str, dataset: str) -> Any | None:
    """The last table of an asset; None if there is none."""
    from resources.storage import AssetStore

    return AssetStore().previous_table(asset, dataset)


def not_materialized(asset: str, dataset: str) -> NoReturn:
    """Raise the error that says what to run first."""
    raise RecsysError(
        f"{asset} has not been materialized for dataset {dataset}.",
        mend=f"run: recsys-dagster materialize --dataset {dataset}",
    )


def required(asset: str, dataset: str) -> Any:
    """The last table of an asset.

    Raises:
        RecsysError: if there is none.
    """
    table = stored(asset, dataset)
    if table is None:
        not_materialized(asset, dataset)
    return table


def user_number(users: pd.DataFrame, key: str, dataset: str) -> int:
    """The id of a user.

    Raises:
        RecsysError: the dataset has no such user.
    """
    import numpy as np

    row = np.flatnonzero((users["source_key"] == key).to_numpy())
    if not len(row):
        examples = ", ".join(users["source_key"].head(3))
        raise RecsysError(f"--user {key}: dataset {dataset} has no such user after k-core.", mend=f"try {examples}.")
    return int(users["user_id"].to_numpy()[row[0]])
