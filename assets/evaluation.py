"""Group `evaluation`: what the models are worth, side by side, and what they recommend."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
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
from assets.spread import in_pieces, spread
from assets.tables import conform, definition_metadata
from recsys_dagster.data.registry import get_dataset
from recsys_dagster.errors import RecsysError
from recsys_dagster.models import CORE_MODELS, MODEL_NAMES
from recsys_dagster.training.launch import data_parallel
from resources.compute import ComputeResource
from resources.gpu import GpuResource
from resources.storage import AssetStore
from resources.stored_table import StoredTable

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
    store: AssetStore, partition: str, interactions: StoredTable
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
    ins=in_pieces("interactions", "users", "items", "negatives"),
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
    compute: ComputeResource,
    gpu: GpuResource,
    interactions: StoredTable,
    users: StoredTable,
    items: StoredTable,
    negatives: StoredTable,
    popularity_model: Path,
    sasrec_model: Path,
    larmi_model: Path,
    g2rec_model: Path,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Rank the test targets with every model, one model in a process's memory at a time."""
    from recsys_dagster.evaluation.plots import metric_bars
    from recsys_dagster.evaluation.protocol import deciding_k
    from recsys_dagster.evaluation.ranges import UserData, evaluate_models
    from recsys_dagster.models import StoredModel

    watch = Stopwatch()
    dataset = context.partition_key
    spec, runtime = get_dataset(dataset), runtime_of(gpu)
    protocol = spec.protocol
    core = dict(zip(CORE_MODELS, (popularity_model, sasrec_model, larmi_model, g2rec_model), strict=True))
    require_current(core, interactions, dataset)
    compared, stale = comparison_models(store, dataset, interactions)
    for name in stale:
        context.log.warning(f"{name}_model was trained on other interactions and is left out: run the job compare.")
    directories = core | compared
    runs = []
    for name, directory in directories.items():
        names = {"dataset": dataset, "model": name, "protocol": protocol}
        for path in trained_models(directory):
            seed = int(trained_on(path).get("seed", 0))
            runs.append((StoredModel.at(path, runtime.device), {**names, "seed": seed}))
    settings: dict[str, Any] = {"ks": config.ks, "batch_size": config.batch_size}
    with exhaustion_told(context, config), spread(compute, store, "user_metrics", dataset) as work:
        if work.here and runtime.devices > 1:
            data = sequence_data(dataset, interactions.read(), users.read(), items.read())
            drawn = negatives.read()
            found = [
                evaluate_stored(model.directory, data, drawn, runtime=runtime, **names, **settings)
                for model, names in runs
            ]
            metrics = pd.concat([result.metrics for result in found], ignore_index=True)
            parts: list[Any] = [result.per_user for result in found]
        else:
            ranges = UserData.of(interactions, len(users), len(items), spec.max_length, work.engine)
            metrics, parts = evaluate_models(
                runs, ranges, negatives, engine=work.engine, output=work.output, **settings
            )
    table = conform(metrics, "metrics")
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
    ranked = {"users": int(table["n_users"].max())}
    yield materialized(work.joined(parts), ranked, watch, config, asset="user_metrics")


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
    ins=in_pieces("interactions", "users"),
)
def recommendations(
    context: dg.AssetExecutionContext,
    config: RecommendationsConfig,
    store: AssetStore,
    compute: ComputeResource,
    gpu: GpuResource,
    interactions: StoredTable,
    users: StoredTable,
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
    from recsys_dagster.evaluation.ranges import UserData, recommend_all
    from recsys_dagster.models import StoredModel

    watch = Stopwatch()
    dataset, device = context.partition_key, gpu.runtime()["device"]
    directories = dict(zip(CORE_MODELS, (popularity_model, sasrec_model, larmi_model, g2rec_model), strict=True))
    require_current(directories, interactions, dataset)
    if not set(config.models) <= set(directories):
        directories |= comparison_models(store, dataset, interactions)[0]
    if absent := [name for name in config.models if name not in directories]:
        raise RecsysError(
            f"models: {', '.join(absent)} of {dataset} are absent, or trained on other interactions.",
            mend=f"run the job compare for {dataset} first, or leave them out of models.",
        )
    models = [(name, StoredModel.at(directories[name], device)) for name in config.models]
    with exhaustion_told(context, config), spread(compute, store, "recommendations", dataset) as work:
        length = get_dataset(dataset).max_length
        data = UserData.of(interactions, len(users), len(items), length, work.engine)
        found = recommend_all(models, data, n=config.n, engine=work.engine, output=work.output)
    coverage = {f"{name}_catalogue_share": float((own.shown > 0).mean()) for name, own in found.items()}
    shown = np.concatenate([own.shown[own.shown > 0] for own in found.values()])
    told = {
        **gpu.usage(device),
        **coverage,
        "exposure": picture(histogram, shown, "How often an item is recommended by a model", "users", log=True),
        "example": _example(pd.concat([own.example for own in found.values()]), users, items),
    }
    return materialized(work.joined([part for own in found.values() for part in own.parts]), told, watch, config)


def _example(table: pd.DataFrame, users: StoredTable, items: pd.DataFrame) -> dg.MarkdownMetadataValue:
    """The first five recommendations of the first user, by title, as a markdown table."""
    user = int(table["user_id"].iloc[0])
    key = users.users(user, user + 1, ["source_key"])["source_key"].iloc[0]
    names = items["title"].where(items["title"] != "", items["source_key"]).tolist()
    first = table[(table["user_id"] == user) & (table["rank"] <= 5)].to_dict("records")
    rows = [
        [row["model"], row["rank"], names[row["item_id"]].replace("|", "/"), f"{row['score']:.4g}"] for row in first
    ]
    lines = [f"User `{key}`", "", "| model | rank | item | score |", "|---|---|---|---|"]
    return dg.MetadataValue.md("\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]))
