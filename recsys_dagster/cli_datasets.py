"""The commands `recsys-dagster datasets ...`: what is in datasets.toml, and new entries."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from recsys_dagster.cli_common import Json, complete_dataset, console, print_json, stored
from recsys_dagster.errors import RecsysError

datasets_app = typer.Typer(help="What is in datasets.toml, and new entries.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the dataset.", autocompletion=complete_dataset)]


@datasets_app.command("list")
def datasets_list(as_json: Json = False) -> None:
    """List the datasets and where each one would be read from."""
    from recsys_dagster.data.registry import load_registry

    specs = load_registry().values()
    if as_json:
        print_json([spec.model_dump(mode="json") for spec in specs])
        return
    table = Table("dataset", "reader", "protocol", "titles", "source", box=None)
    for spec in specs:
        titles = "yes" if spec.has_titles else "no"
        table.add_row(spec.name, spec.reader, spec.protocol, titles, str(spec.source or "generated"))
    console().print(table)


@datasets_app.command("describe")
def datasets_describe(name: Name, as_json: Json = False) -> None:
    """Show every setting of a dataset, and its size once it has been materialized."""
    from recsys_dagster.data.registry import get_dataset

    settings = get_dataset(name).model_dump(mode="json")
    tables = {asset: stored(asset, name) for asset in ("interactions", "users", "items")}
    settings["materialized"] = {asset: len(table) for asset, table in tables.items() if table is not None}
    if as_json:
        print_json(settings)
        return
    table = Table("setting", "value", box=None)
    for key, value in settings.items():
        if value not in (None, "", {}, []):
            table.add_row(
                key, ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            )
    console().print(table)


@datasets_app.command("fetch")
def datasets_fetch(name: Name, as_json: Json = False) -> None:
    """Make the files of a dataset available locally, and check size and sha256."""
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.data.sources import data_directory, fetch
    from resources.storage import home

    files = fetch(get_dataset(name), data_directory(), home() / "downloads")
    if as_json:
        print_json({role: str(path) for role, path in files.items()})
        return
    for role, path in files.items():
        console().print(f"{role}: {path}", highlight=False)
    if not files:
        console().print(f"{name} is generated; there is nothing to fetch.", highlight=False)


@datasets_app.command("add")
def datasets_add(
    path: Annotated[str, typer.Argument(help="The log: a path, or an address such as s3://bucket/log.csv.gz.")],
    name: Annotated[str, typer.Option(help="Name of the dataset; the file's without it.")] = "",
    user: Annotated[str, typer.Option(help="Column of the user.")] = "",
    item: Annotated[str, typer.Option(help="Column of the item.")] = "",
    timestamp: Annotated[str, typer.Option(help="Column of the time, or of the position within the user.")] = "",
    items: Annotated[str, typer.Option(help="A file with the items' titles.")] = "",
    protocol: Annotated[str, typer.Option(help="leave_one_out or chronological_622.")] = "leave_one_out",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a log, show what was guessed, and write an entry for it into datasets.toml."""
    from recsys_dagster.data.new_entry import add_entry, entry_text, look_at, look_at_items
    from recsys_dagster.data.registry import load_registry, registry_path

    registry = registry_path()
    name = name or re.sub(r"[^A-Za-z0-9_-]+", "_", Path(path).name.split(".")[0]).strip("_")
    if name in load_registry(registry):
        raise RecsysError(f"{registry}: there is a dataset '{name}' already.", mend="choose another with --name.")
    guess = look_at(path, {"user": user, "item": item, "timestamp": timestamp})
    settings: dict[str, Any] = {"reader": guess.reader, "source": _written(path, registry)}
    columns = dict(guess.columns)
    if items:
        if guess.reader == "table":
            columns |= look_at_items(items, columns["item"], guess.delimiter)
        settings["items_source"] = _written(items, registry)
    if protocol != "leave_one_out":
        settings["protocol"] = protocol
    if guess.reader == "table":
        if guess.delimiter != ",":
            settings["delimiter"] = guess.delimiter
        if other := {role: column for role, column in columns.items() if role != column}:
            settings["columns"] = other
    if not as_json:
        out = console()
        out.print(f"{path}: {guess.rows:,} rows looked at, reader {guess.reader}", highlight=False)
        table = Table("what", "column", "first values", box=None)
        for column, values in guess.examples.items():
            role = next((role for role, named in columns.items() if named == column), column)
            table.add_row(*(escape(text[:60]) for text in (role, column, ", ".join(values))))
        out.print(table)
        print(f"\n{entry_text(name, settings)}")
        if not yes:
            if not sys.stdin.isatty():
                raise RecsysError("nobody is there to confirm the entry.", mend="give --yes to write it.")
            typer.confirm(f"Write this to {registry}?", abort=True)
    elif not yes:
        raise RecsysError("--json does not ask.", mend="give --yes too.")
    spec = add_entry(registry, name, settings)
    if as_json:
        print_json(spec.model_dump(mode="json"))
        return
    console().print(
        f"{name} is in {registry}. Next: recsys-dagster materialize --dataset {name}; a UI that is open sees it after "
        "'Reload definitions'.",
        highlight=False,
    )


def _written(place: str, registry: Path) -> str:
    """A place as the entry names it: an address as it is, a path from the folder of datasets.toml if it lies there."""
    if "://" in place:
        return place
    path, folder = Path(os.path.abspath(Path(place).expanduser())), registry.resolve().parent  # noqa: PTH100
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
