"""Asset checks: what must be true of every table before anything is built on it.

Each check is a plain function from tables to a list of faults (in `assets.faults`) behind a thin Dagster check. All are
blocking, but for the recovery of planted interests, which is a measure of quality.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from assets import faults
from assets.common import on_ray, plain, train_histories
from assets.partitions import datasets
from recsys_dagster.data.registry import get_dataset

PLANTED_FLOOR = 0.5
"""Least adjusted mutual information of prototypes and planted interests that passes without a warning."""


FALLBACK_CEILING = 0.05
"""Largest share of users whom the local clusterer may have answered in place of a language model."""

REPAIRED_CEILING = 0.10
"""Largest share of items that a language model may have left out, invented or repeated within a cluster."""


def verdict(found: list[str], **metadata: Any) -> dg.AssetCheckResult:
    """Pass if no fault was found; else tell the first one and how many there are."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    text = f"{found[0]}{more}" if found else "no fault found"
    return dg.AssetCheckResult(passed=not found, description=text, metadata=plain({"faults": len(found), **metadata}))


def _check(asset: str, description: str, *inputs: str, blocking: bool = True) -> Callable[..., Any]:
    return dg.asset_check(
        asset=asset,
        description=description,
        blocking=blocking,
        additional_ins={name: dg.AssetIn(name) for name in inputs},
        partitions_def=datasets,
        op_tags=on_ray(),
    )


def stored_metadata(context: dg.AssetCheckExecutionContext, asset: str) -> Mapping[str, Any]:
    """Metadata values of the last materialization of this partition of `asset`."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[context.partition_key])
    records = context.instance.fetch_materializations(wanted, limit=1).records
    materialization = records[0].asset_materialization if records else None
    return {} if materialization is None else {name: value.value for name, value in materialization.metadata.items()}


# A blocking check holds back all that reads its asset, other checks too. So of the tables that are made together only
# the later ones may be compared with the earlier: a check on `interactions` that read `items` would wait for itself.
@_check("interactions", "Every user and item has at least k interactions, ids are dense, splits follow time.")
def k_core_holds(context: dg.AssetCheckExecutionContext, interactions: pd.DataFrame) -> dg.AssetCheckResult:
    """The k-core filter ran to its fixed point, and the split is in time order."""
    spec = get_dataset(context.partition_key)
    found = faults.k_core(interactions, spec.k_core_users, spec.k_core_items) + faults.split_order(interactions)
    return verdict(found, k_users=spec.k_core_users, k_items=spec.k_core_items)


@_check("users", "One row per user of the interactions, with distinct source keys.", "interactions")
def users_match_interactions(users: pd.DataFrame, interactions: pd.DataFrame) -> dg.AssetCheckResult:
    """The users table and the interactions name the same ids."""
    return verdict(faults.table_of_ids(users, "users", "user_id", interactions))


@_check(
    "items",
    "One row per item, with distinct source keys; popularity counts the train split only.",
    "interactions",
    "users",
)
def popularity_from_train(items: pd.DataFrame, interactions: pd.DataFrame, users: pd.DataFrame) -> dg.AssetCheckResult:
    """No leakage: `train_popularity` is the count over the train split."""
    found = faults.table_of_ids(items, "items", "item_id", interactions)
    if not found:
        history = train_histories(interactions, users, items)
        found = faults.popularity(items["train_popularity"].to_numpy(), history, "items.train_popularity")
    return verdict(found)


@_check(
    "popularity_model",
    "The counts of the popularity model come from the train split.",
    "interactions",
    "users",
    "items",
)
def popularity_model_from_train(
    popularity_model: Path, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """No leakage: the stored counts are those of the train split."""
    from safetensors.numpy import load_file

    counts = load_file(popularity_model / "model.safetensors")["counts"]
    return verdict(faults.popularity(counts, train_histories(interactions, users, items), "popularity_model"))


@_check("negatives", "Negatives are distinct items that the user never touched in any split.", "interactions", "items")
def negatives_are_negative(
    negatives: pd.DataFrame, interactions: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """The sampled ranking meets no positive by accident."""
    return verdict(faults.negatives(negatives, interactions, len(items)))


@_check("user_clusters", "Every clustered item is a train item of its user, and every train item is clustered.",
        "interactions", "users", "items")  # fmt: skip
def clusters_from_train(
    user_clusters: pd.DataFrame, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """Every clustered item belongs to its user, in the train split."""
    return verdict(faults.clusters(user_clusters, train_histories(interactions, users, items)))


def _trusted(context: dg.AssetCheckExecutionContext, asset: str) -> dg.AssetCheckResult:
    stored = stored_metadata(context, asset)
    shares = {name: float(stored.get(name, 0.0)) for name in ("fallback_share", "repaired_share")}
    ceilings = {"fallback_ceiling": FALLBACK_CEILING, "repaired_ceiling": REPAIRED_CEILING}
    return verdict(faults.answers(asset, **shares, **ceilings), **shares, **ceilings)


_TRUSTED = "Few users were answered by the local clusterer for want of a usable answer; few items had to be repaired."


@_check("user_clusters", _TRUSTED)
def user_answers_can_be_trusted(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The language model's answers are mostly its own."""
    return _trusted(context, "user_clusters")


