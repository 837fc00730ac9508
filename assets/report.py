"""Group `evaluation`: the page about a dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.common import COMMON, Stopwatch, materialized
from recsys_dagster.errors import RecsysError
from recsys_dagster.models import MODELS
from resources.reports import report_url
from resources.storage import AssetStore

NIGHTS_SHOWN = 60
"""Clusterings in the section of nights."""

PAIRS_SHOWN = 100
"""Pairs of prototypes a level whose overlap the map can draw."""

TITLES = {"popularity": "Popularity", **{name: title for name, (_, _, title) in MODELS.items()}}


@dg.asset(**COMMON, group_name="evaluation", kinds={"html"}, code_version="2", io_manager_key="html_io")
def interest_report(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    user_clusters: pd.DataFrame,
    soft_memberships: pd.DataFrame,
    prototypes: pd.DataFrame,
    interest_tokens: dict[str, np.ndarray],
    leaderboard: dict[str, Any],
    recommendations: pd.DataFrame,
    sasrec_model: Path,
    larmi_model: Path,
    g2rec_model: Path,
) -> dg.MaterializeResult[Any]:
    """One page of HTML that makes no request: a map of the items by prototype, leaderboard, training curves, prototypes
    and their overlaps, interests of example users, and how the nights moved the prototypes.

    Open it by the link `report` in the metadata; `recsys-dagster ui` and `recsys-dagster reports` serve it.
    """
    from recsys_dagster.evaluation.report import interest_report as page_of
    from recsys_dagster.g2rec.prototypes import prototype_overlap

    watch = Stopwatch()
    dataset = context.partition_key
    if "standings" not in leaderboard:
        raise RecsysError(
            f"the leaderboard of {dataset} was stored by an earlier version.",
            mend=f"recsys-dagster materialize --dataset {dataset} --select leaderboard interest_report",
        )
    directories = {"sasrec": sasrec_model, "larmi": larmi_model, "g2rec": g2rec_model}
    nights = clusterings(context, dataset)
    page = page_of(
        dataset=dataset,
        items=items,
        leaderboard=leaderboard,
        training={name: pd.read_parquet(path / "training.parquet") for name, path in directories.items()},
        memberships=soft_memberships,
        prototypes=prototypes,
        vectors=vectors_of(prototypes, interest_tokens),
        overlaps=prototype_overlap(soft_memberships, prototypes, n_pairs=PAIRS_SHOWN),
        user_clusters=user_clusters,
        recommendations=recommendations,
        interactions=interactions,
        nights=nights,
        user_keys=users["source_key"].tolist(),
        facts={"users": len(users), "interactions": len(interactions)},
        titles=TITLES,
    )
    metadata = {
        "report": dg.MetadataValue.url(report_url(dataset)),
        "characters": len(page),
        "clusterings": len(nights),
    }
    return materialized(page, metadata, watch)


def vectors_of(prototypes: pd.DataFrame, interest_tokens: Mapping[str, np.ndarray]) -> np.ndarray:
    """The interest token of each prototype, float [C, d].

    Raises:
        RecsysError: the tokens were made of other prototypes.
    """
    place = pd.Series(np.arange(len(interest_tokens["prototype_ids"])), index=interest_tokens["prototype_ids"])
    rows = place.reindex(prototypes["prototype_id"])
    if rows.isna().any():
        raise RecsysError(
            f"interest_tokens lack {int(rows.isna().sum())} of {len(rows)} prototypes: they are of an earlier night.",
            mend="materialize interest_tokens, then interest_report.",
        )
    return interest_tokens["prototype_embeddings"][rows.to_numpy(dtype=np.int64)]


def clusterings(context: dg.AssetExecutionContext, dataset: str) -> pd.DataFrame:
    """Time (UTC) and figures of the stored materializations of the memberships, the oldest first."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("soft_memberships"), asset_partitions=[dataset])
    records = context.instance.fetch_materializations(wanted, limit=NIGHTS_SHOWN).records
    rows = []
    for record in reversed(records):
        if record.asset_materialization is not None:
            told = {name: entry.value for name, entry in record.asset_materialization.metadata.items()}
            figures = {name: value for name, value in told.items() if isinstance(value, int | float)}
            rows.append({"time": pd.Timestamp(record.timestamp, unit="s", tz="UTC"), **figures})
    return pd.DataFrame(rows)
