"""The commands `recsys-dagster llm ...`: what a language model would cost, and the cache of its answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from recsys_dagster.cli_common import Dataset, Json, console, print_json, required, stored
from recsys_dagster.errors import RecsysError
from recsys_dagster.run_config import read_config

if TYPE_CHECKING:
    from recsys_dagster.larmi.llm.cache import AnswerCache
    from recsys_dagster.larmi.llm.estimate import Estimate
    from resources.llm import LlmResource

llm_app = typer.Typer(help="The language-model stage: cost before it is spent, and the answers.", no_args_is_help=True)
cache_app = typer.Typer(help="The answers that were paid for.", no_args_is_help=True)
llm_app.add_typer(cache_app, name="cache")

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Run config in YAML, as for materialize: resources.llm.config.")
]
CacheFile = Annotated[
    Path | None, typer.Option("--cache", help="SQLite file; that of the resource llm (RECSYS_HOME) without it.")
]

COUNTS = {
    "users": "users", "questions": "questions", "answered already": "cached", "calls": "calls",
    "tokens in": "input_tokens", "tokens out": "output_tokens",
}  # fmt: skip
"""Rows of an estimate: title and attribute."""


def configured(config: dict[str, Any]) -> LlmResource:
    """The resource `llm` with the settings of a run config.

    Raises:
        RecsysError: if a setting is unknown or wrong.
    """
    from pydantic import ValidationError

    from recsys_dagster.definitions import default_resources
    from resources.llm import LlmResource

    resource: LlmResource = default_resources()["llm"]
    values: Any = config
    for name in ("resources", "llm", "config"):
        values = values.get(name) or {} if isinstance(values, dict) else {}
    unknown = sorted(set(values) - set(LlmResource.model_fields))
    if unknown:
        raise RecsysError(f"resources.llm.config: no setting {unknown[0]!r}.", mend="the settings are in docs/llm.md.")
    problem = ""
    try:
        return LlmResource(**{**resource.model_dump(), **values})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        problem = f"{'.'.join(str(part) for part in first['loc']) or 'llm'}: {first['msg']}"
    raise RecsysError(f"resources.llm.config: {problem}.", mend="the settings are in docs/llm.md.")


@llm_app.command("estimate")
def llm_estimate(
    dataset: Dataset,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Count calls, tokens and cost of the interest clusters of a dataset. Nothing is sent."""
    from recsys_dagster.data.histories import Histories
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.larmi.cliques import clique_users
    from recsys_dagster.larmi.clusters import Catalogue, distinct
    from recsys_dagster.larmi.llm.estimate import estimate

    llm = configured(read_config(config))
    get_dataset(dataset)
    tables = {name: required(name, dataset) for name in ("interactions", "users", "items")}
    catalogue = Catalogue.from_items(tables["items"])
    history = Histories.from_interactions(
        tables["interactions"], n_users=len(tables["users"]), n_items=len(tables["items"])
    )
    lists = {"user_clusters": [distinct(history.of(user)) for user in range(history.n_users)]}
    cliques, chosen = stored("user_cliques", dataset), stored("representative_users", dataset)
    if cliques is not None and chosen is not None:
        pairs = clique_users(cliques, chosen["clique_id"].to_numpy())
        lists["representative_clusters"] = [distinct(ids) for _, ids in pairs]
    found = {name: estimate(own, catalogue, llm, llm.cache_path()) for name, own in lists.items()}
    _print_estimate(llm, found, as_json)


