"""Evaluation and recommendations over ranges of users: in one process, or over several workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import UserLog
from recsys_dagster.evaluation.protocol import evaluate_range, metrics_table, per_user_table
from recsys_dagster.evaluation.recommend import recommendations
from recsys_dagster.parallel import Engine, Output, UserRange, user_ranges

if TYPE_CHECKING:
    from recsys_dagster.training.data import SequenceData
    from recsys_dagster.training.ranking import Scorer

COLUMNS = ("user_id", "item_id", "split")


class ModelFile(Protocol):
    """A stored model (`recsys_dagster.models.StoredModel`); equal ones are the same model."""

    @property
    def device(self) -> str:
        """Where it scores."""
        ...

    def open(self) -> Scorer:
        """Read it."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class UserData:
    """A stored log whose splits are read range by range.

    Attributes:
        log: `interactions`.
        n_users: users 0..U-1.
        n_items: items 0..N-1.
        max_length: as in `SequenceData`.
        mask_seen: as in `SequenceData`, of the whole log.
    """

    log: UserLog
    n_users: int
    n_items: int
    max_length: int
    mask_seen: bool = True

    @classmethod
    def of(cls, log: UserLog, n_users: int, n_items: int, max_length: int, engine: Engine) -> UserData:
        """With `mask_seen` found by the workers: True unless somebody has an item twice in the train split."""
        data = cls(log, n_users, n_items, max_length)
        return replace(data, mask_seen=all(engine.map(data.no_repeats, user_ranges(n_users, 1_024, engine.workers))))

    def read(self, part: UserRange) -> SequenceData:
        """The splits of a range, indexed by user id; other users have no items."""
        from recsys_dagster.training.data import SequenceData

        table = self.log.users(*part[1:], COLUMNS)
        data = SequenceData.from_tables(table, n_users=self.n_users, n_items=self.n_items, max_length=self.max_length)
        return replace(data, mask_seen=self.mask_seen)

    def no_repeats(self, part: UserRange) -> bool:
        """Whether no user of a range has an item twice in the train split."""
        table = self.log.users(*part[1:], COLUMNS)
        return not table.loc[table["split"] == 0, ["user_id", "item_id"]].duplicated().any()


def evaluate_models(
    models: Sequence[tuple[ModelFile, Mapping[str, Any]]],
    data: UserData,
    negatives: UserLog,
    *,
    ks: Sequence[int],
    batch_size: int,
    engine: Engine,
    output: Output,
) -> tuple[pd.DataFrame, list[Any]]:
    """Rank the test targets of all users with every model (see `protocol.evaluate_per_user`).

    Args:
        models: each with its `dataset`, `model`, `protocol` and `seed`.
        data: the log.
        negatives: the stored negatives.
        ks: cuts of Recall, HR and NDCG.
        batch_size: users scored at once.
        engine: who works.
        output: takes the parts of `user_metrics`.

    Returns:
        The table `metrics`, and what `output` gave for each part of `user_metrics`, in order.
    """
    from recsys_dagster.training.ranking import block_users

    parts = user_ranges(data.n_users, block_users(batch_size), engine.workers)
    tables, kept = [], []
    for index, (model, names) in enumerate(models):
        work = partial(
            _evaluate, model, dict(names), data, negatives, tuple(ks), batch_size, output, index * len(parts)
        )
        found = list(_scored(engine, work, parts, model))
        tables.append(metrics_table([sums for sums, _ in found], names))
        kept += [stored for _, stored in found]
    return pd.concat(tables, ignore_index=True), kept


@dataclass(frozen=True)
class Recommended:
    """What a model recommended.

    Attributes:
        parts: what the output gave for each part.
        shown: int64 [N], how many users each item is recommended to.
        example: the rows of the first user.
    """

    parts: list[Any]
    shown: NDArray[np.int64]
    example: pd.DataFrame


def recommend_all(
    models: Sequence[tuple[str, ModelFile]], data: UserData, *, n: int, engine: Engine, output: Output
) -> dict[str, Recommended]:
    """The `n` best items of every user by each model (see `recommend.recommendations`), from the whole history."""
    from recsys_dagster.training.ranking import block_users

    parts = user_ranges(data.n_users, block_users(BATCH_USERS), engine.workers)
    results = {}
    for index, (name, model) in enumerate(models):
        work = partial(_recommend, model, name, data, n, output, index * len(parts))
        found = list(_scored(engine, work, parts, model))
        shown = np.zeros(data.n_items, dtype=np.int64)
        for _, counts, _ in found:
            shown += counts
        results[name] = Recommended([stored for stored, _, _ in found], shown, found[0][2])
    return results


BATCH_USERS = 256
"""Users that are scored at once for recommendations."""


def _scored(engine: Engine, work: Any, parts: list[UserRange], model: ModelFile) -> Iterator[Any]:
    """The parts' results; the model is let go afterwards, one is in memory at a time."""
    yield from engine.map(work, parts, gpu=model.device.startswith("cuda"))
    _opened.cache_clear()


@lru_cache(maxsize=1)
def _opened(model: ModelFile) -> Scorer:
    return model.open()


def _evaluate(
    model: ModelFile,
    names: dict[str, Any],
    data: UserData,
    negatives: UserLog,
    ks: tuple[int, ...],
    batch_size: int,
    output: Output,
    before: int,
    part: UserRange,
) -> tuple[dict[str, pd.DataFrame], Any]:
    number, first, last = part
    found = evaluate_range(
        _opened(model), data.read(part), negatives.users(first, last, ["user_id", "item_ids"]), model=names["model"],
        protocol=names["protocol"], ks=ks, batch_size=batch_size, first=first, last=last,
    )  # fmt: skip
    return found.sums, output.put(before + number, per_user_table(found.per_user, names))


def _recommend(
    model: ModelFile, name: str, data: UserData, n: int, output: Output, before: int, part: UserRange
) -> tuple[Any, NDArray[np.int64], pd.DataFrame]:
    number, first, last = part
    table = recommendations(
        _opened(model), data.read(part), model=name, n=n, users=np.arange(first, last), batch_size=BATCH_USERS
    )
    shown = np.bincount(table["item_id"], minlength=data.n_items)
    return output.put(before + number, table), shown, table[table["user_id"] == first] if number == 0 else table[:0]
