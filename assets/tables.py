"""Columns of every stored table: the one place for names, types and descriptions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg

from assets.column_sources import COLUMN_SOURCES, column_lineage

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, tuple[str, str]]

_CLUSTERS: dict[str, tuple[str, str]] = {
    "user_id": ("int32", "User, or synthesized user, whose train items are grouped"),
    "cluster": ("int16", "Number of the interest within the user, from 0"),
    "label": ("string", "Name of the interest"),
    "item_id": ("int32", "An item of the interest; it may stand in several"),
    "source": ("string", "Who answered: local, openai, or fallback after a failed answer"),
}

_TRIALS: dict[str, tuple[str, str]] = {
    "trial": ("string", "Key of the trial"),
    "interests": ("int32", "K"),
    "learning_rate": ("float64", "Adam's step size"),
    "weight_decay": ("float64", "Decoupled weight decay"),
    "validation_recall": ("float64", "Recall@20 on the validation split, mean over seeds"),
    "best_epoch": ("float64", "Epoch that it was reached in, mean over seeds"),
    "epochs": ("float64", "Epochs trained, mean over seeds"),
    "seconds": ("float64", "Seconds of training, mean over seeds"),
    "seeds": ("int32", "Models trained"),
    "learned_from": ("string", "Fingerprint of the interactions and clusters that it was trained on"),
}

TABLES: dict[str, Columns] = {
    "raw_interactions": {
        "user": ("string", "User key of the source"),
        "item": ("string", "Item key of the source"),
        "timestamp": ("int64", "Seconds since 1970, or the order in the source where it has no clock"),
    },
    "raw_items": {
        "item": ("string", "Item key of the source"),
        "title": ("string", "Title; empty where the source has none"),
        "categories": ("string", "Categories, separated by commas"),
        "text": ("string", "What a clusterer reads: title and categories, or attribute words"),
        "planted_interest": ("int32", "Interest that the sample generator planted; -1 for real data"),
        "planted_second_interest": ("int32", "A second planted interest; -1 for none"),
    },
    "interactions": {
        "user_id": ("int32", "User, dense from 0"),
        "item_id": ("int32", "Item, dense from 0"),
        "timestamp": ("int64", "Time of the source"),
        "position": ("int32", "Place in the user's history, from 0"),
        "split": ("int8", "0 train, 1 validation, 2 test"),
    },
    "users": {"user_id": ("int32", "User, dense from 0"), "source_key": ("string", "User key of the source")},
    "items": {
        "item_id": ("int32", "Item, dense from 0"),
        "source_key": ("string", "Item key of the source"),
        "title": ("string", "Title; empty where the source has none"),
        "categories": ("string", "Categories, separated by commas"),
        "text": ("string", "What a clusterer reads"),
        "train_popularity": ("int64", "Interactions in the train split"),
    },
    "negatives": {
        "user_id": ("int32", "User"),
        "item_ids": ("list<int32>", "Distinct uniform items that the user never touched in any split"),
    },
    "user_clusters": _CLUSTERS,
    "user_cliques": {
        "clique_id": ("int32", "Synthesized user, numbered like the user it grew from"),
        "members": ("list<int32>", "That user and its nearest ones, N(u)"),
        "items": ("list<int32>", "Distinct train items of the members, sorted"),
    },
    "representative_users": {
        "rank": ("int32", "Order of selection, from 0"),
        "clique_id": ("int32", "The selected synthesized user"),
        "marginal_value": ("float64", "Weight it adds to the cover"),
        "covered_value": ("float64", "Weight covered so far"),
    },
    "representative_clusters": _CLUSTERS,
    "larmi_trials": _TRIALS,
    "larmi_search_table": _TRIALS,
    "coengagement_graph": {
        "source": ("int32", "Smaller item of the pair"),
        "target": ("int32", "Larger item of the pair"),
        "weight": ("float32", "Co-engagement (Eq. 2)"),
    },
    "soft_memberships": {
        "item_id": ("int32", "Item"),
        "level": ("int8", "Resolution, 0 the coarsest"),
        "prototype_id": ("int32", "Prototype, with the same id from night to night"),
        "probability": ("float32", "Share of the item that belongs to it; sums to 1 per item and level"),
    },
    "prototypes": {
        "prototype_id": ("int32", "Prototype, unique over levels"),
        "level": ("int8", "Resolution, 0 the coarsest"),
        "gamma": ("float32", "Resolution parameter"),
        "parent": ("int32", "Prototype of the next coarser level that holds most of it; -1 at the coarsest"),
        "size": ("float32", "Sum of probabilities"),
        "n_items": ("int32", "Items whose largest probability it has"),
        "label": ("string", "Words that set its items apart"),
        "top_items": ("list<int32>", "Items with the largest probability times popularity"),
        "previous_id": ("int32", "Its id last night; -1 if new"),
        "drift": ("float32", "Share of last night's members that left"),
    },
    "metrics": {
        "dataset": ("string", "Dataset"),
        "model": ("string", "Model"),
        "protocol": ("string", "leave_one_out or chronological_622"),
        "candidates": ("string", "full catalogue, or sampled_99"),
        "metric": ("string", "Recall, HR, NDCG or MRR"),
        "k": ("int32", "Cut-off; 0 where the metric has none"),
        "seed": ("int32", "Seed of the training"),
        "value": ("float64", "Mean over users"),
        "n_users": ("int32", "Users with at least one target"),
    },
    "user_metrics": {
        "dataset": ("string", "Dataset"),
        "model": ("string", "Model"),
        "protocol": ("string", "leave_one_out or chronological_622"),
        "candidates": ("string", "full catalogue, or sampled_99"),
        "metric": ("string", "The deciding metric"),
        "k": ("int32", "Its cut-off"),
        "seed": ("int32", "Seed of the training"),
        "user_id": ("int32", "User"),
        "value": ("float64", "The metric of this user"),
    },
    "recommendations": {
        "user_id": ("int32", "User"),
        "rank": ("int32", "Place in the list, from 1"),
        "item_id": ("int32", "Recommended item"),
        "score": ("float32", "Score of the model"),
        "model": ("string", "Model"),
    },
}


def column_schema(table: str) -> dg.TableSchema:
    """The columns of `table` as Dagster shows them."""
    columns = TABLES[table].items()
    return dg.TableSchema([dg.TableColumn(name, kind, description=text) for name, (kind, text) in columns])


def definition_metadata(table: str) -> dict[str, object]:
    """Metadata that stands on the definition of the asset `table`."""
    metadata: dict[str, object] = {"dagster/column_schema": column_schema(table)}
    if table in COLUMN_SOURCES:
        metadata["dagster/column_lineage"] = column_lineage(table)
    return metadata


def conform(frame: "pd.DataFrame", table: str) -> "pd.DataFrame":
    """Put the columns of `frame` into the order and types of `table`.

    Raises:
        TypeError: a column is missing or unknown, or a value does not fit its type (a fault of the method).
    """
    import pandas as pd

    columns = TABLES[table]
    if set(frame.columns) != set(columns):
        raise TypeError(f"{table}: expected the columns {sorted(columns)}, found {sorted(map(str, frame.columns))}")
    return pd.DataFrame({name: _cast(frame[name], kind, f"{table}.{name}") for name, (kind, _) in columns.items()})


def _cast(column: "pd.Series", kind: str, where: str) -> "pd.Series":
    import numpy as np
    import pandas as pd

    if kind == "list<int32>":
        return pd.Series([np.asarray(values, dtype=np.int32) for values in column], index=column.index, dtype=object)
    if kind == "string":
        return column.astype("str")
    wanted = np.dtype(kind)
    if column.dtype == wanted:
        return column
    cast = column.astype(wanted)
    if wanted.kind == "i" and not (cast.to_numpy() == column.to_numpy()).all():
        raise TypeError(f"{where}: a value does not fit {kind}")
    return cast