def _print_estimate(llm: LlmResource, found: dict[str, Estimate], as_json: bool) -> None:
    from recsys_dagster.larmi.llm.cost import money

    total = {
        name: sum(getattr(one, name) for one in found.values())
        for name in ("calls", "input_tokens", "output_tokens", "cost", "most")
    }
    if as_json:
        rows = {name: dataclasses.asdict(one) for name, one in found.items()}
        print_json({**llm.describe(), "spending_cap": llm.spending_cap, "assets": rows, **total})
        return
    out = console()
    priced = bool(llm.input_price and llm.output_price)
    table = Table("", *found, box=None)
    for title, name in COUNTS.items():
        table.add_row(title, *(f"{getattr(one, name):,}" for one in found.values()))
    if priced:
        table.add_row("cost", *(money(one.cost) for one in found.values()))
        table.add_row("at most", *(money(one.most) for one in found.values()))
    out.print(table)
    notes = [f"model {llm.model} at {llm.base_url}; second tries after unusable answers come on top."]
    if not any(one.calibrated for one in found.values()):
        notes.append("tokens are a guess on the high side; after the first calls they follow what the server reports.")
    if "representative_clusters" not in found:
        notes.append("representative_clusters is left out: its users are chosen when the lineage has come to them.")
    if not priced:
        notes.append("set input_price and output_price (of a million tokens) to see the cost.")
    elif llm.spending_cap is not None:
        notes.append(f"spending_cap is {money(llm.spending_cap)} an asset and run.")
    if llm.backend == "local":
        notes.append("the backend is local: a run asks nobody until resources.llm.config.backend says otherwise.")
    for note in notes:
        out.print(note, highlight=False)


def _open(cache: Path | None) -> AnswerCache:
    from recsys_dagster.larmi.llm.cache_admin import open_existing

    return open_existing(cache or configured({}).cache_path())


@cache_app.command("stats")
def cache_stats(cache: CacheFile = None, as_json: Json = False) -> None:
    """Show how many answers there are, of which models, and which batches are not collected."""
    from recsys_dagster.larmi.llm.cache_admin import stats

    with _open(cache) as answers:
        found = stats(answers)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"{found['file']}: {found['answers']:,} answers, {found['bytes'] / 1e6:.1f} MB", highlight=False)
    table = Table("model", "prompt", "answers", "unusable", "oldest", "newest", "tokens in", "tokens out", box=None)
    for row in found["models"]:
        numbers = (row["answers"], row["unusable"], row["oldest"], row["newest"], row["prompt_tokens"])
        table.add_row(
            row["model"], row["prompt_version"], *(str(one) for one in numbers), str(row["completion_tokens"])
        )
    out.print(table)
    for batch in found["batches"]:
        name = batch["batch_id"] or "a batch not created yet"
        out.print(f"{name}: {batch['questions']:,} questions, since {batch['created']}", highlight=False)


@cache_app.command("prune")
def cache_prune(
    cache: CacheFile = None,
    older_than: Annotated[float | None, typer.Option("--older-than", min=0, help="Older than so many days.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model.")] = None,
    prompt_version: Annotated[str | None, typer.Option("--prompt-version", help="Of this prompt.")] = None,
    unusable: Annotated[bool, typer.Option("--unusable", help="Unusable answers: those users are asked anew.")] = False,
    batches: Annotated[bool, typer.Option("--batches", help="Forget batches that are not collected.")] = False,
) -> None:
    """Drop the answers that fit all the conditions."""
    from recsys_dagster.larmi.llm.cache_admin import prune

    with _open(cache) as answers:
        count = prune(
            answers,
            older_than_days=older_than,
            model=model,
            prompt_version=prompt_version,
            unusable=unusable,
            batches=batches,
        )
    console().print(f"{count:,} {'batches' if batches else 'answers'} dropped.", highlight=False)


@cache_app.command("export")
def cache_export(
    target: Annotated[Path, typer.Argument(help="File to write: .jsonl or .parquet.")], cache: CacheFile = None
) -> None:
    """Copy all answers out. They hold item numbers, labels and reasons; neither titles nor keys."""
    from recsys_dagster.larmi.llm.cache_admin import export

    with _open(cache) as answers:
        count = export(answers, target)
    console().print(f"{count:,} answers in {target}", highlight=False)
