"""From which columns of which tables every stored column is made: the column lineage that Dagster keeps."""

from collections.abc import Mapping

import dagster as dg

_EDGES = ("coengagement_graph.source", "coengagement_graph.target", "coengagement_graph.weight")
_SPLITS = ("interactions.user_id", "interactions.item_id", "interactions.split")
_CLUSTERS = ("user_clusters.cluster", "user_clusters.item_id")
_CROWD = ("representative_clusters.cluster", "representative_clusters.item_id")
_TRIAL = (
    "trial", "interests", "learning_rate", "weight_decay",
    "validation_recall", "best_epoch", "epochs", "seconds", "seeds", "learned_from",
)  # fmt: skip
_RANKED = {"value": (*_SPLITS, "negatives.item_ids"), "n_users": ("interactions.user_id", "interactions.split")}

COLUMN_SOURCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "interactions": {
        "user_id": ("raw_interactions.user",),
        "item_id": ("raw_interactions.item",),
        "timestamp": ("raw_interactions.timestamp",),
        "position": ("raw_interactions.user", "raw_interactions.timestamp"),
        "split": ("raw_interactions.user", "raw_interactions.timestamp"),
    },
    "users": {"user_id": ("raw_interactions.user",), "source_key": ("raw_interactions.user",)},
    "items": {
        "item_id": ("raw_interactions.item",),
        "source_key": ("raw_interactions.item",),
        **{name: (f"raw_items.{name}",) for name in ("title", "categories", "text")},
        "train_popularity": ("raw_interactions.item", "raw_interactions.timestamp"),
    },
    "negatives": {"user_id": ("users.user_id",), "item_ids": ("items.item_id", "interactions.item_id")},
    "user_clusters": {
        "user_id": ("interactions.user_id",),
        "cluster": ("items.text",),
        "label": ("items.text",),
        "item_id": ("interactions.item_id",),
    },
    "user_cliques": {
        "clique_id": ("interactions.user_id",),
        "members": ("interactions.user_id", "interactions.item_id"),
        "items": ("interactions.item_id",),
    },
    "representative_users": {
        "rank": ("user_cliques.items", "interactions.item_id"),
        "clique_id": ("user_cliques.clique_id",),
        "marginal_value": ("user_cliques.items", "interactions.item_id"),
        "covered_value": ("user_cliques.items", "interactions.item_id"),
    },
    "representative_clusters": {
        "user_id": ("representative_users.clique_id",),
        "cluster": ("items.text",),
        "label": ("items.text",),
        "item_id": ("user_cliques.items",),
    },
    "larmi_trials": dict.fromkeys(("validation_recall", "best_epoch", "learned_from"), (*_SPLITS, *_CLUSTERS, *_CROWD)),
    "larmi_search_table": {name: (f"larmi_trials.{name}",) for name in _TRIAL},
    "coengagement_graph": {
        "source": ("interactions.item_id",),
        "target": ("interactions.item_id",),
        "weight": ("interactions.user_id", "interactions.item_id"),
    },
    "soft_memberships": {"item_id": ("items.item_id",), "prototype_id": _EDGES, "probability": _EDGES},
    "prototypes": {
        **dict.fromkeys(("prototype_id", "parent", "size", "n_items", "previous_id", "drift"), _EDGES),
        "label": ("items.title", "items.categories", "items.text"),
        "top_items": ("items.item_id", "items.train_popularity"),
    },
    "metrics": _RANKED,
    "user_metrics": {"user_id": ("interactions.user_id",), "value": _RANKED["value"]},
    "recommendations": {"user_id": ("users.user_id",), "item_id": ("items.item_id", "interactions.item_id")},
}
"""``{table: {column: ("table.column", ...)}}``. A column that is configured and not made of others is absent, as
are raw tables; what a trained model adds to a column comes from no column."""


def column_lineage(table: str) -> dg.TableColumnLineage:
    """The sources of each column of `table` as Dagster keeps them."""
    parts = {column: [each.split(".") for each in sources] for column, sources in COLUMN_SOURCES[table].items()}
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=name) for asset, name in sources]
            for column, sources in parts.items()
        }
    )
