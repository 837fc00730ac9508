"""A dataset as the models see it, and the figures of any scorer on it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.common import prepared
from recsys_dagster.data.prepare import Prepared, sample_negatives
from recsys_dagster.data.registry import get_dataset
from recsys_dagster.evaluation.protocol import FULL, SAMPLED, deciding_k, evaluate
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.ranking import Scorer


def load(dataset: str) -> tuple[SequenceData, Prepared]:
    """The splits as the project's models see them, and the tables that they were cut from."""
    tables, length = prepared(dataset), get_dataset(dataset).max_length
    data = SequenceData.from_tables(
        tables.interactions, n_users=len(tables.users), n_items=len(tables.items), max_length=length
    )
    return data, tables


def figures(metrics: pd.DataFrame, k: int) -> dict[str, float]:
    """Some metrics as full_HR@10, sampled_99_NDCG@10 and so on.

    HR and NDCG at k in the full catalogue; among the stored negatives the six columns of the paper's Table 2.
    """
    wanted = {
        FULL: (f"HR@{k}", f"NDCG@{k}"),
        SAMPLED: ("Recall@1", "Recall@5", "Recall@10", "NDCG@5", "NDCG@10", "MRR"),
    }
    names = metrics["metric"] + np.where(metrics["k"] > 0, "@" + metrics["k"].astype(str), "")
    table = metrics.assign(name=names).set_index(["candidates", "name"])["value"]
    return {
        f"{candidates}_{name}": round(float(table.loc[(candidates, name)]), 4)
        for candidates, columns in wanted.items()
        for name in columns
    }


def ranked(
    scorer: Scorer, data: SequenceData, interactions: pd.DataFrame, dataset: str, model: str
) -> dict[str, float]:
    """The `figures` of any scorer, on the stored negatives of the project's default settings."""
    negatives = sample_negatives(interactions, data.n_users, data.n_items)
    protocol = get_dataset(dataset).protocol
    metrics = evaluate(scorer, data, negatives, dataset=dataset, model=model, protocol=protocol, seed=0)
    return figures(metrics, deciding_k(protocol))
