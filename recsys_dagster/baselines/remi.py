"""REMI: ComiRec-SA trained with hard negatives, and with attention that is not allowed to fall on single items.

Xie et al., "Rethinking multi-interest learning for candidate matching in recommender systems", 2023.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from recsys_dagster.baselines.comirec import ComiRecSA
from recsys_dagster.baselines.config import REMIConfig
from recsys_dagster.layers.interests import Interests
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import batch_mean
from recsys_dagster.training.hard_negatives import hard_negative_cross_entropy
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class REMI(ComiRecSA):
    """Interests as ComiRec-SA's; interest-aware hard negatives (IHN) and routing regularisation (RR)."""

    def __init__(self, config: REMIConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(config, n_items=n_items, max_length=max_length)
        self.routing_weight = config.routing_weight
        # IHN: negatives as likely as the target's interest scores them (its Section 4.1)
        self.cross_entropy = partial(hard_negative_cross_entropy, hardness=config.hardness)

    def regularisation(self, found: Interests, batch: SequenceBatch) -> tuple[torch.Tensor | None, dict[str, float]]:
        """RR: the squared variances of the interests' weights (its Section 4.2, ``||diag(Cov(A, A))||_F^2``).

        The mean over the examples of a batch, where the authors' code sums: so its weight does not depend on the size
        of a batch.
        """
        mask = batch.mask
        variances = routing_variance(found.weights[mask], mask.cumsum(1)[mask])
        loss = self.routing_weight * batch_mean(variances.square().sum(1))
        return loss, {"routing_loss": loss.item()}


def routing_variance(weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Variance of each interest's weights over the items of a history: float [examples, K].

    Args:
        weights: float [examples, K, length], summing to 1 over the items, 0 at padding.
        counts: int64 [examples], items of each history.
    """
    n = counts[:, None].to(weights)
    return (weights.square().sum(-1) - 1 / n) / n


@data_parallel
def train_remi(
    data: SequenceData, config: REMIConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train REMI, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("remi", REMI, shape, data, config, runtime, output, checkpoint)
