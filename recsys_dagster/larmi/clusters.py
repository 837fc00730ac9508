"""Interest clusters of users (LARMI, Eq. 1 and 9): the question to a clusterer, and the table of what it finds.

Everything that can answer implements `Clusterer`. It is asked about item ids of one `Catalogue`, so that a clusterer
that reads the texts (`LocalClusterer`) prepares the catalogue once, and one that asks a language model
(`OpenAIClusterer`) looks the titles up. Prompt, schema and validation are in `answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import (
    MAX_LABEL_LENGTH,
    PROMPT_VERSION,
    Cluster,
    ClusterResult,
    InterestAnswer,
    InterestCluster,
    RepairCounts,
    build_messages,
    clean_text,
    validate_answer,
)
from recsys_dagster.progress import Progress

__all__ = [
    "PROMPT_VERSION",
    "Catalogue",
    "Cluster",
    "ClusterResult",
    "ClusterStatistics",
    "Clusterer",
    "InterestAnswer",
    "InterestCluster",
    "RepairCounts",
    "build_messages",
    "clean_text",
    "cluster_users",
    "iter_user_clusters",
    "validate_answer",
]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What a clusterer may know about the items.

    Attributes:
        titles: title of item 0..N-1 with control characters removed, "" where there is none.
        texts: title and categories (or attribute words) of item 0..N-1.
    """

    titles: list[str]
    texts: list[str]

    @classmethod
    def from_items(cls, items: pd.DataFrame) -> Catalogue:
        """Read the `items` table (columns item_id, dense from 0, title, text).

        Raises:
            RecsysError: if item ids are not 0..N-1.
        """
        table = items.sort_values("item_id")
        if not np.array_equal(table["item_id"].to_numpy(), np.arange(len(table))):
            raise RecsysError("items: column item_id must hold 0..N-1, each once.", mend="materialize `items` again.")
        titles = [clean_text(title) for title in table["title"].fillna("")]
        return cls(titles, [str(text) for text in table["text"].fillna("")])

    @property
    def has_titles(self) -> bool:
        """Whether any item has a title."""
        return any(self.titles)


@runtime_checkable
class AskingClusterer(Protocol):
    """A clusterer that asks a service: it wants many users at a time, and tells how far it has come with them.

    Attributes:
        block_users: users that it wants at a time.
        on_answer: called with (questions answered, questions, note) while it works.
    """

    block_users: int
    on_answer: Callable[[int, int, str], None] | None


class Clusterer(Protocol):
    """Anything that sorts lists of items into interests.

    Attributes:
        max_items: longest list that `cluster` takes; `cluster_users` cuts longer histories and merges the answers.
    """

    max_items: int

    def cluster(self, catalogue: Catalogue, batch: Sequence[NDArray[np.int64]]) -> list[ClusterResult]:
        """One valid result for each list of distinct, at least one, item ids of the catalogue."""
        ...

    def statistics(self) -> dict[str, int | float]:
        """Counts since the clusterer was made, for metadata (calls, tokens, answers from the cache)."""
        ...


@dataclass
class ClusterStatistics:
    """What a run over many users adds up to; `as_dict` is the metadata."""

    users: int = 0
    items: int = 0
    rows: int = 0
    clusters: int = 0
    singletons: int = 0
    repairs: RepairCounts = field(default_factory=RepairCounts)
    sources: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: ClusterStatistics) -> ClusterStatistics:
        sources = {
            name: self.sources.get(name, 0) + other.sources.get(name, 0) for name in {**self.sources, **other.sources}
        }
        return ClusterStatistics(
            self.users + other.users, self.items + other.items, self.rows + other.rows, self.clusters + other.clusters,
            self.singletons + other.singletons, self.repairs + other.repairs, sources,
        )  # fmt: skip

    def as_dict(self) -> dict[str, int | float]:
        """Flat numbers: totals, means per user, repairs, users by source."""
        return {
            "users": self.users,
            "items": self.items,
            "clusters": self.clusters,
            "clusters_per_user": self.clusters / max(self.users, 1),
            "items_per_cluster": self.rows / max(self.clusters, 1),
            "singleton_share": self.singletons / max(self.clusters, 1),
            "unknown_items": self.repairs.unknown_items,
            "missing_items": self.repairs.missing_items,
            "duplicate_items": self.repairs.duplicate_items,
            "empty_clusters": self.repairs.empty_clusters,
            "repaired_share": (self.repairs.unknown_items + self.repairs.missing_items + self.repairs.duplicate_items)
            / max(self.items, 1),
            "fallback_share": self.sources.get("fallback", 0) / max(self.users, 1),
        } | {f"users_{source}": count for source, count in sorted(self.sources.items())}


def cluster_users(
    users: Histories | Iterable[tuple[int, ArrayLike]],
    items: pd.DataFrame,
    clusterer: Clusterer,
    *,
    what: str = "users",
    block_users: int | None = None,
) -> tuple[pd.DataFrame, dict[str, int | float]]:
    """Sort the items of every user, or of every synthesized user, into interests (LARMI, Eq. 1 and 9).

    Args:
        users: train histories, or pairs (id, item ids) such as `cliques.clique_users` gives. Repeated items count
            once, in order of first occurrence; users without items are left out.
        items: the `items` table.
        clusterer: who answers.
        what: named in the progress lines.
        block_users: users handed to the clusterer at a time; what it wants, or 1,024, unless given.

    Returns:
        The table user_clusters (user_id i32, cluster i16 dense from 0 within a user, label, item_id i32, source), in
        the order of `users`; and statistics.
    """
    statistics = ClusterStatistics()
    blocks = list(iter_user_clusters(users, Catalogue.from_items(items), clusterer, statistics, what, block_users))
    table = pd.concat(blocks, ignore_index=True) if blocks else _table([], [], [], [], [])
    return table, statistics.as_dict() | clusterer.statistics()


