"""What the commands share: options, output, stored tables and run configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from recsys_dagster.errors import RecsysError

if TYPE_CHECKING:
    import pandas as pd

Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Name of a dataset in datasets.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def console() -> Console:
    """Where people read: long lines are the terminal's to wrap."""
    return Console(soft_wrap=True)


def print_json(value: Any) -> None:
    """Where programs read."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def read_config(path: Path | None) -> dict[str, Any]:
    """A run config in YAML; empty without a path."""
    if path is None:
        return {}
    import yaml

    mend = "expected a mapping such as {ops: {sasrec_model: {config: {epochs: 5}}}}."
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecsysError(f"--config {path}: there is no such file.", mend="name an existing YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecsysError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}.", mend=mend) from None
    if not isinstance(contents, dict):
        raise RecsysError(f"--config {path} holds {type(contents).__name__}.", mend=mend)
    return contents


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
