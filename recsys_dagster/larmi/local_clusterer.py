"""The clusterer that needs no key and no network: item texts, average linkage cut by silhouette, labels from terms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from recsys_dagster.larmi.answers import MAX_LABEL_LENGTH
from recsys_dagster.larmi.clusters import Catalogue, Cluster, ClusterResult
from recsys_dagster.larmi.item_texts import ItemTexts, read_texts


class LocalClustererConfig(BaseModel):
    """Settings of `LocalClusterer`."""

    near_share: float = Field(
        default=0.08,
        ge=0,
        le=1,
        description="groups nearer than this share of all pairs of items in the catalogue are always one interest; "
        "higher means fewer and larger interests",
    )
    far_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="groups that are not nearer than this share of all pairs are never one interest; between the two "
        "the silhouette of the user's items decides",
    )
    label_terms: int = Field(default=2, ge=1, le=5, description="terms in a label")
    max_items: int = Field(default=2_000, ge=2, description="longest list clustered in one piece; longer ones are cut")
    embeddings: str = Field(
        default="",
        description="folder of a sentence-embedding model on this machine (transformers format, never downloaded), in "
        "place of TF-IDF; needs the extra `embeddings`",
    )

    @model_validator(mode="after")
    def _near_below_far(self) -> Self:
        if self.near_share > self.far_share:
            raise ValueError(f"near_share = {self.near_share} must not be above far_share = {self.far_share}")
        return self


class LocalClusterer:
    """Sorts items by what their texts share.

    Item vectors come from the catalogue's texts alone (title, categories or attribute words), never from who bought
    what, and are made once for a catalogue. Each list is joined by average linkage on the cosine distance and cut
    where its own silhouette is highest, within bounds that the catalogue gives (`LocalClustererConfig`); every
    cluster is named after the terms that set it apart. The result for a list depends on nothing but the list and the
    catalogue.
    """

    def __init__(self, config: LocalClustererConfig | None = None, texts: ItemTexts | None = None) -> None:
        self.config = config or LocalClustererConfig()
        self.max_items = self.config.max_items
        self._texts = texts  # where they have been read already
        self._silhouette, self._lists = 0.0, 0

    def statistics(self) -> dict[str, int | float]:
        """Lists clustered so far and their mean silhouette; nothing is paid for here."""
        return {"lists": self._lists, "silhouette": self._silhouette / self._lists} if self._lists else {}

    def cluster(self, catalogue: Catalogue, batch: Sequence[NDArray[np.int64]]) -> list[ClusterResult]:
        """One result for each list of distinct item ids (LARMI, Eq. 1, with shared words in place of the LLM).

        Raises:
            RecsysError: the setting `embeddings` names no usable model.
        """
        from recsys_dagster.larmi.linkage_kernels import cluster_lists

        if not len(batch):
            return []
        if self._texts is None or self._texts.catalogue is not catalogue:
            self._texts = read_texts(catalogue, self.config.embeddings)
        texts, vectors = self._texts, self._texts.vectors
        near, far = _bounds(texts.pair_distances, self.config)
        lengths = np.array([len(ids) for ids in batch])
        items = np.concatenate(batch).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        groups, silhouettes = cluster_lists(
            vectors.indptr, vectors.indices, vectors.data, texts.codes, vectors.shape[1], items, starts, near, far
        )
        self._silhouette += float(silhouettes.sum())
        self._lists += len(batch)
        counts = np.maximum.reduceat(groups, starts[:-1]) + 1
        offsets = np.concatenate([[0], np.cumsum(counts)])
        cluster = groups + np.repeat(offsets[:-1], lengths)
        labels = _labels(texts, items, cluster, np.repeat(np.arange(len(batch)), counts), self.config.label_terms)
        results = []
        for index, (start, stop) in enumerate(pairwise(starts.tolist())):
            members: list[list[int]] = [[] for _ in range(counts[index])]
            for position, group in enumerate(groups[start:stop].tolist()):
                members[group].append(position)
            own = labels[offsets[index] : offsets[index + 1]]
            clusters = [Cluster(label, tuple(m)) for label, m in zip(own, members, strict=True)]
            results.append(ClusterResult(clusters, "local"))
        return results


def _bounds(pair_distances: NDArray[np.float64], config: LocalClustererConfig) -> tuple[float, float]:
    """The distances that the two shares of random pairs stay below.

    A distance of 1 says that two texts have nothing in common, so it never joins.
    """
    if len(pair_distances) == 0:
        return 0.0, 0.0
    near, far = np.minimum(np.quantile(pair_distances, [config.near_share, config.far_share]), 1 - 1e-6)
    return float(near), float(far)


def _labels(
    texts: ItemTexts,
    items: NDArray[np.int64],
    cluster: NDArray[np.int64],
    owner: NDArray[np.int64],
    label_terms: int,
) -> list[str]:
    """A label for every cluster: the terms that set it apart, no word twice; "" for a cluster without words.

    A term's contrast is its mean weight in the cluster less its mean weight in the list's other items. The weight
    (TF-IDF) is high for terms that are rare in the catalogue; `ItemTexts.naming` takes some of that back, or else
    part numbers and misspellings would name the clusters of one item.

    Args:
        texts: the catalogue.
        items: int64 [entries], the items of all lists.
        cluster: int64 [entries], the cluster of each entry, numbered from 0 over all lists.
        owner: int64 [clusters], the list of each cluster.
        label_terms: most terms in a label.
    """
    from scipy.sparse import csr_array

    n_clusters, n_terms = len(owner), len(texts.terms)
    size = np.bincount(cluster, minlength=n_clusters)
    rest = np.bincount(owner, size)[owner] - size
    member = csr_array((np.ones(len(cluster)), (cluster, np.arange(len(cluster)))), shape=(n_clusters, len(cluster)))
    inside = (member @ texts.words[items]).tocoo()
    row, term = (axis.astype(np.int64) for axis in inside.coords)
    keys, place = np.unique(owner[row] * n_terms + term, return_inverse=True)
    outside = np.bincount(place, inside.data, minlength=len(keys))[place] - inside.data
    contrast = inside.data / size[row] - outside / np.maximum(rest[row], 1)
    # Sizes and part numbers name an interest only where there is nothing else; numbers alone ("3", "100") never do.
    order = np.lexsort((term, -contrast * texts.naming[term], texts.kinds[term], row))
    order = order[texts.kinds[term[order]] < 2]
    bounds = np.searchsorted(row[order], np.arange(n_clusters + 1))
    # A few more terms than wanted are looked at, since "ink" adds nothing to "ink cartridge".
    stops = np.minimum(bounds[1:], bounds[:-1] + 6 * label_terms)
    ranked, kinds = texts.terms[term[order]], texts.kinds[term[order]]
    labels = []
    for start, stop in zip(bounds[:-1].tolist(), stops.tolist(), strict=True):
        if start < stop and kinds[start] == 0:
            stop = start + int(np.searchsorted(kinds[start:stop], 1))
        labels.append(_label(ranked[start:stop].tolist(), label_terms))
    return labels


def _label(ranked: list[str], label_terms: int) -> str:
    """The first terms that share no word, cut to the longest label."""
    chosen: list[str] = []
    words: set[str] = set()
    for name in ranked:
        own = {word.rstrip("s") for word in name.split()}
        if not own & words:
            chosen.append(name)
            words |= own
        if len(chosen) == label_terms:
            break
    return ", ".join(chosen)[:MAX_LABEL_LENGTH].rstrip(", ")
