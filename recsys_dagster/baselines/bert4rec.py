"""BERT4Rec: a transformer that sees both sides of a gap and fills it; the next item is a gap at the end.

Sun et al., "BERT4Rec: sequential recommendation with bidirectional encoder representations from transformer", 2019.
Differences: pre-norm blocks, batches by length, masks drawn anew in every epoch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from recsys_dagster.baselines.config import BERT4RecConfig
from recsys_dagster.layers.transformer import TransformerBlock
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy, with_item_bias
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class BERT4Rec(SequentialModel):
    """Item and position embeddings, bidirectional blocks, scores of masked positions by the shared item embeddings.

    Positions are counted back from the end of a sequence, as padding on the left does in the original: the gap that
    scores are asked for is always position 0, and the longest history needs no position that training did not see.
    """

    def __init__(self, config: BERT4RecConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length - 1)  # of the places, one is the gap's
        self.config = config
        d = config.dimension
        self.items, self.positions = nn.Embedding(n_items + 1, d), nn.Embedding(max_length, d)
        self.gap = n_items  # the last row is the mask
        self.blocks = nn.ModuleList(TransformerBlock(d, config.heads, config.dropout) for _ in range(config.layers))
        self.token_norm, self.norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.project = nn.Linear(d, d)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """States float [batch, length, d] of sequences int64 [batch, length], padded on the right."""
        place = torch.arange(items.shape[1], device=items.device)
        real = place < lengths[:, None]
        back = (lengths[:, None] - 1 - place).clamp(min=0)
        x = self.dropout(self.token_norm(self.items(items) + self.positions(back)))
        for block in self.blocks:
            x = block(x, real)
        states: torch.Tensor = functional.gelu(self.project(self.norm(x)))
        return states

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the hidden items, given all others (Eq. 8).

        A sequence has far fewer gaps than a causal model has targets, so it stands in its batch several times, each
        with gaps of its own (the original writes ten masked copies of the data).
        """
        assert batch.targets is not None
        whole = torch.cat([batch.items[:, :1], batch.targets], dim=1).repeat(self.config.copies, 1)
        lengths = (batch.lengths + 1).repeat(self.config.copies)
        place = batch.place
        drawn = self.draw_gaps((place.whole.lengths + 1).repeat(self.config.copies), whole.shape[1], place.draws)
        hidden = drawn.view(self.config.copies, -1, whole.shape[1])[:, place.rows].flatten(0, 1)
        states = self(whole.masked_fill(hidden, self.gap), lengths)[hidden]
        queries, items = with_item_bias(states, self.items.weight[: self.gap], self.bias)
        return catalogue_cross_entropy(queries, items, whole[hidden]), {}

    def draw_gaps(self, lengths: torch.Tensor, width: int, draws: torch.Generator | None = None) -> torch.Tensor:
        """Which positions to hide: bool [batch, width], at least one of each sequence.

        Each position with the probability `mask_rate`; where that hides none, one at random. In a share of the
        sequences it is the last position alone, which is what the model will be asked for.

        Args:
            lengths: int64 [batch].
            width: longest sequence.
            draws: where draws come from; None: torch's own random state.
        """
        place = torch.arange(width, device=lengths.device)
        real, last = place < lengths[:, None], place == lengths[:, None] - 1
        draw = torch.rand(real.shape, device=lengths.device, generator=draws).masked_fill(~real, 2.0)
        hidden = (draw < self.config.mask_rate) | (draw == draw.amin(1, keepdim=True)) & real
        only_last = torch.rand(len(lengths), device=lengths.device, generator=draws) < self.config.last_item_share
        return torch.where(only_last[:, None], last, hidden)

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Scores of a gap put after the history."""
        rows = torch.arange(len(batch.lengths), device=batch.lengths.device)
        items = functional.pad(batch.items, (0, 1))
        items[rows, batch.lengths] = self.gap
        states = self(items, batch.lengths + 1)[rows, batch.lengths]
        return states @ self.items.weight[: self.gap].T + self.bias


@data_parallel
def train_bert4rec(
    data: SequenceData, config: BERT4RecConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train BERT4Rec, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("bert4rec", BERT4Rec, shape, data, config, runtime, output, checkpoint)
