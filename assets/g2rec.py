"""Group `g2rec`: the co-engagement graph, soft interest prototypes on it, and the tokens made of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from assets.common import COMMON, MULTI, OWNERS, Stopwatch, materialized, picture, train_histories
from assets.tables import conform, definition_metadata
from recsys_dagster.evaluation.plots import degree_distribution, histogram
from recsys_dagster.g2rec.coengagement import CoengagementConfig
from recsys_dagster.g2rec.soft_modularity import SoftConfig
from resources.storage import AssetStore

KINDS = {"pandas", "parquet"}


class GraphConfig(CoengagementConfig, dg.Config):
    """How co-engaged pairs are counted."""

    seed: int = Field(0, ge=0, description="Seed of the draws, where a user is sampled")


class MembershipsConfig(SoftConfig, dg.Config):
    """How prototypes are found."""

    seed: int = Field(0, ge=0, description="Seed of Leiden and of the links' negatives")
    warm_start: bool = Field(True, description="Start from the stored memberships of the last run and keep their ids")


@dg.asset(
    **COMMON,
    group_name="g2rec",
    kinds={*KINDS},
    code_version="1",
    metadata=definition_metadata("coengagement_graph"),
)
def coengagement_graph(
    config: GraphConfig, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.MaterializeResult[Any]:
    """Items touched by the same users (G2Rec, Eq. 1-2): `w_ij = sum_u N_u (N_u - 1) / (2 m_u) * draws of (i, j)`.

    Of each user's pairs m are drawn as Theorem 2 asks for epsilon and delta; where m is not below all
    `N (N - 1) / 2` pairs, the exact clique is taken. Train interactions only.
    """
    from recsys_dagster.g2rec.coengagement import build_graph, graph_statistics

    watch = Stopwatch()
    table = build_graph(train_histories(interactions, users, items), config, seed=config.seed)
    ends = np.concatenate([table["source"].to_numpy(), table["target"].to_numpy()])
    degrees = np.bincount(ends, minlength=len(items))
    metadata = {
        **graph_statistics(table, len(items)),
        "degrees": picture(degree_distribution, degrees, "Items that share users with an item"),
    }
    return materialized(conform(table, "coengagement_graph"), metadata, watch, config)


def _output(table: str, description: str) -> dg.AssetOut:
    return dg.AssetOut(
        group_name="g2rec",
        description=description,
        owners=OWNERS,
        kinds={"igraph", *KINDS},
        code_version="1",
        metadata=definition_metadata(table),
    )


@dg.multi_asset(
    **MULTI,
    outs={
        "soft_memberships": _output(
            "soft_memberships",
            "How much of every item belongs to which prototype, at several resolutions (G2Rec, Eq. 3-4): the "
            "mean-field fixed point `p_i = softmax(field_i / T)`, `field_i = (A P)_i / k_i - gamma (P^T k) / |E|`, "
            "started from Leiden or from the stored memberships, cut to the rho largest entries of an item and level.",
        ),
        "prototypes": _output(
            "prototypes",
            "One row per prototype: size, parent at the next coarser level, label, top items. Ids stay with their "
            "members from night to night (maximum overlap with the stored memberships); `drift` is the share of "
            "members that left.",
        ),
    },
)
def interests(
    context: dg.AssetExecutionContext,
    config: MembershipsConfig,
    store: AssetStore,
    coengagement_graph: pd.DataFrame,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Cluster the graph softly, name the prototypes, and keep last night's ids."""
    from recsys_dagster.g2rec.prototypes import align, prototype_table
    from recsys_dagster.g2rec.soft_modularity import soft_memberships

    watch = Stopwatch()
    previous, next_id = last_memberships(store, context.partition_key, items) if config.warm_start else (None, None)
    table, facts = soft_memberships(
        coengagement_graph,
        len(items),
        config,
        seed=config.seed,
        initial=previous,
        validation_links=validation_links(interactions),
    )
    drift = pd.DataFrame()
    if previous is None:
        next_id = int(table["prototype_id"].max()) + 1
    else:
        alignment = align(previous, table, next_id=next_id)
        table, next_id, drift = alignment.memberships, alignment.next_id, alignment.drift
    described = prototype_table(table, items, previous, gammas=config.gammas)
    memberships = conform(table, "soft_memberships")
    # Dense item ids change with the data and ids of dead prototypes are not given again, so the next night needs these.
    memberships.attrs = {"item_keys": items["source_key"].tolist(), "next_id": int(next_id or 0)}
    metadata = {**_level_facts(facts, drift), "rho": config.rho, "warm_start": previous is not None}
    metadata |= {"entries_per_item": len(memberships) / (len(items) * memberships["level"].nunique())}
    metadata |= {"membership_entropy": _entropy_picture(memberships)}
    yield materialized(memberships, metadata, watch, config, asset="soft_memberships")
    sizes = picture(histogram, described["size"].to_numpy(), "Items of a prototype", "items", log=True)
    births = int((described["previous_id"] < 0).sum())
    about = {"prototypes": len(described), "births": births, "mean_drift": float(described["drift"].mean())}
    yield materialized(
        conform(described, "prototypes"), {**about, "prototype_sizes": sizes}, watch, config, asset="prototypes"
    )


