"""G2Rec's generative recommender: items and interest profiles as tokens of a causal decoder (Eq. 8-13)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from recsys_dagster.data.features import ItemFeatures
from recsys_dagster.g2rec.backbone import Backbone
from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.g2rec.decoding import Decoding, Terms, choose_decoding
from recsys_dagster.g2rec.evidence import EvidenceTables
from recsys_dagster.g2rec.profiles import mean_memberships, profile_arrays, profile_cross_entropy
from recsys_dagster.layers.features import FeatureVectors, vectors_with
from recsys_dagster.layers.next_item import NextItem
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.layers.sparse import BufferMatrix, Made
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.candidates import WHOLE, Candidates
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import batch_mean
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save

MAP_SEED = 2027
PROFILE_SHARE = 0.1
"""Share of the positions that the profile loss of a step looks at, drawn for each step: its mean is that of all."""
PROFILE_POSITIONS = 1024
"""At most so many, as their logits of all prototypes are held at once."""
LEAST_FIT = 1e-9
"""An item's fit to the predicted profile is taken to be this much at least: its logarithm stays finite."""


Vectors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""X, Y and X + Y of some items, float [m, d] each."""


class G2Rec(SequentialModel):
    """Item tokens x, profile tokens y = P V, and a decoder F over their sequence.

    V is learned, from random vectors or from Eq. 6 (`start`), and the items of a prototype share it in the tokens, in
    the output layer (an item scores by x_i + y_i) and in the profile loss. Items of the history get a learned bias
    (`RepeatBias`); when items are ranked, the predicted profile and the graph have a say (`Decoding`).

    Args:
        config: settings.
        n_items: size of the catalogue.
        max_length: longest history.
        prototypes: C, over all levels.
        levels: number of resolutions.
        width: most prototypes of one item, over all levels.
        edges: (item, neighbour) pairs of the graph that decoding looks at.
        successions: (item, successor) pairs that it looks at.
        n_features: number of item features, 0 for none.
        feature_entries: number of (item, feature) pairs.
    """

    def __init__(
        self,
        config: G2RecConfig,
        *,
        n_items: int,
        max_length: int,
        prototypes: int,
        levels: int,
        width: int,
        edges: int,
        successions: int,
        n_features: int = 0,
        feature_entries: int = 0,
    ) -> None:
        super().__init__(n_items, max_length)
        self.config = config
        d = config.dimension
        self.items = nn.Embedding(n_items, d)
        self.features = FeatureVectors(n_items, n_features, feature_entries, d) if n_features else None
        self.next_item = NextItem(config)
        self.repeats = RepeatBias() if config.repeats else None
        self.prototypes = nn.Parameter(torch.empty(prototypes, d))
        nn.init.normal_(self.items.weight, std=d**-0.5)
        nn.init.normal_(self.prototypes, std=d**-0.5)
        self.backbone = Backbone(config, max_tokens=2 * max_length + 3)
        self.token_norm = nn.LayerNorm(d)  # tokens enter the decoder at one scale, however long they are trained
        self.dropout = nn.Dropout(config.dropout)
        # P, a fixed number of entries an item; where there are fewer, the probability is 0
        self.register_buffer("profile_columns", torch.zeros(n_items, width, dtype=torch.int64))
        self.register_buffer("profile_weights", torch.zeros(n_items, width))
        self.register_buffer("level_ends", torch.zeros(levels, dtype=torch.int64))
        self.decoding = Decoding(
            n_items, edges=edges, successions=successions, n_features=n_features, feature_entries=feature_entries
        )
        self.profile_columns: torch.Tensor
        self.profile_weights: torch.Tensor
        self.level_ends: torch.Tensor
        self._vectors: Made[Vectors] = Made()
        self.memberships = BufferMatrix(partial(mean_memberships, n_prototypes=prototypes, levels=levels))

    def fill(
        self,
        profiles: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]],
        tables: EvidenceTables,
        features: ItemFeatures | None = None,
    ) -> None:
        """Take in P (columns, weights and level ends of `profile_arrays`), what decoding looks up, and features."""
        for buffer, array in zip((self.profile_columns, self.profile_weights, self.level_ends), profiles, strict=True):
            buffer.copy_(torch.from_numpy(array))
        self.decoding.fill(tables)
        if self.features is not None and features is not None:
            self.features.fill(features)

    def start_from(self, item_embeddings: NDArray[np.float32], prototype_embeddings: NDArray[np.float32]) -> None:
        """Start from X float [N, d'] and V [C, d'] of Eq. 6 in place of random vectors (see `fitted`)."""
        with torch.no_grad():
            for into, start in ((self.items.weight, item_embeddings), (self.prototypes, prototype_embeddings)):
                into.copy_(fitted(torch.from_numpy(np.array(start, dtype=np.float32)), self.config.dimension))

    def profiles(self, candidates: Candidates = WHOLE) -> torch.Tensor:
        """Y float [m, d], Eq. 7, the mean over levels."""
        return self._mean_of(self.prototypes, candidates.items)

    def _mean_of(self, vectors: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
        """float [m, d]: P, or its rows of items int64 [m], times prototypes' vectors [C, d], the mean over levels."""
        return self.memberships.product(vectors, self.profile_columns, self.profile_weights, rows=items)

    def item_vectors(self, candidates: Candidates = WHOLE) -> torch.Tensor:
        """X float [m, d]: a candidate's own vector, plus the mean of its features' where there are any."""
        return vectors_with(self.items.weight, candidates, self.features)

    def vectors(self, candidates: Candidates = WHOLE) -> Vectors:
        """X, Y and X + Y; for the whole catalogue made once for all batches if nothing is learned from them."""
        if candidates is not WHOLE or torch.is_grad_enabled():
            return self._made_vectors(candidates)
        return self._vectors.get(self.state_dict().values(), lambda: self._made_vectors(candidates))

    def _made_vectors(self, candidates: Candidates) -> Vectors:
        x, y = self.item_vectors(candidates), self.profiles(candidates)
        return x, y, x + y

    def after(self, positions: torch.Tensor) -> torch.Tensor:
        """Number among a history's states of that after y_t (fused: after x_t + y_t), which predicts item t + 1.

        (Eq. 10.) Positions t int64 count from 0; state 0 is that before any token.
        """
        return positions + 1 if self.config.layout == "fused" else 2 * positions + 2

    def before(self, positions: torch.Tensor) -> torch.Tensor:
        """Number of that after x_t, which predicts the profile of t (Eq. 12).

        Fused: that before token t, which predicts the profile of the item to come.
        """
        return positions if self.config.layout == "fused" else 2 * positions + 1

    def _tokens(self, items: torch.Tensor, vectors: Vectors) -> torch.Tensor:
        """What the decoder reads: float [batch, length, d], or [batch, 2 * length, d] interleaved."""
        x, y, both = vectors
        if self.config.layout == "fused":
            return self.dropout(self.token_norm(functional.embedding(items, both)))
        tokens = torch.stack([functional.embedding(items, x), functional.embedding(items, y)], dim=2)
        return self.dropout(self.token_norm(tokens.flatten(1, 2)))

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Eq. 13: item loss (Eq. 9) at t = 1..N-1, profile loss (Eq. 11) at t = 1..N, estimated on some of them."""
        assert batch.targets is not None
        candidates = self.next_item.candidates(batch, self.n_items)
        vectors = self.vectors(candidates)
        mask, numbered = batch.mask, candidates.of(batch)
        assert numbered.targets is not None
        # all N items of each user
        tokens = self._tokens(torch.cat([numbered.items[:, :1], numbered.targets], dim=1), vectors)
        rows, positions = mask.nonzero(as_tuple=True)
        targets = numbered.targets[rows, positions]
        bias = None if self.repeats is None else self.repeats.prefixes(numbered)
        states_a_row = tokens.shape[1] + 1
        wanted = [rows * states_a_row + self.after(positions)]
        if self.config.profile_weight:
            rows, positions = self._some_positions(batch)
            wanted.append(rows * states_a_row + self.before(positions))
        places, order = torch.cat(wanted).unique(return_inverse=True)  # fused, both losses ask for some of them
        chosen = self.backbone.some(tokens, places).index_select(0, order).split([len(each) for each in wanted])
        item_loss = self.next_item.loss(chosen[0], vectors[2], targets, bias, candidates.stands_for)
        if not self.config.profile_weight:
            return item_loss, {"item_loss": item_loss.item()}
        whole = torch.cat([batch.items[:, :1], batch.targets], dim=1)
        profile_loss = self._profile_loss(chosen[1], whole[rows, positions])
        total = item_loss + self.config.profile_weight * profile_loss
        return total, {"item_loss": item_loss.item(), "profile_loss": profile_loss.item()}

    def _some_positions(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and positions int64 [pairs] that the profile loss looks at, drawn from all N items of each user."""
        place = batch.place
        length = torch.arange(batch.items.shape[1] + 1, device=batch.items.device)
        rows, positions = (length <= place.whole.lengths[:, None]).nonzero(as_tuple=True)
        drawn = torch.randperm(len(rows), device=rows.device, generator=place.draws)
        drawn = drawn[: min(math.ceil(PROFILE_SHARE * len(rows)), PROFILE_POSITIONS)]
        return place.own(rows[drawn], positions[drawn])

    def score_terms(self, batch: SequenceBatch, names: Iterable[str]) -> tuple[torch.Tensor, Terms]:
        """The decoder's own scores, and the terms of these names that decoding sets beside them; float [batch, N] each.

        The scores are the similarities of the last state to x_i + y_i and the bias of repeats: log F(next item |
        history) up to a constant.
        """
        scores, state = self._scores(batch)
        return scores, self.decoding.terms(names, batch, lambda: self._profile_fit(state))

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """What items are ranked by: the decoder's scores after `Decoding`."""
        scores, state = self._scores(batch)
        ranked: torch.Tensor = self.decoding(scores, batch, lambda: self._profile_fit(state))
        return ranked.masked_fill_((batch.lengths == 0)[:, None], 0.0)

    def _scores(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's own scores float [batch, N], and the last state float [batch, d]."""
        vectors = self.vectors()
        last = self.after(batch.lengths.clamp(min=1) - 1)
        state = self.backbone.at(self._tokens(batch.items, vectors), last)
        scores = self.next_item.scores(state, vectors[2])
        if self.repeats is not None:
            scores = self.repeats.add_to(scores, batch)
        return scores, state

    def _profile_loss(self, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the soft labels p_i (Eq. 11), a softmax over each level's prototypes; mean over levels."""
        similarity, ends = self.next_item.similarity, self.level_ends.tolist()
        queries, keys = similarity.queries(states), similarity.items(self.prototypes)
        labels = self.profile_columns[items], self.profile_weights[items]
        return batch_mean(profile_cross_entropy(queries, keys, *labels, ends))

    def _profile_fit(self, states: torch.Tensor) -> torch.Tensor:
        """``log(mean over levels of sum_c P_ic p_c)``, float [batch, N].

        p is the predicted profile, a softmax over each level's prototypes (Eq. 12).
        """
        logits = self.next_item.scores(states, self.prototypes)
        ends = self.level_ends.tolist()
        levels = [logits[:, start:end].softmax(1) for start, end in zip([0, *ends], ends, strict=False)]
        return self._mean_of(torch.cat(levels, dim=1).T).T.clamp(min=LEAST_FIT).log()


def fitted(vectors: torch.Tensor, d: int) -> torch.Tensor:
    """Vectors [n, d'] as [n, d]: a fixed random map with orthonormal columns (or rows) where d' differs from d.

    It keeps inner products, exactly into more dimensions and nearly into fewer; training goes on from there.
    """
    if vectors.shape[1] == d:
        return vectors
    generator = torch.Generator().manual_seed(MAP_SEED)
    square = torch.randn(max(vectors.shape[1], d), min(vectors.shape[1], d), generator=generator)
    columns = torch.linalg.qr(square).Q  # orthonormal
    if vectors.shape[1] < d:
        return vectors @ columns.T
    return vectors @ columns * (vectors.shape[1] / d) ** 0.5


@data_parallel
def train_g2rec(
    data: SequenceData,
    graph: pd.DataFrame,
    memberships: pd.DataFrame,
    tokens: dict[str, NDArray[np.generic]],
    item_embeddings: NDArray[np.float32],
    config: G2RecConfig,
    runtime: Runtime,
    output: Path,
    checkpoint: Path | None = None,
    features: ItemFeatures | None = None,
) -> dict[str, float | int | str]:
    """Train G2Rec, write its model directory to `output` and return figures for people.

    Args:
        data: the splits.
        graph: the table `coengagement_graph`.
        memberships: P, the table `soft_memberships`.
        tokens: `prototype_ids` [C] and `prototype_embeddings` [C, d] (Eq. 6), the start of V where `start` says so.
        item_embeddings: X float32 [N, d], the start of the item vectors where `start` says so.
        config: settings.
        runtime: device, precision, seed.
        output: directory to write.
        checkpoint: directory for the state of an unfinished run.
        features: what items have in common, if the model is to know.
    """
    columns, weights, ends, ids = profile_arrays(memberships, data.n_items)
    tables = EvidenceTables.of(graph, data.train, features, config.neighbours)
    shape = {
        "n_items": data.n_items,
        "max_length": data.max_length,
        "prototypes": len(ids),
        "levels": len(ends),
        "width": columns.shape[1],
        **tables.shape,
        **FeatureVectors.shape(features),
    }
    rows = pd.Index(tokens["prototype_ids"]).get_indexer(pd.Index(ids))

    def build(config: G2RecConfig, **sizes: int) -> G2Rec:
        model = G2Rec(config, **sizes)
        model.fill((columns, weights, ends), tables, features)
        if config.start == "sasrec":
            model.start_from(item_embeddings, tokens["prototype_embeddings"][rows])
        return model

    def decide(model: SequentialModel) -> dict[str, float]:
        assert isinstance(model, G2Rec)
        model.eval()
        return choose_decoding(model, data, runtime.seed) if config.decoding else {}

    facts = train_and_save("g2rec", build, shape, data, config, runtime, output, checkpoint, finish=decide)
    return facts | {"prototypes": len(ids)}
