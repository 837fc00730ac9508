"""What the commands share: options, output, stored tables and run configs."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from recsys_dagster.errors import RecsysError

Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Name of a dataset in datasets.toml.")]
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
