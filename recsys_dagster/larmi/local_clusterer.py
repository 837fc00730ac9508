"""The clusterer that needs no key and no network: TF-IDF of item texts, average linkage, labels from terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys_dagster.larmi.clusters import Catalogue, Cluster, ClusterResult


class LocalClustererConfig(BaseModel):
    """Settings of `LocalClusterer`."""

    threshold: float = Field(
        default=0.97,
        gt=0,
        le=1,
        description="two groups of items are joined while their mean cosine distance is at most this; lower means "
        "more and smaller interests",
    )
    label_terms: int = Field(default=2, ge=1, le=5, description="terms in a label")
    max_items: int = Field(default=2_000, ge=2, description="longest list clustered in one piece; longer ones are cut")


@dataclass(frozen=True)
class _Fitted:
    catalogue: Catalogue
    weights: Any  # scipy CSR [items, terms], rows of length 1
    terms: NDArray[np.object_]


class LocalClusterer:
    """Sorts items by the words they share.

    The term weights come from the catalogue's texts alone (title, categories or attribute words), never from who
    bought what. They are computed once for a catalogue. A user's items are then joined by average linkage on the cosine
    distance, and every cluster is named after the terms with the highest mean weight in it.
    """

    def __init__(self, config: LocalClustererConfig | None = None) -> None:
        self.config = config or LocalClustererConfig()
        self.max_items = self.config.max_items
        self._fitted: _Fitted | None = None

    def statistics(self) -> dict[str, int | float]:
        """Nothing is paid for here, so nothing is counted."""
        return {}

    def cluster(self, catalogue: Catalogue, batch: Sequence[NDArray[np.int64]]) -> list[ClusterResult]:
        """One result for each list of distinct item ids (LARMI, Eq. 1, with shared words in place of the LLM)."""
        if self._fitted is None or self._fitted.catalogue is not catalogue:
            self._fitted = _fit(catalogue)
        results: list[ClusterResult] = []
        for part in _parts(batch):
            results += self._cluster_part(self._fitted, part)
        return results

    def _cluster_part(self, fitted: _Fitted, lists: list[NDArray[np.int64]]) -> list[ClusterResult]:
        from scipy.cluster.hierarchy import fcluster, linkage

        lengths = np.array([len(ids) for ids in lists])
        rows = fitted.weights[np.concatenate(lists)]
        distances, starts = _pair_distances(rows, lengths)
        groups: list[NDArray[np.int64]] = []
        for index, length in enumerate(lengths):
            if length == 1:
                groups.append(np.zeros(1, dtype=np.int64))
                continue
            tree = linkage(distances[starts[index] : starts[index + 1]], "average")
            groups.append(_by_first_member(fcluster(tree, self.config.threshold, "distance")))
        counts = np.array([group.max() + 1 for group in groups])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        labels = _labels(rows, np.concatenate(groups) + np.repeat(offsets[:-1], lengths), fitted.terms, self.config)
        results = []
        for index, group in enumerate(groups):
            order = np.argsort(group, kind="stable").tolist()
            clusters, start = [], 0
            for number, size in enumerate(np.bincount(group).tolist()):
                clusters.append(Cluster(labels[offsets[index] + number], tuple(order[start : start + size])))
                start += size
            results.append(ClusterResult(clusters, "local"))
        return results


def _parts(batch: Sequence[NDArray[np.int64]], max_pairs: int = 4_000_000) -> Iterator[list[NDArray[np.int64]]]:
    """Cut a batch so that the pairwise distances of one part stay in bounded memory."""
    part: list[NDArray[np.int64]] = []
    pairs = 0
    for ids in batch:
        own = len(ids) * (len(ids) - 1) // 2
        if part and pairs + own > max_pairs:
            yield part
            part, pairs = [], 0
        part.append(ids)
        pairs += own
    if part:
        yield part


def _fit(catalogue: Catalogue) -> _Fitted:
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Words of one item only cannot join two items, words of half the catalogue join everything: both are left out,
    # unless the catalogue is so small that nothing would remain.
    for min_count, max_share in ((2, 0.5), (1, 1.0)):
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            min_df=min_count,
            max_df=max_share,
            stop_words="english",
            token_pattern=r"(?u)\b\w+\b",
            sublinear_tf=True,
        )
        try:
            weights = vectorizer.fit_transform(catalogue.texts)
        except ValueError:  # "empty vocabulary" or "no terms remain"
            continue
        return _Fitted(catalogue, csr_array(weights), vectorizer.get_feature_names_out())
    return _Fitted(catalogue, csr_array((len(catalogue.texts), 1)), np.array([""], dtype=object))


def _pair_distances(rows: Any, lengths: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cosine distances within each list, for all lists in one sparse product.

    Terms are renamed to (list, term), so the product of the renamed matrix with its transpose has entries within
    lists only.

    Returns:
        The condensed distance matrices one after the other, and where each starts (int64 [lists + 1]).
    """
    from scipy.sparse import csr_array

    n_lists = len(lengths)
    owner = np.repeat(np.arange(n_lists), lengths)
    first = np.cumsum(lengths) - lengths
    starts = np.concatenate([[0], np.cumsum(lengths * (lengths - 1) // 2)])
    keys = np.repeat(owner, np.diff(rows.indptr)) * rows.shape[1] + rows.indices
    _, columns = np.unique(keys, return_inverse=True)
    renamed = csr_array((rows.data, columns, rows.indptr), shape=(rows.shape[0], int(columns.max(initial=0)) + 1))
    product = (renamed @ renamed.T).tocoo()
    row, column = product.coords
    upper = row < column
    row, column, similarity = row[upper].astype(np.int64), column[upper].astype(np.int64), product.data[upper]
    own = owner[row]
    i, j, n = row - first[own], column - first[own], lengths[own]
    distances = np.ones(starts[-1])
    distances[starts[own] + i * (2 * n - i - 1) // 2 + j - i - 1] = np.clip(1 - similarity, 0, 1)
    return distances, starts


def _by_first_member(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Renumber groups from 0 in order of their first member, so that numbers do not depend on the library."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _labels(
    rows: Any, groups: NDArray[np.int64], terms: NDArray[np.object_], config: LocalClustererConfig
) -> list[str]:
    """A label for every group: its terms of highest mean weight, no word twice; "" for a group without words."""
    from scipy.sparse import csr_array

    n_groups = int(groups.max()) + 1
    member = csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape=(n_groups, len(groups)))
    mean = (member @ rows).tocoo()
    group, term = mean.coords
    order = np.lexsort((term, -mean.data, group))
    group, term = group[order], term[order]
    starts = np.searchsorted(group, np.arange(n_groups + 1))
    labels = []
    for start, stop in pairwise(starts):
        chosen: list[str] = []
        words: set[str] = set()
        # A few more terms than wanted are looked at, since "ink" adds nothing to "ink cartridge".
        for name in terms[term[start : min(stop, start + 6 * config.label_terms)]]:
            own = set(name.split())
            # Numbers alone ("3", "100") tell nobody what an interest is.
            if not own & words and any(character.isalpha() for character in name):
                chosen.append(name)
                words |= own
            if len(chosen) == config.label_terms:
                break
        labels.append(", ".join(chosen))
    return labels
