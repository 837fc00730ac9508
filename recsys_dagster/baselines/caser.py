"""Caser: the last L items as an image of L rows and d columns, read by convolutions.

Tang and Wang, "Personalized top-N sequential recommendation via convolutional sequence embedding", 2018. Full
cross-entropy takes the place of sampled negatives, and every position of a history is an example.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from recsys_dagster.baselines.config import CaserConfig
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy, with_item_bias
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class Caser(SequentialModel):
    """Horizontal and vertical convolutions over a window of L items, joined with the user's vector.

    The output layer has item vectors (twice as wide) and biases of its own (Eq. 10).
    """

    def __init__(self, config: CaserConfig, *, n_users: int, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        self.config = config
        d, window = config.dimension, config.window
        self.items, self.users = nn.Embedding(n_items, d), nn.Embedding(n_users, d)
        self.padding = nn.Parameter(torch.zeros(d))  # stands where a history has no item yet
        # horizontal filters of each height h = 1..L; the items of a window are time, their d numbers are channels
        self.horizontal = nn.ModuleList(
            nn.Conv1d(d, config.horizontal_filters, height) for height in range(1, window + 1)
        )
        self.vertical = nn.Linear(window, config.vertical_filters, bias=False)
        features = window * config.horizontal_filters + d * config.vertical_filters
        self.joint = nn.Linear(features, d)
        self.dropout = nn.Dropout(config.dropout)
        self.output, self.bias = nn.Embedding(n_items, 2 * d), nn.Parameter(torch.zeros(n_items))
        nn.init.normal_(self.items.weight, std=d**-0.5)
        nn.init.normal_(self.output.weight, std=(2 * d) ** -0.5)
        nn.init.zeros_(self.users.weight)  # a user without train sequences stays at zero: the items decide

    def convolve(self, batch: SequenceBatch) -> torch.Tensor:
        """What the filters say of the window that ends at each position: float [batch, length, features].

        Windows of neighbouring positions share most of their rows, so each filter runs once over the whole history
        and the windows are cut from its output.
        """
        vectors = torch.where(batch.mask[..., None], self.items(batch.items), self.padding)
        before = self.padding.expand(len(vectors), self.config.window - 1, -1)
        rows = torch.cat([before, vectors], dim=1).transpose(1, 2)  # [batch, d, L - 1 + length]
        found = []
        for height, filters in enumerate(self.horizontal, start=1):
            values = functional.relu(filters(rows))  # [batch, filters, places where a filter of this height fits]
            found.append(functional.max_pool1d(values, self.config.window - height + 1, stride=1))
        windows = rows.unfold(2, self.config.window, 1)  # [batch, d, length, L], a view
        sums = self.vertical(windows)  # [batch, d, length, filters]
        return torch.cat([torch.cat(found, dim=1).transpose(1, 2), sums.transpose(1, 2).flatten(2)], dim=-1)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """[z, P_u] of Eq. 10 at each position: float [batch, length, 2 d]."""
        z = functional.relu(self.joint(self.dropout(self.convolve(batch))))
        user = self.users(batch.users)[:, None].expand(-1, z.shape[1], -1)
        return self.dropout(torch.cat([z, user], dim=-1))

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the next item at every real position."""
        assert batch.targets is not None
        mask = batch.mask
        queries, items = with_item_bias(self(batch)[mask], self.output.weight, self.bias)
        return catalogue_cross_entropy(queries, items, batch.targets[mask]), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Scores from the last window; that of an empty history is padding alone."""
        return batch.last(self(batch)) @ self.output.weight.T + self.bias


@data_parallel
def train_caser(
    data: SequenceData, config: CaserConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train Caser, write its model directory to `output` and return figures for people."""
    shape = {"n_users": data.n_users, "n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("caser", Caser, shape, data, config, runtime, output, checkpoint)
