"""Group `search`: LARMI over the paper's grid (its C.1), one partition a dataset and trial, and the table of them."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from assets.common import (
    COMMON,
    ON_A_GPU,
    Stopwatch,
    data_fingerprint,
    fingerprint,
    materialized,
    runtime_of,
    sequence_data,
)
from assets.partitions import datasets
from assets.tables import conform, definition_metadata
from recsys_dagster.errors import DamagedFileError, RecsysError
from recsys_dagster.larmi.config import LARMIConfig
from resources.gpu import GpuResource
from resources.storage import AssetStore

GROUP = "search"

GRID: dict[str, tuple[float, ...]] = {
    "interests": (2, 4, 6, 8),
    "learning_rate": (1e-2, 1e-3, 1e-4),
    "weight_decay": (1e-4, 1e-5, 1e-6),
}
"""The paper's grid: 36 trials."""

TRIALS: dict[str, dict[str, Any]] = {
    f"k{values[0]}-lr{values[1]:g}-wd{values[2]:g}": dict(zip(GRID, values, strict=True))
    for values in itertools.product(*GRID.values())
}
"""Settings of each trial by partition key."""

trials = dg.MultiPartitionsDefinition({"dataset": datasets, "trial": dg.StaticPartitionsDefinition(list(TRIALS))})


class TrialsConfig(LARMIConfig, dg.Config):
    """Settings of every trial; the trial itself sets interests, learning_rate and weight_decay."""


@dg.asset(
    **{**COMMON, "partitions_def": trials, "op_tags": ON_A_GPU},
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version="1",
    pool="gpu",
    metadata=definition_metadata("larmi_trials"),
)
def larmi_trials(
    context: dg.AssetExecutionContext,
    config: TrialsConfig,
    store: AssetStore,
    gpu: GpuResource,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """One point of the grid `interests x learning_rate x weight_decay = 4 x 3 x 3`: LARMI trained with it, and its
    Recall@20 on the validation split.

    The test split is not looked at. A killed trial goes on from its last whole epoch; the model is not kept.
    """
    from recsys_dagster.larmi.train import train_larmi

    watch = Stopwatch()
    dataset, trial = trial_of(context.partition_key)
    settings = config.model_copy(update=TRIALS[trial])
    data = sequence_data(dataset, interactions, users, items)
    learned_from = learned_from_tables(interactions, user_clusters, representative_clusters)
    facts = []
    for seed in range(gpu.seed, gpu.seed + config.seeds):
        runtime = runtime_of(gpu).model_copy(update={"seed": seed})
        mark = fingerprint(settings.model_dump(exclude={"seeds"}), runtime, learned_from)
        checkpoint = store.checkpoint("larmi_trials", f"{dataset}-{trial}", mark)
        with tempfile.TemporaryDirectory() as folder:
            facts.append(
                train_larmi(
                    data, user_clusters, representative_clusters, settings, runtime, Path(folder) / "larmi",
                    checkpoint,
                )
            )  # fmt: skip
    means = pd.DataFrame(facts)[["validation_recall", "best_epoch", "epochs", "seconds"]].mean()
    row = {"trial": trial, **TRIALS[trial], **means, "seeds": config.seeds, "learned_from": learned_from}
    table = conform(pd.DataFrame([row]), "larmi_trials")
    return materialized(table, {**gpu.usage(runtime.device), **row}, watch, settings, runtime)


@dg.asset(
    **COMMON,
    group_name=GROUP,
    kinds={"pandas", "parquet"},
    code_version="1",
    metadata=definition_metadata("larmi_search_table"),
    deps=[larmi_trials],  # all trials of the dataset
)
def larmi_search_table(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    interactions: pd.DataFrame,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
) -> dg.MaterializeResult[Any]:
    """The trials of a dataset, the best Recall@20 on the validation split first.

    Trials that were trained on other interactions or clusters than today's are counted and left out.
    """
    watch = Stopwatch()
    dataset = context.partition_key
    stored = stored_trials(store, dataset)
    if not stored:
        raise RecsysError(
            f"larmi_trials has no trial of dataset {dataset}.",
            mend=f"run the job larmi_search for some of its partitions, or: recsys-dagster search --dataset {dataset}",
        )
    everything = pd.concat(stored.values(), ignore_index=True)
    current = learned_from_tables(interactions, user_clusters, representative_clusters)
    table = everything[everything["learned_from"] == current]
    table = table.sort_values(["validation_recall", "trial"], ascending=[False, True], ignore_index=True)
    metadata: dict[str, Any] = {"trials": len(table), "of": len(TRIALS), "left_out": len(everything) - len(table)}
    if len(table):
        best = TRIALS[str(table["trial"].iloc[0])]
        metadata |= {
            "validation_recall": float(table["validation_recall"].iloc[0]),
            "best": {"ops": {"larmi_model": {"config": best}}},
            "table": dg.MetadataValue.md(markdown(table)),
        }
    return materialized(conform(table, "larmi_search_table"), metadata, watch)


def trial_of(partition_key: str) -> tuple[str, str]:
    """Dataset and trial of a partition key."""
    assert isinstance(partition_key, dg.MultiPartitionKey)
    found = partition_key.keys_by_dimension
    return found["dataset"], found["trial"]


def learned_from_tables(
    interactions: pd.DataFrame, user_clusters: pd.DataFrame, representative_clusters: pd.DataFrame
) -> str:
    """Twelve digits that change when anything does that a trial is trained on."""
    return data_fingerprint(interactions, user_clusters, representative_clusters)


def stored_trials(store: AssetStore, dataset: str) -> dict[str, pd.DataFrame]:
    """The stored row of each trial of a dataset that has one.

    Raises:
        DamagedFileError: one of them cannot be read.
    """
    tables = {}
    for trial in TRIALS:
        try:
            tables[trial] = store.previous_table("larmi_trials", f"{dataset}/{trial}")
        except DamagedFileError as error:
            again = f"remove that file, then: recsys-dagster search --dataset {dataset} --trial {trial}"
            raise DamagedFileError(error.message, mend=again) from error
    return {trial: table for trial, table in tables.items() if table is not None}


def markdown(table: pd.DataFrame) -> str:
    """The trials as a markdown table."""
    lines = ["| interests | learning rate | weight decay | validation Recall@20 | best epoch | seconds |"]
    lines.append("|---:" * 6 + "|")
    for row in table.to_dict("records"):
        lines.append(
            f"| {row['interests']} | {row['learning_rate']:g} | {row['weight_decay']:g} | "
            f"{row['validation_recall']:.4f} | {row['best_epoch']:g} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)
