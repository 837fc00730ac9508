"""Group `evaluation`: what the models are worth, side by side, and what they recommend."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
from pydantic import Field, field_validator

from assets.common import (
    COMMON,
    MULTI,
    ON_A_GPU,
    OWNERS,
    Stopwatch,
    data_fingerprint,
    materialized,
    picture,
    runtime_of,
    sequence_data,
)
from assets.exhaustion import exhaustion_told
from assets.models import require_current, trained_models, trained_on
from assets.tables import conform, definition_metadata
from recsys_dagster.data.registry import get_dataset
from recsys_dagster.errors import RecsysError
from recsys_dagster.models import CORE_MODELS, MODEL_NAMES
from recsys_dagster.training.launch import data_parallel
from resources.gpu import GpuResource
from resources.storage import AssetStore

if TYPE_CHECKING:
    from recsys_dagster.evaluation.protocol import Evaluation
    from recsys_dagster.training.data import SequenceData
    from recsys_dagster.training.runtime import Runtime

KINDS = {"pandas", "parquet"}
COMPARED = [name for name in MODEL_NAMES if name not in CORE_MODELS]
COMPARISONS = [dg.AssetDep(f"{name}_model") for name in COMPARED]
"""Not loaded with the inputs: most datasets do without them."""


class RecommendationsConfig(dg.Config):
    """Whose recommendations are stored."""

    models: list[str] = Field(["larmi", "g2rec"], min_length=1, description=f"Some of {', '.join(MODEL_NAMES)}")
    n: int = Field(20, ge=1, description="Items per user and model")

    @field_validator("models")
    @classmethod
    def _known(cls, models: list[str]) -> list[str]:
        unknown = [name for name in models if name not in MODEL_NAMES]
        if unknown or len(set(models)) < len(models):
            raise ValueError(f"models is {models}; expected distinct ones of {', '.join(MODEL_NAMES)}")
        return models


class MetricsConfig(dg.Config):
    """How metrics are computed."""

    ks: list[int] = Field([1, 5, 10, 20, 50], min_length=1, description="Cut-offs of Recall, HR and NDCG")
    batch_size: int = Field(256, ge=1, description="Users scored at once")


def comparison_models(
    store: AssetStore, partition: str, interactions: pd.DataFrame
) -> tuple[dict[str, Path], list[str]]:
    """The stored models of the group `comparisons`, and the names of those that were trained on other interactions.

    They are there where somebody asked for them; one of another log cannot be compared, and is left out.
    """
    now, found, stale = data_fingerprint(interactions), {}, []
    for name in COMPARED:
        directory = store.previous_directory(f"{name}_model", partition)
        if directory is None:
            continue
        if trained_on(directory).get("interactions") == now:
            found[name] = directory
        else:
            stale.append(name)
    return found, stale


@data_parallel
def evaluate_stored(
    directory: Path, data: "SequenceData", negatives: pd.DataFrame, *, runtime: "Runtime", **settings: Any
) -> "Evaluation":
    """Rank the test targets with a stored model, on `runtime.devices` devices (see `evaluate_per_user`)."""
    from recsys_dagster.evaluation.protocol import evaluate_per_user
    from recsys_dagster.models import load_model

    return evaluate_per_user(load_model(directory, runtime.device), data, negatives, **settings)


def _output(table: str, description: str) -> dg.AssetOut:
    return dg.AssetOut(
        group_name="evaluation",
        description=description,
        owners=OWNERS,
        kinds=KINDS,
        code_version="1",
        metadata=definition_metadata(table),
    )


@dg.multi_asset(
    **{**MULTI, "op_tags": ON_A_GPU},
    pool="gpu",
    deps=COMPARISONS,
    outs={
        "metrics": _output(
            "metrics",
            "Recall, HR, NDCG and MRR of every model on the test split, ranked in the whole catalogue and among the "
            "stored negatives: `rank = 1 + number greater + half the ties`. Scores must be finite.",
        ),
        "user_metrics": _output(
            "user_metrics", "The deciding metric of every user and model, for paired tests between models."
        ),
    },
)
def evaluated_models(
    context: dg.AssetExecutionContext,
    config: MetricsConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    negatives: pd.DataFrame,
    popularity_model: Path,
    sasrec_model: Path,
    larmi_model: Path,
    g2rec_model: Path,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Rank the test targets with every model, one model in memory at a time."""
    from recsys_dagster.evaluation.plots import metric_bars
    from recsys_dagster.evaluation.protocol import deciding_k

    watch = Stopwatch()
    dataset = context.partition_key
    protocol, runtime = get_dataset(dataset).protocol, runtime_of(gpu)
    data = sequence_data(dataset, interactions, users, items)
    core = dict(zip(CORE_MODELS, (popularity_model, sasrec_model, larmi_model, g2rec_model), strict=True))
    require_current(core, interactions, dataset)
    compared, stale = comparison_models(store, dataset, interactions)
    for name in stale:
        context.log.warning(f"{name}_model was trained on other interactions and is left out: run the job compare.")
    directories = core | compared
    tables, per_user = [], []
    runs = [(name, path) for name, directory in directories.items() for path in trained_models(directory)]
    for name, directory in runs:
        with exhaustion_told(context, config):
            result = evaluate_stored(
                directory, data, negatives, runtime=runtime, dataset=dataset, model=name, protocol=protocol,
                seed=int(trained_on(directory).get("seed", 0)), ks=config.ks, batch_size=config.batch_size,
            )  # fmt: skip
        tables.append(result.metrics)
        per_user.append(result.per_user)
    table = conform(pd.concat(tables, ignore_index=True), "metrics")
    k = deciding_k(protocol)
    full = table[table["candidates"] == "full"]
    shown = full[(full["k"] == k) & full["metric"].isin(["NDCG", "HR", "Recall"])]
    bars = shown.assign(column=shown["metric"] + f"@{k}").pivot_table(index="model", columns="column", values="value")
    means = shown.groupby(["model", "metric", "k"])["value"].mean().reset_index()
    figures = {f"{row['model']}_{row['metric']}_{row['k']}".lower(): row["value"] for row in means.to_dict("records")}
    metadata = {
        **gpu.usage(runtime.device),
        "models": len(directories),
        "left_out": ", ".join(stale) or None,
        **figures,
        "comparison": picture(
            metric_bars, bars.loc[[name for name in MODEL_NAMES if name in bars.index]], "Whole catalogue"
        ),
    }
    yield materialized(table, metadata, watch, config, asset="metrics")
    users_table = conform(pd.concat(per_user, ignore_index=True), "user_metrics")
    yield materialized(users_table, {"users": users_table["user_id"].nunique()}, watch, config, asset="user_metrics")


