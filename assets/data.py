"""Group `data`: from raw logs to interactions that are split, filtered and numbered."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from assets.common import COMMON, MULTI, OWNERS, Stopwatch, materialized, picture
from assets.tables import conform, definition_metadata
from recsys_dagster.data.registry import TIMETABLE, get_dataset
from resources.storage import home

SPLITS = ("train", "validation", "test")


def _output(table: str, description: str, *, kinds: set[str], code_version: str = "1") -> dg.AssetOut:
    return dg.AssetOut(
        group_name="data",
        description=description,
        owners=OWNERS,
        kinds=kinds,
        code_version=code_version,
        metadata=definition_metadata(table),
    )


@dg.multi_asset(
    **MULTI,
    outs={
        "raw_interactions": _output(
            "raw_interactions",
            "The log as its source gives it: who touched what, and when. Read by the dataset's reader "
            "(`datasets.toml`), from RECSYS_DATA_DIR where a file of that name lies there, else fetched and its sha256 "
            "checked.",
            kinds={"pandas", "parquet", "file"},
        ),
        "raw_items": _output(
            "raw_items",
            "Titles, categories and texts of the source's items. `planted_interest` holds the truth that the `sample` "
            "generator planted, for the check of recovery; it is -1 for real data.",
            kinds={"pandas", "parquet", "file"},
        ),
    },
)
def raw_data(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the source of a dataset."""
    from recsys_dagster.data.readers import read_files
    from recsys_dagster.data.sources import data_directory, fetch
    from recsys_dagster.data.versions import fingerprint

    watch = Stopwatch()
    spec = get_dataset(context.partition_key)
    files = fetch(spec, data_directory(), home() / "downloads")
    # Taken before reading: a file that is replaced meanwhile differs from it, and is seen as changed the next time.
    version = fingerprint(spec, files)
    raw = read_files(spec, files)
    items = with_truth(raw.items, raw.truth)
    log = raw.interactions
    facts = {
        "interactions": len(log),
        "users": log["user"].nunique(),
        "items": log["item"].nunique(),
        "source": str(spec.source),
        "reader": str(spec.reader),
    }
    settings = spec.model_dump(mode="json", exclude={*TIMETABLE})
    yield materialized(
        conform(log, "raw_interactions"), facts, watch, settings, asset="raw_interactions", version=version
    )
    about = {"items": len(items), "items_with_title": int((items["title"] != "").sum())}
    yield materialized(conform(items, "raw_items"), about, watch, settings, asset="raw_items", version=version)


def with_truth(items: pd.DataFrame, truth: pd.DataFrame | None) -> pd.DataFrame:
    """Add each item's planted interests, -1 where none is known."""
    if truth is None:
        return items.assign(planted_interest=-1, planted_second_interest=-1)
    planted = truth.set_index("item").reindex(items["item"]).fillna(-1)
    return items.assign(
        planted_interest=planted["interest"].to_numpy(), planted_second_interest=planted["second_interest"].to_numpy()
    )


@dg.multi_asset(
    **MULTI,
    outs={
        "interactions": _output(
            "interactions",
            "The log after the k-core filter (every user and item left has at least k interactions, repeated until "
            "nothing changes), numbered densely and split by the dataset's protocol: `leave_one_out` (last = test, "
            "second to last = validation) or `chronological_622` (60/20/20 of each user). Everything that is learned "
            "or counted downstream reads the train split only.",
            kinds={"pandas", "parquet"},
        ),
        "users": _output(
            "users",
            "Users that are left after the k-core filter, numbered from 0, with their key in the source.",
            kinds={"pandas", "parquet"},
        ),
        "items": _output(
            "items",
            "Items that are left, with source key, title, categories, text and popularity in the train split.",
            kinds={"pandas", "parquet"},
        ),
    },
)
def prepared_data(
    context: dg.AssetExecutionContext, raw_interactions: pd.DataFrame, raw_items: pd.DataFrame
) -> Iterator[dg.MaterializeResult[Any]]:
    """Filter, number and split the log of a dataset."""
    from recsys_dagster.data.prepare import prepare
    from recsys_dagster.data.raw import RawLog
    from recsys_dagster.evaluation.plots import histogram, ranked

    watch = Stopwatch()
    spec = get_dataset(context.partition_key)
    raw = RawLog(raw_interactions, raw_items.drop(columns=["planted_interest", "planted_second_interest"]))
    prepared = prepare(raw, spec)
    log, n_users, n_items = prepared.interactions, len(prepared.users), len(prepared.items)
    splits = {f"{name}_interactions": int((log["split"] == value).sum()) for value, name in enumerate(SPLITS)}
    facts = {
        "interactions": len(log),
        "history_lengths": picture(histogram, log["user_id"].value_counts(), "Interactions of a user", "interactions"),
        **splits,
        "interactions_per_user": len(log) / n_users,
        "density": len(log) / (n_users * n_items),
        "kept_share": len(log) / len(raw_interactions),
        "protocol": str(spec.protocol),
    }
    settings = spec.model_dump(mode="json", exclude={*TIMETABLE})
    yield materialized(conform(log, "interactions"), facts, watch, settings, asset="interactions")
    yield materialized(conform(prepared.users, "users"), {"users": n_users}, watch, settings, asset="users")
    popularity = prepared.items["train_popularity"]
    about = {
        "items": n_items,
        "items_without_train": int((popularity == 0).sum()),
        "popularity": picture(ranked, popularity.sort_values(ascending=False), "Items by popularity", "interactions"),
        "top_share": float(popularity.nlargest(max(n_items // 100, 1)).sum() / max(popularity.sum(), 1)),
    }
    yield materialized(conform(prepared.items, "items"), about, watch, settings, asset="items")


class NegativesConfig(dg.Config):
    """The stored candidates of the sampled ranking."""

    n: int = Field(99, ge=1, description="Items drawn per user; fewer where the catalogue is too small")
    seed: int = Field(0, ge=0, description="Seed of the draws")


@dg.asset(
    **COMMON,
    group_name="data",
    kinds={"pandas", "parquet"},
    code_version="1",
    metadata=definition_metadata("negatives"),
)
def negatives(
    config: NegativesConfig, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.MaterializeResult[Any]:
    """Uniform negatives of every user, drawn once and kept, so that every model meets the same candidates.

    Never an item that the user touched in any split.
    """
    from recsys_dagster.data.prepare import sample_negatives

    watch = Stopwatch()
    table = sample_negatives(interactions, len(users), len(items), n=config.n, seed=config.seed)
    shortest = int(table["item_ids"].map(len).min())
    return materialized(conform(table, "negatives"), {"users": len(table), "fewest_negatives": shortest}, watch, config)
