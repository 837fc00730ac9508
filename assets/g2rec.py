"""Group `g2rec`: the co-engagement graph, soft interest prototypes on it, and the tokens made of them."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from assets.common import COMMON, MULTI, ON_A_LARGE_NODE, OWNERS, Stopwatch, materialized, picture, plain
from assets.cugraph import elsewhere
from assets.partitions import datasets
from assets.spread import in_pieces, spread
from assets.tables import conform, definition_metadata
from recsys_dagster.errors import DamagedFileError, RecsysError
from recsys_dagster.evaluation.plots import degree_distribution, histogram, over_nights, square
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.g2rec.soft_modularity import SoftConfig
from resources.compute import ComputeResource
from resources.cugraph import CugraphResource
from resources.storage import AssetStore
from resources.stored_table import StoredTable

if TYPE_CHECKING:
    from recsys_dagster.g2rec.night import LastNight

logger = logging.getLogger("recsys_dagster")

KINDS = {"pandas", "parquet"}
NIGHTS_SHOWN = 60
"""Materializations drawn in the picture of nights."""


class GraphConfig(CoengagementConfig, dg.Config):
    """How co-engaged pairs are counted."""

    seed: int = Field(0, ge=0, description="Seed of the draws, where a user is sampled")


class MembershipsConfig(SoftConfig, dg.Config):
    """How prototypes are found."""

    seed: int = Field(0, ge=0, description="Seed of Leiden and of the links' negatives")
    warm_start: bool = Field(
        True,
        description="Go on from the stored memberships of the last run, and publish nothing that collapsed against "
        "them; false clusters afresh and publishes whatever comes. Prototypes keep their ids either way",
    )
    max_prototype_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="A warm run with a larger share of all weight in one prototype is not published",
    )
    max_modularity_drop: float = Field(
        0.2, gt=0, le=1, description="A warm run whose soft modularity fell by a larger share is not published"
    )


@dg.asset(
    **{**COMMON, "op_tags": ON_A_LARGE_NODE},
    group_name="g2rec",
    kinds={*KINDS},
    code_version="2",
    metadata=definition_metadata("coengagement_graph"),
    ins=in_pieces("interactions", "items"),
)
def coengagement_graph(
    context: dg.AssetExecutionContext,
    config: GraphConfig,
    store: AssetStore,
    compute: ComputeResource,
    interactions: StoredTable,
    items: StoredTable,
) -> dg.MaterializeResult[Any]:
    """Items touched by the same users (G2Rec, Eq. 1-2): `w_ij = sum_u N_u (N_u - 1) / (2 m_u) * draws of (i, j)`.

    Of each user's pairs m are drawn as Theorem 2 asks for epsilon and delta; where m is not below all
    `N (N - 1) / 2` pairs, the exact clique is taken. Train interactions only, read in pieces: the log need not fit in
    memory.
    """
    from recsys_dagster.g2rec.graph_parts import LogGroups, graph_of_log

    watch = Stopwatch()
    plainly = CoengagementConfig(**config.model_dump())  # workers need not import Dagster for it
    groups = LogGroups(interactions, interactions.n_users(), len(items), plainly)
    with spread(compute, store, "coengagement_graph", context.partition_key) as work:
        parts, figures = graph_of_log(groups, config.seed, work.engine, work.output)
    metadata = {
        **figures.statistics(),
        "degrees": picture(degree_distribution, figures.neighbours, "Items that share users with an item"),
        "weights": picture(histogram, figures.weights, "Weight of an edge", "weight", log=True),
    }
    return materialized(work.joined(parts), metadata, watch, config)


def _output(table: str, description: str) -> dg.AssetOut:
    return dg.AssetOut(
        is_required=False,  # a collapsed clustering is not published
        group_name="g2rec",
        description=description,
        owners=OWNERS,
        kinds={"numba", *KINDS},
        code_version="3",
        metadata=definition_metadata(table),
    )


@dg.multi_asset(
    **{**MULTI, "op_tags": ON_A_LARGE_NODE},
    outs={
        "soft_memberships": _output(
            "soft_memberships",
            "How much of every item belongs to which prototype, at several resolutions (G2Rec, Eq. 3-4): the "
            "mean-field fixed point `p_i = softmax(field_i / T)`, `field_i = (A P)_i / k_i - gamma (P^T k) / |E|`, "
            "started from Leiden or from the stored memberships, cut to the rho largest entries of an item and level.",
        ),
        "prototypes": _output(
            "prototypes",
            "A row a prototype: size `s_c = sum over i of p_ic`, parent at the next coarser level, label, top items. "
            "Ids stay with their members from night to night (maximum overlap with the stored memberships); `drift` is "
            "the share of members that left.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "clustering_did_not_collapse",
            asset="soft_memberships",
            blocking=True,
            partitions_def=datasets,
            description="No giant prototype and no sharp fall of modularity against the stored clustering; else that "
            "one stays as it is, and nothing is published.",
        )
    ],
)
def interests(
    context: dg.AssetExecutionContext,
    config: MembershipsConfig,
    store: AssetStore,
    cugraph: CugraphResource,
    coengagement_graph: pd.DataFrame,
    interactions: pd.DataFrame,
    items: pd.DataFrame,
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Cluster the graph softly, name the prototypes, and keep last night's ids."""
    from recsys_dagster.g2rec.alignment import align
    from recsys_dagster.g2rec.links import validation_links
    from recsys_dagster.g2rec.night import collapse
    from recsys_dagster.g2rec.prototypes import prototype_overlap, prototype_table
    from recsys_dagster.g2rec.soft_modularity import soft_memberships

    watch = Stopwatch()
    last = last_night(store, context.partition_key, items)
    table, facts = soft_memberships(
        coengagement_graph,
        len(items),
        config,
        seed=config.seed,
        last=last if config.warm_start else None,
        validation_links=validation_links(interactions),
        elsewhere=elsewhere(context, store, cugraph, config, config.seed),
    )
    reasons: list[str] = []
    drift, next_id, previous = pd.DataFrame(), int(table["prototype_id"].max()) + 1, None
    if last is not None:
        alignment = align(last.memberships, table, next_id=last.next_id)
        table, next_id, drift, previous = alignment.memberships, alignment.next_id, alignment.drift, last.memberships
    if last is not None and config.warm_start and last.resolutions == config.resolutions:
        limits = {"max_share": config.max_prototype_share, "max_drop": config.max_modularity_drop}
        reasons = collapse(facts["levels"], last, **limits)
    level_facts = _level_facts(facts, drift)
    if last is not None:
        level_facts["drift"] = _night_drift(drift, last.memberships["item_id"].nunique() / len(items))
    yield _guard(reasons, level_facts)
    if reasons:
        return
    described = prototype_table(table, items, previous, gammas=facts["gammas"])
    memberships = conform(table, "soft_memberships")
    # Dense item ids change with the data and ids of dead prototypes are not given again, so the next night needs these.
    memberships.attrs = {
        "item_keys": items["source_key"].tolist(),
        "next_id": next_id,
        "resolutions": config.resolutions,
        **{name: facts[name] for name in ("gammas", "temperatures", "levels")},
    }
    metadata = {**level_facts, "rho": config.rho, "warm_start": last is not None and config.warm_start}
    metadata |= {"entries_per_item": len(memberships) / (len(items) * memberships["level"].nunique())}
    metadata |= {"membership_entropy": _entropy_picture(memberships)}
    metadata |= {"nights": _nights_picture(context, level_facts)}
    yield materialized(memberships, metadata, watch, config, asset="soft_memberships")
    sizes = picture(histogram, described["size"].to_numpy(), "Items of a prototype", "items", log=True)
    births = int((described["previous_id"] < 0).sum())
    about = {
        "prototypes": len(described),
        "births": births,
        "mean_drift": float(described["drift"].mean()),
        "overlap": prototype_overlap(table, described),
    }
    yield materialized(
        conform(described, "prototypes"), {**about, "prototype_sizes": sizes}, watch, config, asset="prototypes"
    )