@dg.asset(**COMMON, group_name="evaluation", kinds={"json", "markdown"}, code_version="2", io_manager_key="json_io")
def leaderboard(metrics: pd.DataFrame, user_metrics: pd.DataFrame) -> dg.MaterializeResult[Any]:
    """The models of a dataset, best first, with a paired test of each of ours against the best baseline."""
    from recsys_dagster.evaluation.leaderboard import leaderboard as compare

    watch = Stopwatch()
    board = compare(metrics, user_metrics)
    metadata = {"models": metrics["model"].nunique(), "table": dg.MetadataValue.md(board.markdown)}
    return materialized(board.plain(), metadata, watch)


@dg.asset(
    **{**COMMON, "op_tags": ON_A_GPU},
    group_name="evaluation",
    kinds=KINDS,
    code_version="1",
    pool="gpu",
    metadata=definition_metadata("recommendations"),
    deps=COMPARISONS,
)
def recommendations(
    context: dg.AssetExecutionContext,
    config: RecommendationsConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    popularity_model: Path,
    sasrec_model: Path,
    larmi_model: Path,
    g2rec_model: Path,
) -> dg.MaterializeResult[Any]:
    """The product: the exact n best unseen items of every user, by each chosen model, from the whole history.

    LARMI's score of an item is the largest over the user's interests (hard readout).
    """
    from recsys_dagster.evaluation.plots import histogram
    from recsys_dagster.evaluation.recommend import recommendations as best_of
    from recsys_dagster.models import load_model

    watch = Stopwatch()
    data, device = sequence_data(context.partition_key, interactions, users, items), gpu.runtime()["device"]
    directories = dict(zip(CORE_MODELS, (popularity_model, sasrec_model, larmi_model, g2rec_model), strict=True))
    require_current(directories, interactions, context.partition_key)
    if not set(config.models) <= set(directories):
        directories |= comparison_models(store, context.partition_key, interactions)[0]
    if absent := [name for name in config.models if name not in directories]:
        raise RecsysError(
            f"models: {', '.join(absent)} of {context.partition_key} are absent, or trained on other interactions.",
            mend=f"run the job compare for {context.partition_key} first, or leave them out of models.",
        )
    with exhaustion_told(context, config):
        tables = [
            best_of(load_model(directories[name], device), data, model=name, n=config.n) for name in config.models
        ]
    table = conform(pd.concat(tables, ignore_index=True), "recommendations")
    coverage = {
        f"{name}_catalogue_share": part["item_id"].nunique() / len(items) for name, part in table.groupby("model")
    }
    shown = table.groupby(["model", "item_id"]).size().to_numpy()
    told = {
        **gpu.usage(device),
        **coverage,
        "exposure": picture(histogram, shown, "How often an item is recommended by a model", "users", log=True),
        "example": _example(table, users, items),
    }
    return materialized(table, told, watch, config)


def _example(table: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """The first five recommendations of the first user, by title, as a markdown table."""
    user = int(table["user_id"].iloc[0])
    key = users.loc[users["user_id"] == user, "source_key"].iloc[0]
    names = items["title"].where(items["title"] != "", items["source_key"]).tolist()
    first = table[(table["user_id"] == user) & (table["rank"] <= 5)].to_dict("records")
    rows = [
        [row["model"], row["rank"], names[row["item_id"]].replace("|", "/"), f"{row['score']:.4g}"] for row in first
    ]
    lines = [f"User `{key}`", "", "| model | rank | item | score |", "|---|---|---|---|"]
    return dg.MetadataValue.md("\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]))
