"""LARMI outside of this project: its vectors, and the best items of a user from nothing but them and an index.

A score is max_k <o_k, v_j> (Eq. 11), plus the repeat bias where j is in the user's history. The n best items by the
maximum are among the n best of each interest, so K searches in an index of inner products find them; the bias moves
items of the history alone, so these are scored on top of what the index gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.model import LARMI
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import pad
from recsys_dagster.training.ranking import entries_of

BATCH = 256


@dataclass(frozen=True)
class Vectors:
    """What a model knows of its users and items; inner products are scores (temperature included).

    Attributes:
        users: int64 [interests]; whose interest it is, rising.
        interests: float32 [interests, d].
        items: float32 [N, d].
        history_users: int64 [pairs], rising; distinct pairs of a user and an item of the history.
        history_items: int64 [pairs].
        history_bias: float32 [pairs]; added to the score of the pair.
    """

    users: NDArray[np.int64]
    interests: NDArray[np.float32]
    items: NDArray[np.float32]
    history_users: NDArray[np.int64]
    history_items: NDArray[np.int64]
    history_bias: NDArray[np.float32]


class Index(Protocol):
    """An index of item vectors by inner product; those of faiss fit."""

    def search(self, queries: NDArray[np.float32], n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and items [queries, n], best first; -1 where the index found fewer."""
        ...


class FlatIndex:
    """Every item looked at (`Index`), in NumPy.

    Args:
        items: float32 [N, d].
    """

    def __init__(self, items: NDArray[np.float32]) -> None:
        self.items = items

    def search(self, queries: NDArray[np.float32], n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and items [queries, min(n, N)], best first, equal scores by item id."""
        scores = queries @ self.items.T
        n = min(n, scores.shape[1])
        best = np.sort(np.argpartition(-scores, n - 1, axis=1)[:, :n], axis=1)
        found = np.take_along_axis(scores, best, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        return np.take_along_axis(found, order, 1), np.take_along_axis(best, order, 1)


def faiss_index(items: NDArray[np.float32], factory: str = "Flat") -> Any:
    """A faiss index over the item vectors, by inner product (`Index`).

    Args:
        items: float32 [N, d].
        factory: faiss's description of an index: Flat (exact), HNSW32, IVF256,Flat, ...

    Raises:
        RecsysError: faiss is not installed, or does not know the description.
    """
    try:
        import faiss
    except ImportError:
        raise RecsysError("faiss is not installed.", mend="pip install 'recsys-dagster[faiss]'.") from None
    items = np.ascontiguousarray(items, dtype=np.float32)
    try:
        index = faiss.index_factory(items.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise RecsysError(
            f"faiss cannot make an index {factory!r}.", mend="write Flat, HNSW32, IVF256,Flat."
        ) from error
    if not index.is_trained:
        index.train(items)
    index.add(items)
    return index


def vectors_of(model: LARMI, histories: Histories, users: NDArray[np.int64] | None = None) -> Vectors:
    """The vectors of a trained model for some users (all with a history unless given), a few at a time.

    Args:
        model: trained.
        histories: what the model may see.
        users: rising user ids; those without a history are left out.
    """
    wanted = np.arange(len(histories.lengths)) if users is None else np.asarray(users, dtype=np.int64)
    wanted = wanted[histories.lengths[wanted] > 0]
    device = str(next(model.parameters()).device)
    model.eval()
    owners, interests, pairs, biases = [], [], [], []
    with torch.no_grad(), Progress("vectors", len(wanted), "users") as progress:
        items = model.item_vectors()
        for start in range(0, len(wanted), BATCH):
            chosen = wanted[start : start + BATCH]
            batch = pad(histories, chosen, model.max_length).to(device)
            found, valid = model.user_queries(batch, items)
            owners.append(chosen[valid.nonzero()[:, 0].cpu().numpy()])
            interests.append(found[valid].float().cpu().numpy())
            # the whole history, not only what the model reads: all of it is left out where seen items are
            place, what = entries_of(histories, chosen)
            seen = np.unique(place * model.n_items + what)
            owner, item = np.divmod(seen, model.n_items)
            bias = model.repeats.add_to(torch.zeros(len(chosen), model.n_items, device=device), batch)
            pairs.append(np.stack([chosen[owner], item]))
            biases.append(bias.cpu().numpy()[owner, item])
            progress.update(len(chosen))
        keys_of_items = model.keys(items).float().cpu().numpy()
    d = keys_of_items.shape[1]
    history = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    return Vectors(
        np.concatenate([np.empty(0, np.int64), *owners]),
        np.concatenate([np.empty((0, d), np.float32), *interests]),
        keys_of_items,
        history[0],
        history[1],
        np.concatenate([np.empty(0, np.float32), *biases]).astype(np.float32),
    )


def retrieve(
    vectors: Vectors, index: Index, user: int, n: int, *, mask_seen: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The n best items of a user and their scores, best first; exact where the index is.

    Args:
        vectors: of `vectors_of`, or read from an export.
        index: of the item vectors.
        user: user id.
        n: length of the list; fewer come back where the index finds fewer.
        mask_seen: leave out items of the history.
    """
    own = slice(*np.searchsorted(vectors.users, [user, user + 1]))
    past = slice(*np.searchsorted(vectors.history_users, [user, user + 1]))
    seen, bias = vectors.history_items[past], vectors.history_bias[past]
    interests = vectors.interests[own]
    if not len(interests):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    # as many more as the bias may push down or the mask take away
    _, found = index.search(interests, min(n + len(seen), len(vectors.items)))
    candidates = np.unique(found[found >= 0])
    candidates = np.setdiff1d(candidates, seen) if mask_seen else np.union1d(candidates, seen)
    scores = (interests @ vectors.items[candidates].T).max(0)
    if not mask_seen:
        scores[np.searchsorted(candidates, seen)] += bias
    order = np.argsort(-scores, kind="stable")[:n]
    return candidates[order], scores[order]