def iter_user_clusters(
    users: Histories | Iterable[tuple[int, ArrayLike]],
    catalogue: Catalogue,
    clusterer: Clusterer,
    statistics: ClusterStatistics,
    what: str = "users",
    block_users: int | None = None,
) -> Iterator[pd.DataFrame]:
    """`cluster_users`, one table a block of users, so that memory does not grow with their number."""
    pairs: Iterable[tuple[int, ArrayLike]]
    if isinstance(users, Histories):
        total, pairs = users.n_users, ((user, users.of(user)) for user in range(users.n_users))
    else:
        pairs = users if isinstance(users, Sequence) else list(users)
        total = len(pairs)
    with Progress(f"interest clusters of {what}", total, what) as progress:
        remaining = iter(pairs)
        asking = clusterer if isinstance(clusterer, AskingClusterer) else None
        size = block_users or (asking.block_users if asking is not None else 1_024)
        while block := list(islice(remaining, size)):
            watch = _Watch(progress, len(block))
            if asking is not None:
                asking.on_answer = watch
            lists = [(user, distinct(ids)) for user, ids in block]
            yield _cluster_block([(user, ids) for user, ids in lists if len(ids)], catalogue, clusterer, statistics)
            watch(1, 1, watch.note)


def distinct(ids: ArrayLike) -> NDArray[np.int64]:
    """Each item once, in order of first occurrence."""
    return np.fromiter(dict.fromkeys(np.asarray(ids).tolist()), np.int64)


def pieces_of(ids: NDArray[np.int64], max_items: int) -> list[NDArray[np.int64]]:
    """A long history in as few pieces of about equal length as may be; a piece is what one question is about."""
    return np.array_split(ids, -(-len(ids) // max_items))


class _Watch:
    """Moves the progress of one block along while its questions are answered."""

    def __init__(self, progress: Progress, users: int) -> None:
        self.progress, self.users = progress, users
        self.seen = 0
        self.note = ""

    def __call__(self, answered: int, questions: int, note: str) -> None:
        done = self.users * answered // max(questions, 1)
        self.progress.update(done - self.seen, note)
        self.seen, self.note = done, note


def _cluster_block(
    users: list[tuple[int, NDArray[np.int64]]],
    catalogue: Catalogue,
    clusterer: Clusterer,
    statistics: ClusterStatistics,
) -> pd.DataFrame:
    pieces = [pieces_of(ids, clusterer.max_items) for _, ids in users]
    results = iter(clusterer.cluster(catalogue, [piece for cut in pieces for piece in cut]))
    user_ids: list[int] = []
    numbers: list[int] = []
    labels: list[str] = []
    item_ids: list[int] = []
    sources: list[str] = []
    for (user, ids), cut in zip(users, pieces, strict=True):
        answers = [next(results) for _ in cut]
        source = next((a.source for a in answers if a.source == "fallback"), answers[0].source)
        named = _merge(cut, answers)
        for number, (label, members) in enumerate(named):
            name = label or catalogue.titles[members[0]][:MAX_LABEL_LENGTH] or f"item {members[0]}"
            user_ids += [user] * len(members)
            # int16 holds 32,768 clusters; a longer list of them can only come from as many singletons.
            numbers += [min(number, 32_767)] * len(members)
            labels += [name] * len(members)
            item_ids += members
            sources += [source] * len(members)
        statistics.users += 1
        statistics.items += len(ids)
        statistics.clusters += len(named)
        statistics.singletons += sum(len(members) == 1 for _, members in named)
        statistics.repairs = sum((a.repairs for a in answers), statistics.repairs)
        statistics.sources[source] = statistics.sources.get(source, 0) + 1
    statistics.rows += len(user_ids)
    return _table(user_ids, numbers, labels, item_ids, sources)


def _merge(pieces: list[NDArray[np.int64]], results: list[ClusterResult]) -> list[tuple[str, list[int]]]:
    """Clusters of one user as (label, item ids); clusters of different pieces that carry the same label become one."""
    named: list[tuple[str, list[int]]] = []
    by_label: dict[str, list[int]] = {}
    for piece, result in zip(pieces, results, strict=True):
        ids = piece.tolist()
        for cluster in result.clusters:
            members = [ids[position] for position in cluster.positions]
            known = by_label.get(cluster.label.casefold()) if cluster.label and len(pieces) > 1 else None
            if known is not None:
                present = set(known)
                known.extend(member for member in members if member not in present)
                continue
            by_label[cluster.label.casefold()] = members
            named.append((cluster.label, members))
    return named


def _table(
    users: list[int], numbers: list[int], labels: list[str], items: list[int], sources: list[str]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": np.array(users, dtype=np.int32),
            "cluster": np.array(numbers, dtype=np.int16),
            "label": pd.Series(labels, dtype="str"),
            "item_id": np.array(items, dtype=np.int32),
            "source": pd.Series(sources, dtype="str"),
        }
    )