def _night_drift(drift: pd.DataFrame, known: float) -> float:
    """Share of today's memberships that lie elsewhere than last night, new items included; the mean over levels.

    Args:
        drift: `moved_mass` of each level, among the items that were there last night.
        known: share of today's items that were.
    """
    return float((1 - known * (1 - drift["moved_mass"])).mean())


def _guard(reasons: list[str], facts: dict[str, Any]) -> dg.AssetCheckResult:
    text = "; ".join(reasons)
    if reasons:
        text = (
            f"Not published, the stored clustering stays: {text}. To mend: look at the new interactions; to publish "
            "this clustering all the same, run once with warm_start: false."
        )
    return dg.AssetCheckResult(
        check_name="clustering_did_not_collapse",
        asset_key="soft_memberships",
        passed=not reasons,
        description=text or "as sound as the stored clustering",
        metadata=plain(facts),
    )


def last_night(store: AssetStore, partition: str, items: pd.DataFrame) -> "LastNight | None":
    """What the stored memberships leave for tonight, in today's item ids; None where there are none yet.

    Items that are gone are left out; an item keeps its key in the source, whatever its number.
    """
    from recsys_dagster.g2rec.night import LastNight

    try:
        table = store.previous_table("soft_memberships", partition)
    except DamagedFileError as error:  # else no run could ever make them anew
        logger.warning("%s The items are clustered afresh, and prototypes get new ids: train the models again.", error)
        return None
    if table is None or "temperatures" not in table.attrs:
        return None
    left, table.attrs = table.attrs, {}
    today = pd.Series(items["item_id"].to_numpy(), index=items["source_key"])
    now = today.reindex(left["item_keys"]).fillna(-1).to_numpy(dtype=np.int32)
    moved = table.assign(item_id=now[table["item_id"].to_numpy()])
    moved = moved[moved["item_id"] >= 0].sort_values(["item_id", "level", "prototype_id"], ignore_index=True)
    if moved.empty:
        return None
    facts = {name: left[name] for name in ("resolutions", "gammas", "temperatures", "levels")}
    return LastNight(moved, int(left["next_id"]), **facts)


