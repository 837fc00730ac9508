"""LARMI's training: a model that knows its clusters and the crowd's interests, through the shared loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.contrastive import synthesized_users
from recsys_dagster.larmi.memberships import cluster_table, interest_features, label_features
from recsys_dagster.larmi.model import LARMI
from recsys_dagster.layers.features import FeatureVectors
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


def assembly(
    data: SequenceData,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
    config: LARMIConfig,
) -> tuple[Callable[..., LARMI], dict[str, int]]:
    """What builds a LARMI that is ready to learn, called as ``build(config, **shape)``; and that shape.

    The arguments are those of `train_larmi`.
    """
    keys, values = cluster_table(user_clusters, data.n_items)
    synthesized = synthesized_users(representative_clusters)
    labels = label_features(user_clusters, data.n_items) if config.semantic and config.labels else None
    crowd = interest_features(representative_clusters, data.n_items) if config.crowd and synthesized else None
    shape = {"n_items": data.n_items, "max_length": data.max_length, "memberships": len(keys)}
    shape |= FeatureVectors.shape(labels)
    if crowd is not None:
        shape |= {"crowd_interests": crowd.n_features, "crowd_entries": len(crowd.features)}

    def build(config: LARMIConfig, **sizes: int) -> LARMI:
        model = LARMI(config, **sizes)
        model.cluster_keys.copy_(keys)
        model.cluster_values.copy_(values)
        model.synthesized = synthesized
        for shared, filling in ((model.labels, labels), (model.crowd, crowd)):
            if shared is not None and filling is not None:
                shared.fill(filling)
        return model

    return build, shape


@data_parallel
def train_larmi(
    data: SequenceData,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
    config: LARMIConfig,
    runtime: Runtime,
    output: Path,
    checkpoint: Path | None = None,
) -> dict[str, float | int | str]:
    """Train LARMI, write its model directory to `output` and return figures for people.

    Args:
        data: the splits.
        user_clusters: Eq. 1 for every user.
        representative_clusters: Eq. 9 for the selected synthesized users.
        config: settings.
        runtime: device, precision, seed.
        output: directory to write.
        checkpoint: directory for the state of an unfinished run.
    """
    build, shape = assembly(data, user_clusters, representative_clusters, config)
    facts = train_and_save("larmi", build, shape, data, config, runtime, output, checkpoint)
    return facts | {"synthesized_users": representative_clusters["user_id"].nunique()}
