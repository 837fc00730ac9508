"""What asking would cost, before anything is sent: `recsys-dagster llm estimate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.answers import build_messages
from recsys_dagster.larmi.clusters import Catalogue, pieces_of
from recsys_dagster.larmi.llm.cache import AnswerCache, answer_key
from recsys_dagster.larmi.llm.client import question_size
from recsys_dagster.larmi.llm.clusterer import titles_of
from recsys_dagster.larmi.llm.cost import Budget, TokenEstimate
from recsys_dagster.larmi.llm.settings import LlmSettings


@dataclass(frozen=True)
class Estimate:
    """What one asset would take.

    Attributes:
        users: users with items.
        questions: distinct questions about them.
        cached: of these, answered already.
        calls: the rest; second tries after unusable answers come on top.
        input_tokens: of the calls.
        output_tokens: likewise.
        cost: in the currency of the prices.
        most: the cost if every call took its longest answer, which no run can pass.
        calibrated: whether tokens follow what the server reported about earlier calls.
    """

    users: int
    questions: int
    cached: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float
    most: float
    calibrated: bool


def estimate(
    users: Iterable[NDArray[np.int64]], catalogue: Catalogue, settings: LlmSettings, cache_path: Path
) -> Estimate:
    """Count calls, tokens and cost for lists of item ids. Nothing is sent, no key is read, no cache is made.

    Raises:
        RecsysError: if the catalogue has no titles.
    """
    lists: Sequence[NDArray[np.int64]] = [ids for ids in users if len(ids)]
    pieces = [piece for ids in lists for piece in pieces_of(ids, settings.max_items)]
    questions = {
        answer_key(settings.cache_identity(), titles): titles for titles in titles_of(catalogue, pieces, settings)
    }
    known: set[str] = set()
    tokens = TokenEstimate()
    if cache_path.exists():
        with AnswerCache(cache_path) as cache:
            known = set(cache.get_many(list(questions)))
            tokens = cache.reported(settings.model)
    budget = Budget(settings)
    sent = received = 0
    most = 0.0
    missing = [titles for key, titles in questions.items() if key not in known]
    for titles in missing:
        size = question_size(build_messages(titles), settings)
        sent += tokens.prompt(size)
        received += tokens.completion(len(titles))
        most += budget.bound(size)
    cost = budget.cost(sent, received)
    return Estimate(
        len(lists), len(questions), len(known), len(missing), sent, received, cost, most, calibrated=tokens.calls > 0
    )