def _level_facts(facts: dict[str, Any], drift: pd.DataFrame) -> dict[str, Any]:
    """One number per metadata name, so that each plots over the nights."""
    lists = ("levels", "gammas", "temperatures")  # each level tells its own
    flat = {name: value for name, value in facts.items() if name not in lists}
    for number, level in enumerate(facts["levels"]):
        flat |= {f"level_{number}_{name}": value for name, value in level.items() if name != "level"}
    for row in drift.to_dict("records"):
        flat |= {f"level_{int(row['level'])}_{name}": row[name] for name in ("ari", "moved_mass", "births", "deaths")}
    return flat


def _nights_picture(context: dg.AssetExecutionContext, facts: dict[str, Any]) -> dg.MarkdownMetadataValue:
    """Soft modularity of each level and AUC over the last materializations, tonight's last."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("soft_memberships"), asset_partitions=[context.partition_key])
    records = context.instance.fetch_materializations(wanted, limit=NIGHTS_SHOWN).records
    nights = [facts]
    for record in records:
        if record.asset_materialization is not None:
            stored = record.asset_materialization.metadata
            nights.append({name: value.value for name, value in stored.items()})
    names = [name for name in facts if name.endswith("_q_soft") or name in ("auc_hard", "auc_soft")]
    lines = {name: [night.get(name) for night in reversed(nights)] for name in names}
    return picture(over_nights, lines, "Soft modularity and AUC on held-out links, night by night")


def _entropy_picture(memberships: pd.DataFrame) -> dg.MarkdownMetadataValue:
    share = memberships["probability"].to_numpy(dtype=np.float64)
    terms = pd.Series(-share * np.log(np.maximum(share, 1e-12)))
    entropy = terms.groupby([memberships["level"].to_numpy(), memberships["item_id"].to_numpy()]).sum()
    return picture(histogram, entropy.to_numpy(), "Entropy of an item's memberships at a level", "nats", log=True)


@dg.asset(
    **COMMON, group_name="g2rec", kinds={"numpy", "safetensors"}, code_version="2", io_manager_key="safetensors_io"
)
def item_embeddings(
    context: dg.AssetExecutionContext, sasrec_model: Path, items: pd.DataFrame
) -> dg.MaterializeResult[Any]:
    """Item embeddings X (N x d) of the trained SASRec: what the prototypes' tokens are made of (G2Rec, Eq. 6).

    Rows are today's items, found by their keys in the source. An item that came after the training has the mean vector
    until SASRec is trained again.
    """
    from recsys_dagster.baselines.sasrec import item_embeddings as embeddings_of
    from recsys_dagster.data.item_keys import read_item_keys, rows_of

    watch = Stopwatch()
    embeddings, kept = embeddings_of(sasrec_model), read_item_keys(sasrec_model)
    keys = items["source_key"].tolist()
    if kept is None and len(embeddings) != len(keys):
        raise RecsysError(
            f"sasrec_model of {context.partition_key} has {len(embeddings)} items and no keys of them, there are "
            f"{len(keys)} now.",
            mend=f"train it again: run the job train for {context.partition_key}.",
        )
    embeddings, known = rows_of(keys, embeddings, keys if kept is None else kept)
    norms = np.linalg.norm(embeddings, axis=1)
    metadata = {"items": len(embeddings), "dimension": embeddings.shape[1], "mean_norm": float(norms.mean())}
    metadata |= {"untrained_items": int((~known).sum())}
    metadata["norms"] = picture(histogram, norms, "Length of an item's vector", "L2 norm")
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
    coarse = soft_memberships.loc[soft_memberships["level"] == soft_memberships["level"].min(), "prototype_id"].unique()
    vectors = tokens["prototype_embeddings"][np.isin(tokens["prototype_ids"], coarse)]
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    metadata = {
        "prototypes": prototypes,
        "dimension": dimension,
        "likeness": picture(square, np.maximum(vectors @ vectors.T, 0), "Coarse prototypes", "cosine", "prototype"),
    }
    return materialized(tokens, metadata, watch)
