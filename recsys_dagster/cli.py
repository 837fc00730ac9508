"""The command line `recsys-dagster`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recsys_dagster.cli_common import (
    Dataset,
    Json,
    complete_dataset,
    complete_selection,
    console,
    names,
    not_materialized,
    print_json,
    stored,
    user_number,
)
from recsys_dagster.cli_datasets import datasets_app
from recsys_dagster.cli_larmi import explain, export, search
from recsys_dagster.cli_llm import llm_app
from recsys_dagster.cli_operate import backfill, doctor
from recsys_dagster.cli_serve import serve
from recsys_dagster.cli_ui import reports, ui
from recsys_dagster.errors import RecsysError, disk_told
from recsys_dagster.run_config import read_config

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Raw interaction logs to two trained recommenders, LARMI and G2Rec. State lives under RECSYS_HOME (.recsys).",
    epilog="Exit codes: 0 all done; 1 something failed, one line each on stderr says what and how to mend it; 2 no "
    "such command or option; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(datasets_app, name="datasets")
app.add_typer(llm_app, name="llm")


@app.command()
def materialize(
    dataset: Annotated[
        list[str],
        typer.Option("--dataset", "-d", help="Dataset; several allowed.", autocompletion=complete_dataset),
    ],
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select", "-s", help="Asset or group; several allowed. All without it.", autocompletion=complete_selection
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Dagster run config in YAML (ops, resources).")
    ] = None,
    as_json: Json = False,
    more: Annotated[list[str] | None, typer.Argument(help="More names after --select.", show_default=False)] = None,
) -> None:
    """Run the lineage for each named dataset: one run each, a failed one does not stop the others."""
    from recsys_dagster import runs
    from recsys_dagster.data.registry import get_dataset
    from resources.instance import fail_dead_runs, open_instance

    specs = [get_dataset(name) for name in names(dataset)]
    if more and not select:
        raise RecsysError(f"{' '.join(more)}: no option takes it.", mend="name assets and groups after --select.")
    select = [*(select or ()), *(more or ())]
    runs.select_assets(select)
    given, outcomes, out = read_config(config), {}, Console(soft_wrap=True, stderr=as_json)
    with open_instance() as instance:
        fail_dead_runs(instance)
        for name, spec in ((spec.name, spec) for spec in specs):
            out.print(f"[bold]{name}[/]: {', '.join(select) if select else 'the whole lineage'}", highlight=False)
            settings = given if config else read_config(spec.run_config_path)
            outcome = outcomes[name] = runs.execute(instance, name, out, select=select, config=settings)
            state = "[green]finished[/]" if outcome.success else "[red]failed[/]"
            out.print(f"[bold]{name}[/] {state} in {outcome.seconds:.0f} s, run {outcome.run_id}", highlight=False)
            if not outcome.success:
                for error in outcome.errors or ["the run failed; see its log in the UI"]:
                    print(f"error: {name}: {error}", file=sys.stderr)
    if as_json:
        print_json([{"dataset": name, **asdict(outcome)} for name, outcome in outcomes.items()])
    if not all(outcome.success for outcome in outcomes.values()):
        raise typer.Exit(1)


@app.command()
def leaderboard(
    dataset: Annotated[list[str] | None, typer.Option("--dataset", "-d", help="Dataset; all without it.")] = None,
    as_json: Json = False,
) -> None:
    """Show the stored leaderboards."""
    from rich.markdown import Markdown

    from recsys_dagster.data.registry import dataset_names, get_dataset
    from resources.storage import AssetStore

    wanted = [get_dataset(name).name for name in dataset] if dataset else dataset_names()
    paths = {name: AssetStore().path("leaderboard", name, ".json") for name in wanted}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    absent = [name for name in wanted if name not in found]
    if absent and (dataset or not found):
        not_materialized("leaderboard", absent[0])
    if as_json:
        print_json([row for board in found.values() for row in board["rows"]])
        return
    for board in found.values():
        Console().print(Markdown(board["markdown"]))


@app.command()
def recommend(
    dataset: Dataset,
    user: Annotated[str, typer.Option("--user", "-u", help="Key of the user in the source.")],
    model: Annotated[str, typer.Option("--model", "-m", help="popularity, sasrec, larmi or g2rec.")] = "g2rec",
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Items to recommend.")] = 10,
    as_json: Json = False,
) -> None:
    """Recommend items to one user with a stored model, from the user's whole history."""
    from recsys_dagster.data.registry import get_dataset

    spec = get_dataset(dataset)
    tables = {name: stored(name, dataset) for name in ("interactions", "users", "items")}
    for name, table in tables.items():
        if table is None:
            not_materialized(name, dataset)
    rows = _recommend_one(tables, spec.max_length, dataset, model, user, n)
    if as_json:
        print_json(rows)
        return
    table = Table("rank", "item", "title", "score", box=None)
    for row in rows:
        table.add_row(str(row["rank"]), row["item"], row["title"], f"{row['score']:.4f}")
    console().print(table)


def _recommend_one(
    tables: dict[str, Any], max_length: int, dataset: str, model: str, user: str, n: int
) -> list[dict[str, Any]]:
    import numpy as np

    from assets.models import require_current
    from recsys_dagster.models import MODEL_NAMES, load_model
    from resources.storage import AssetStore, local_directory

    users: pd.DataFrame = tables["users"]
    items: pd.DataFrame = tables["items"]
    if model not in MODEL_NAMES:
        raise RecsysError(f"--model {model}: not a model.", mend=f"choose one of {', '.join(MODEL_NAMES)}.")
    chosen = np.array([user_number(users, user, dataset)])
    try:
        directory = local_directory(AssetStore().path(f"{model}_model", dataset, ""))
    except FileNotFoundError:
        not_materialized(f"{model}_model", dataset)
    require_current({model: directory}, tables["interactions"], dataset)

    from recsys_dagster.evaluation.recommend import recommendations
    from recsys_dagster.training.data import SequenceData

    data = SequenceData.from_tables(
        tables["interactions"], n_users=len(users), n_items=len(items), max_length=max_length
    )
    found = recommendations(load_model(directory), data, model=model, n=n, users=chosen)
    about = items.set_index("item_id").loc[found["item_id"]]
    return [
        {"rank": int(rank), "item": key, "title": title or text, "score": float(score)}
        for rank, key, title, text, score in zip(
            found["rank"], about["source_key"], about["title"], about["text"], found["score"], strict=True
        )
    ]


for command in (explain, export, backfill, search, ui, reports, serve, doctor):  # as `--help` lists them
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a `RecsysError` is one line on stderr and exit code 1, so is a service that is out."""
    from resources.storage import home

    try:
        with disk_told(f"something under {home()}"):
            app(arguments)
    except Exception as error:
        told = error if isinstance(error, RecsysError) else _outage(error)
        if told is None:
            raise
        print(f"error: {' '.join(str(told).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def _outage(error: Exception) -> RecsysError | None:
    from recsys_dagster.outages import outage

    return outage(error)


if __name__ == "__main__":
    main()