def validation_links(interactions: pd.DataFrame) -> np.ndarray:
    """Each user's last train item with the first validation item: what the temperature is chosen on; int64 [L, 2].

    This is the one use of the validation split before training; like every choice of a setting it uses nothing else.
    """
    train = interactions[interactions["split"] == 0].groupby("user_id")["item_id"].last()
    validation = interactions[interactions["split"] == 1].groupby("user_id")["item_id"].first()
    return pd.concat([train, validation], axis=1, join="inner").to_numpy(dtype=np.int64)


def last_memberships(store: AssetStore, partition: str, items: pd.DataFrame) -> tuple[pd.DataFrame | None, int | None]:
    """The stored memberships in today's item ids, and the smallest prototype id never given; (None, None) at first.

    Items that are gone are left out; an item keeps its key in the source, whatever its number.
    """
    table = store.previous_table("soft_memberships", partition)
    if table is None or "item_keys" not in table.attrs:
        return None, None
    keys, next_id = table.attrs["item_keys"], int(table.attrs["next_id"])
    table.attrs = {}
    today = pd.Series(items["item_id"].to_numpy(), index=items["source_key"])
    now = today.reindex(keys).fillna(-1).to_numpy(dtype=np.int32)
    moved = table.assign(item_id=now[table["item_id"].to_numpy()])
    moved = moved[moved["item_id"] >= 0].sort_values(["item_id", "level", "prototype_id"], ignore_index=True)
    return (moved, next_id) if len(moved) else (None, None)


def _level_facts(facts: dict[str, Any], drift: pd.DataFrame) -> dict[str, Any]:
    """One number per metadata name, so that each plots over the nights."""
    flat = {name: value for name, value in facts.items() if name != "levels"}
    for number, level in enumerate(facts["levels"]):
        flat |= {f"level_{number}_{name}": value for name, value in level.items() if name != "level"}
    for row in drift.to_dict("records"):
        flat |= {f"level_{int(row['level'])}_{name}": row[name] for name in ("ari", "moved_mass", "births", "deaths")}
    return flat


def _entropy_picture(memberships: pd.DataFrame) -> dg.MarkdownMetadataValue:
    share = memberships["probability"].to_numpy(dtype=np.float64)
    terms = pd.Series(-share * np.log(np.maximum(share, 1e-12)))
    entropy = terms.groupby([memberships["level"].to_numpy(), memberships["item_id"].to_numpy()]).sum()
    return picture(histogram, entropy.to_numpy(), "Entropy of an item's memberships at a level", "nats", log=True)


@dg.asset(
    **COMMON, group_name="g2rec", kinds={"numpy", "safetensors"}, code_version="1", io_manager_key="safetensors_io"
)
def item_embeddings(sasrec_model: Path) -> dg.MaterializeResult[Any]:
    """Item embeddings X (N x d) of the trained SASRec: what the prototypes' tokens are made of (G2Rec, Eq. 6)."""
    from recsys_dagster.baselines.sasrec import item_embeddings as embeddings_of

    watch = Stopwatch()
    embeddings = embeddings_of(sasrec_model)
    norms = np.linalg.norm(embeddings, axis=1)
    metadata = {"items": len(embeddings), "dimension": embeddings.shape[1], "mean_norm": float(norms.mean())}
    return materialized({"item_embeddings": embeddings}, metadata, watch)


@dg.asset(
    **COMMON, group_name="g2rec", kinds={"numpy", "safetensors"}, code_version="1", io_manager_key="safetensors_io"
)
def interest_tokens(
    soft_memberships: pd.DataFrame, item_embeddings: dict[str, np.ndarray]
) -> dg.MaterializeResult[Any]:
    """Interest tokens (G2Rec, Eq. 6-7): `V = P^T X / P^T 1` (prototypes), `Y = mean over levels of P V` (items)."""
    from recsys_dagster.g2rec.tokens import interest_tokens as tokens_of

    watch = Stopwatch()
    tokens = tokens_of(soft_memberships, item_embeddings["item_embeddings"])
    prototypes, dimension = tokens["prototype_embeddings"].shape
    return materialized(tokens, {"prototypes": prototypes, "dimension": dimension}, watch)