@_check("representative_clusters", _TRUSTED)
def representative_answers_can_be_trusted(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The same for the synthesized users."""
    return _trusted(context, "representative_clusters")


@_check("user_cliques", "The items of a clique are the train items of its members.", "interactions", "users", "items")
def cliques_from_train(
    user_cliques: pd.DataFrame, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """No leakage into the synthesized users."""
    return verdict(faults.cliques(user_cliques, train_histories(interactions, users, items)))


@_check("representative_users", "At most Z distinct cliques are selected, with the cover they claim.", "user_cliques")
def selection_within_budget(
    context: dg.AssetCheckExecutionContext, representative_users: pd.DataFrame, user_cliques: pd.DataFrame
) -> dg.AssetCheckResult:
    """The selection stays within the budget Z."""
    budget = stored_metadata(context, "representative_users").get("budget")
    return verdict(faults.selection(representative_users, user_cliques, budget), budget=budget)


@_check(
    "representative_clusters",
    "Every clustered item belongs to its synthesized user, and all of these are selected.",
    "representative_users",
    "user_cliques",
)
def representative_items_belong(
    representative_clusters: pd.DataFrame, representative_users: pd.DataFrame, user_cliques: pd.DataFrame
) -> dg.AssetCheckResult:
    """The interests of B hold the items of B."""
    return verdict(faults.representative_clusters(representative_clusters, representative_users, user_cliques))


@_check("coengagement_graph", "No self-loop, no duplicate, no NaN; both ends are in the items table.", "items")
def graph_is_sound(coengagement_graph: pd.DataFrame, items: pd.DataFrame) -> dg.AssetCheckResult:
    """The graph is a graph on the items."""
    return verdict(faults.graph(coengagement_graph, len(items)), edges=len(coengagement_graph))


@_check(
    "coengagement_graph",
    "Every edge has a user with both items in the train split, and the weights sum to no more than that split gives.",
    "interactions",
    "users",
    "items",
)
def graph_from_train(
    coengagement_graph: pd.DataFrame, interactions: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """No leakage: no edge comes from a validation or test interaction."""
    return verdict(faults.graph_leaks(coengagement_graph, train_histories(interactions, users, items)))


@_check(
    "soft_memberships", "Memberships of an item and level sum to 1 with at most rho entries, for every item.", "items"
)
def memberships_are_sound(
    context: dg.AssetCheckExecutionContext, soft_memberships: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """Memberships are sparse distributions."""
    rho = stored_metadata(context, "soft_memberships").get("rho")
    return verdict(faults.memberships(soft_memberships, len(items), rho), rho=rho)


@_check("prototypes", "Prototypes and memberships name the same ids, and every parent exists.", "soft_memberships")
def prototypes_match_memberships(prototypes: pd.DataFrame, soft_memberships: pd.DataFrame) -> dg.AssetCheckResult:
    """The two tables of one clustering agree."""
    return verdict(faults.prototypes(prototypes, soft_memberships))


@_check("metrics", "Every trained model ranks better than popularity.")
def models_beat_popularity(metrics: pd.DataFrame) -> dg.AssetCheckResult:
    """A trained model that does not beat popularity has learned nothing."""
    from recsys_dagster.evaluation.protocol import deciding_k

    found, margins = faults.beaten_by_popularity(metrics, deciding_k(str(metrics["protocol"].iloc[0])))
    return verdict(found, **margins)


@_check(
    "soft_memberships",
    "On data with planted interests, the prototypes find them again.",
    "raw_items",
    "items",
    blocking=False,
)
def planted_interests_recovered(
    soft_memberships: pd.DataFrame, raw_items: pd.DataFrame, items: pd.DataFrame
) -> dg.AssetCheckResult:
    """Adjusted mutual information of strongest prototype and planted interest, at the level nearest in number."""
    planted = raw_items.set_index("item")["planted_interest"].reindex(items["source_key"]).to_numpy()
    if (planted < 0).all():
        return dg.AssetCheckResult(passed=True, description="This dataset has no planted interests.")
    level, score = faults.planted_recovery(soft_memberships, planted)
    return dg.AssetCheckResult(
        passed=score >= PLANTED_FLOOR,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"adjusted mutual information {score:.3f} at level {level}",
        metadata={"adjusted_mutual_information": score, "level": level},
    )
