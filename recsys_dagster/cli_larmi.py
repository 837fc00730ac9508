"""The commands about LARMI: `explain` a user's interests, `search` its settings, `export` its vectors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape

from recsys_dagster.cli_common import (
    Dataset,
    Json,
    console,
    not_materialized,
    print_json,
    required,
    user_number,
)
from recsys_dagster.errors import RecsysError
from recsys_dagster.run_config import read_config, relevant

if TYPE_CHECKING:
    import pandas as pd

    from recsys_dagster.larmi.explain import Interest
    from recsys_dagster.larmi.model import LARMI
    from recsys_dagster.training.data import SequenceData

SHOWN = 5
"""Labels and items of an interest that are shown in text; the JSON has all of them."""


def explain(
    dataset: Dataset,
    user: Annotated[str, typer.Option("--user", "-u", help="Key of the user in the source.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Items to recommend.")] = 10,
    as_json: Json = False,
) -> None:
    """Show a user's interests in LARMI: their names, the items behind them, and the recommendations that each brings.

    A name is the language model's (or the local clusterer's) for a group of the user's items; an interest is made of
    several with weights. Shares tell how much of an interest each item of the whole history makes up.
    """
    from recsys_dagster.larmi.explain import explain_user

    model, data, users, items = _trained(dataset)
    clusters = required("user_clusters", dataset)
    number = user_number(users, user, dataset)
    found = explain_user(model, data.whole(), clusters, number, mask_seen=data.mask_seen, n=n)
    interests = _with_titles(found, items)
    if as_json:
        print_json({"dataset": dataset, "user": user, "model": "larmi", "interests": interests})
        return
    _show(interests)


def _trained(dataset: str) -> tuple[LARMI, SequenceData, pd.DataFrame, pd.DataFrame]:
    """The stored LARMI of a dataset, its splits, users and items."""
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.larmi.model import LARMI
    from recsys_dagster.models import load_model
    from recsys_dagster.training.data import SequenceData
    from resources.storage import AssetStore, local_directory

    length = get_dataset(dataset).max_length
    interactions, users, items = (required(name, dataset) for name in ("interactions", "users", "items"))
    try:
        model = load_model(local_directory(AssetStore().path("larmi_model", dataset, "")))
    except FileNotFoundError:
        not_materialized("larmi_model", dataset)
    assert isinstance(model, LARMI)
    data = SequenceData.from_tables(interactions, n_users=len(users), n_items=len(items), max_length=length)
    return model, data, users, items


def _with_titles(interests: list[Interest], items: pd.DataFrame) -> list[dict[str, Any]]:
    about = items.set_index("item_id").sort_index()
    keys, titles = about["source_key"].tolist(), about["title"].where(about["title"] != "", about["text"]).tolist()
    return [
        {
            "interest": interest.number,
            "labels": [{"label": label, "weight": round(weight, 4)} for label, weight in interest.labels],
            "items": [
                {"item": keys[item], "title": titles[item], "share": round(share, 4)} for item, share in interest.items
            ],
            "recommendations": [
                {"rank": rank, "item": keys[item], "title": titles[item], "score": round(score, 4)}
                for rank, item, score in interest.recommendations
            ],
        }
        for interest in interests
    ]


def _show(interests: list[dict[str, Any]]) -> None:
    out = console()
    for interest in interests:
        labels = ", ".join(f"{label['label']} ({label['weight']:.0%})" for label in interest["labels"][:SHOWN])
        out.print(f"[bold]Interest {interest['interest']}[/]: {escape(labels) or 'without a name'}", highlight=False)
        for item in interest["items"][:SHOWN]:
            out.print(f"  {item['share']:>4.0%} {escape(item['item'])}  {escape(item['title'])}", highlight=False)
        if len(interest["items"]) > SHOWN:
            out.print(f"       and {len(interest['items']) - SHOWN} more items", highlight=False)
        for item in interest["recommendations"]:
            out.print(f"  -> {item['rank']:>2}. {escape(item['item'])}  {escape(item['title'])}", highlight=False)
        if not interest["recommendations"]:
            out.print("  -> nothing in this list", highlight=False)


def search(
    dataset: Dataset,
    trial: Annotated[
        list[str] | None, typer.Option("--trial", help="Key of a trial; several allowed. The whole grid without it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Run config in YAML: ops.larmi_trials.config, resources.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also the trials that are stored already.")] = False,
) -> None:
    """Train LARMI over the paper's grid of interests, learning rate and weight decay, and show the table.

    Trials that are stored are not trained again, so a search that was stopped goes on where it was.
    """
    import dagster as dg

    from assets.search import TRIALS, markdown, stored_trials
    from recsys_dagster import runs
    from recsys_dagster.automation import larmi_search_job
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.definitions import defs
    from resources.instance import fail_dead_runs, open_instance
    from resources.storage import AssetStore

    get_dataset(dataset)
    wanted = list(dict.fromkeys(trial or TRIALS))
    if unknown := [key for key in wanted if key not in TRIALS]:
        raise RecsysError(f"--trial {unknown[0]}: no such trial.", mend=f"choose some of {', '.join(TRIALS)}.")
    settings, out, store, failed = read_config(config), console(), AssetStore(), False
    job = defs.resolve_job_def(larmi_search_job.name)
    given = relevant(settings, runs.steps(), [dg.AssetKey("larmi_trials")])
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with open_instance() as instance:
        fail_dead_runs(instance)
        for number, key in enumerate(wanted, 1):
            if not again and key in stored_trials(store, dataset):
                out.print(f"{key}: stored already ({number} of {len(wanted)})", highlight=False)
                continue
            outcome = job.execute_in_process(
                run_config={**quiet, **given},
                instance=instance,
                partition_key=dg.MultiPartitionKey({"dataset": dataset, "trial": key}),
                raise_on_error=False,
            )
            if not outcome.success:
                failed = True
                errors = [event.step_failure_data.error for event in outcome.all_events if event.is_step_failure]
                said = runs.one_line(errors[0]) if errors else "the run failed; see its log in the UI"
                print(f"error: {dataset}, {key}: {said}", file=sys.stderr)
                continue
            value = float(stored_trials(store, dataset)[key]["validation_recall"].iloc[0])
            out.print(f"{key}: validation Recall@20 {value:.4f} ({number} of {len(wanted)})", highlight=False)
        if stored_trials(store, dataset):
            table = runs.execute(instance, dataset, out, select=["larmi_search_table"])
            if table.success:
                out.print(Markdown(markdown(required("larmi_search_table", dataset))))
            for error in table.errors:
                print(f"error: {dataset}: {error}", file=sys.stderr)
            failed |= not table.success
    if failed:
        raise typer.Exit(1)


def export(
    dataset: Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist yet.")],
) -> None:
    """Write LARMI's user interests and item vectors as Parquet, for serving (docs/serving.md)."""
    from recsys_dagster.larmi.export import write_export
    from recsys_dagster.larmi.retrieval import vectors_of

    if output.exists():
        raise RecsysError(f"--output {output}: it exists already.", mend="name a new folder, or remove that one.")
    model, data, users, items = _trained(dataset)
    vectors = vectors_of(model, data.whole())
    facts = write_export(output, vectors, users, items, dataset=dataset, mask_seen=data.mask_seen)
    for name, value in facts.items():
        console().print(f"{name}: {value}", highlight=False)
