"""LightGCN: vectors of users and items, smoothed over the graph of who has what.

He et al., "LightGCN: simplifying and powering graph convolution network for recommendation", 2020.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional
from torch_geometric.nn import LGConv

from recsys_dagster.baselines.config import LightGCNConfig
from recsys_dagster.data.histories import Histories
from recsys_dagster.layers.sparse import sparse_product
from recsys_dagster.training.batching import PairBatch, PairBatches, SequenceBatch
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import pairwise_loss
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class SymmetricLGConv(LGConv):
    """torch_geometric's light graph convolution over a normalised adjacency that is known to be symmetric."""

    def __init__(self) -> None:
        super().__init__(normalize=False)  # once, by `normalised_adjacency`, and not in every layer of every step

    def message_and_aggregate(self, adj_t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """float [nodes, d]: each node's weighted sum over its neighbours (Eq. 3)."""
        return sparse_product(adj_t, adj_t, x)


class LightGCN(SequentialModel):
    """The mean of a node's initial vector and what 1, 2, ... steps over the graph make of it (Eq. 3 and 4).

    Nodes are users 0..U-1, then items. The learned state holds the final vectors beside the initial ones: a stored
    model then scores by one product, without the train split and the graph, and scores the same whatever version of
    torch_geometric reads it.

    Attributes:
        initial: float [U + N, d]; what is learned.
        final: float [U + N, d]; the vectors that scores are made of, as of the last time the model left training.
        graph: sparse float [U + N, U + N]; the normalised adjacency. None in a model that only scores.
    """

    def __init__(self, config: LightGCNConfig, *, n_users: int, n_items: int) -> None:
        super().__init__(n_items, max_length=1)  # scores ask for the user's id alone
        self.config, self.n_users = config, n_users
        self.initial = nn.Embedding(n_users + n_items, config.dimension)
        self.convolution = SymmetricLGConv()
        nn.init.normal_(self.initial.weight, std=0.1)
        self.register_buffer("final", torch.zeros(n_users + n_items, config.dimension))
        self.register_buffer("graph", None, persistent=False)
        self.final: torch.Tensor
        self.graph: torch.Tensor | None

    def connect(self, train: Histories) -> None:
        """Take the graph of the train split: what training needs and scoring does not."""
        self.graph = normalised_adjacency(train)

    def vectors(self) -> torch.Tensor:
        """Final vectors float [U + N, d] from the initial ones."""
        assert self.graph is not None, "connect() comes before training"
        x = total = self.initial.weight
        with torch.autocast(x.device.type, enabled=False):  # sparse products know fp32 alone
            for _ in range(self.config.layers):
                x = self.convolution(x, self.graph)
                total = total + x
        return total / (self.config.layers + 1)

    def train(self, mode: bool = True) -> LightGCN:
        """Change mode; the final vectors are brought up to date where training ends."""
        if self.training and not mode and self.graph is not None:
            with torch.no_grad():
                self.final.copy_(self.vectors())
        super().train(mode)
        return self

    def learned_state(self) -> dict[str, torch.Tensor]:
        """The learned tensors, with final vectors that belong to the initial ones."""
        self.eval()
        return super().learned_state()

    def batches(self, data: SequenceData, config: TrainingConfig) -> PairBatches:
        """Every train interaction beside an item that its user does not have."""
        return PairBatches(data.train, config.batch_size)

    def loss(self, batch: PairBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The BPR loss of the final vectors, and the squared length of a pair's initial vectors (Eq. 15)."""
        nodes = torch.stack([batch.users, self.n_users + batch.items, self.n_users + batch.negatives])
        user, item, other = functional.embedding(nodes, self.vectors())  # each [pairs, d]
        return pairwise_loss((user * item).sum(1), (user * other).sum(1), self.initial(nodes), self.config.l2), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Inner products of the users' final vectors with those of all items (Eq. 5)."""
        return self.final[batch.users] @ self.final[self.n_users :].T


def normalised_adjacency(train: Histories) -> torch.Tensor:
    """The matrix D^-1/2 A D^-1/2 of the graph of users and the distinct items that they have (Eq. 8).

    Returns:
        Sparse CSR float [U + N, U + N].
    """
    pairs = np.unique(train.users.astype(np.int64) * train.n_items + train.items)
    users, items = pairs // train.n_items, pairs % train.n_items
    has = sparse.csr_array((np.ones(len(pairs)), (users, items)), (train.n_users, train.n_items))
    adjacency = sparse.block_array([[None, has], [has.T, None]]).tocsr()
    # a node without neighbours has an empty row and column, whatever its factor is
    factor = 1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
    values = adjacency.data * np.repeat(factor, np.diff(adjacency.indptr)) * factor[adjacency.indices]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(adjacency.indptr),
            torch.from_numpy(adjacency.indices),
            torch.from_numpy(values.astype(np.float32)),
            adjacency.shape,
            check_invariants=True,
        )


@data_parallel
def train_lightgcn(
    data: SequenceData, config: LightGCNConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train LightGCN, write its model directory to `output` and return figures for people."""

    def connected(config: LightGCNConfig, *, n_users: int, n_items: int) -> LightGCN:
        model = LightGCN(config, n_users=n_users, n_items=n_items)
        model.connect(data.train)
        return model

    shape = {"n_users": data.n_users, "n_items": data.n_items}
    return train_and_save("lightgcn", connected, shape, data, config, runtime, output, checkpoint)
