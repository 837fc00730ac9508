"""What the clusterers that ask a language model share (LARMI, Eq. 1 and 9): questions, answers, cache, counts."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import ClusterResult, InterestAnswer, build_messages, validate_answer
from recsys_dagster.larmi.clusters import Catalogue
from recsys_dagster.larmi.llm.cache import LEASE_S, AnswerCache, answer_key
from recsys_dagster.larmi.llm.client import Service
from recsys_dagster.larmi.llm.cost import Budget, TokenEstimate, money
from recsys_dagster.larmi.llm.limits import Throttle
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.wire import Completion
from recsys_dagster.larmi.local_clusterer import LocalClusterer

Titles = tuple[str, ...]


class BrokenAnswer(Exception):
    """An answer that is not what the schema asks for; the text says why, for the model's second try."""


@dataclass
class Counts:
    """What a clusterer has done since it was made."""

    calls: int = 0
    cached: int = 0
    second_tries: int = 0
    fallbacks: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class LlmClusterer(ABC):
    """Asks a language model once for every distinct list of titles.

    Answers are kept in a cache on disk as soon as they arrive. An answer that breaks the schema is asked for a second
    time with the error stated; if that breaks too, the local clusterer answers, the result says "fallback", and the
    cache remembers it, so the same titles are not paid for again. A service that refuses the key, does not know the
    model or stops answering ends the run with an error: nothing is answered locally in silence.

    Attributes:
        block_users: users that `cluster_users` hands over at a time.
        on_answer: called with (questions answered, questions, note) while a batch is worked on.
    """

    block_users: int = 16_384

    def __init__(self, settings: LlmSettings, cache_path: Path, fallback: LocalClusterer | None = None) -> None:
        self.settings = settings
        self.cache_path = Path(cache_path)
        self.max_items = settings.max_items
        self.fallback = fallback or LocalClusterer()
        self.on_answer: Callable[[int, int, str], None] | None = None
        self.counts = Counts()
        self.budget = Budget(settings)
        self.tokens = TokenEstimate()
        self.throttle = Throttle(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        self._retries = self._refusals = self._known = self._questions = 0

    def statistics(self) -> dict[str, int | float]:
        """Calls answered, questions answered by the cache, second tries, fallbacks, retries, tokens and money."""
        counts = self.counts
        return {
            "llm_calls": counts.calls,
            "llm_cached": counts.cached,
            "llm_second_tries": counts.second_tries,
            "llm_fallbacks": counts.fallbacks,
            "llm_retries": self._retries,
            "llm_refusals": self._refusals,
            "llm_spent": round(self.budget.spent, 6),
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
        }

    def cluster(self, catalogue: Catalogue, batch: Sequence[NDArray[np.int64]]) -> list[ClusterResult]:
        """One result for each list of item ids; equal lists of titles are asked about once.

        Raises:
            RecsysError: if the catalogue has no titles, the key is missing or refused, the service does not answer, or
                the spending cap is reached.
        """
        titles = titles_of(catalogue, batch, self.settings)
        keys = [answer_key(self.settings.cache_identity(), own) for own in titles]
        wanted = dict(zip(keys, titles, strict=True))
        with AnswerCache(self.cache_path) as cache:
            answers = cache.get_many(list(wanted))
            self.counts.cached += len(answers)
            missing = {key: own for key, own in wanted.items() if key not in answers}
            if missing:
                self._known, self._questions = len(answers), len(wanted)
                answers |= _run(self._ask_all(missing, cache))
        return self._results(catalogue, keys, batch, answers)

    def _results(
        self,
        catalogue: Catalogue,
        keys: list[str],
        batch: Sequence[NDArray[np.int64]],
        answers: dict[str, str | None],
    ) -> list[ClusterResult]:
        lists = dict(zip(keys, batch, strict=True))
        unanswered = [key for key in lists if answers[key] is None]
        self.counts.fallbacks += len(unanswered)
        local = self.fallback.cluster(catalogue, [lists[key] for key in unanswered]) if unanswered else []
        results = {
            key: ClusterResult(found.clusters, "fallback", found.repairs)
            for key, found in zip(unanswered, local, strict=True)
        }
        for key, ids in lists.items():
            text = answers[key]
            if text is not None:
                clusters, repairs = validate_answer(InterestAnswer.model_validate_json(text), len(ids))
                results[key] = ClusterResult(clusters, "openai", repairs)
        return [results[key] for key in keys]

    def count(self, completion: Completion) -> None:
        """Note an answer and what it took."""
        self.counts.calls += 1
        self.counts.prompt_tokens += completion.prompt_tokens
        self.counts.completion_tokens += completion.completion_tokens

    def report(self, answered: int) -> None:
        """Tell whoever watches that so many of the missing questions are answered."""
        if self.on_answer is not None:
            note = f"{money(self.budget.spent)} spent" if self.settings.input_price else ""
            self.on_answer(self._known + answered, self._questions, note)

    async def _ask_all(self, missing: dict[str, Titles], cache: AnswerCache) -> dict[str, str | None]:
        if not self.tokens.calls:
            self.tokens = cache.reported(self.settings.model)
        self.report(0)
        service = Service(self.settings, self.throttle, self.budget, self.tokens)
        heartbeat = asyncio.create_task(_stay_alive(cache))
        try:
            return await self._ask(service, missing, cache)
        finally:
            heartbeat.cancel()
            self._retries += service.retries
            self._refusals += service.refusals

    @abstractmethod
    async def _ask(self, service: Service, missing: dict[str, Titles], cache: AnswerCache) -> dict[str, str | None]:
        """Answers as canonical JSON, or None for the fallback, for every key of `missing`."""


def titles_of(catalogue: Catalogue, lists: Sequence[NDArray[np.integer]], settings: LlmSettings) -> list[Titles]:
    """The titles that a question names, list by list.

    Raises:
        RecsysError: if the catalogue has none.
    """
    if not catalogue.has_titles:
        raise RecsysError(
            f"backend {settings.backend}: the items of this dataset have no titles, so a language model has nothing "
            "to read.",
            mend="use backend local, which works on attribute words, or a dataset with titles.",
        )
    return [tuple(catalogue.titles[item] or f"(item {item} without title)" for item in ids) for ids in lists]


def parse_answer(text: str, n_items: int) -> InterestAnswer:
    """The answer about `n_items` items.

    Raises:
        BrokenAnswer: if it does not fit the schema or names no item at all.
    """
    try:
        answer = InterestAnswer.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole answer"
        raise BrokenAnswer(f"{place}: {first['msg']}") from None
    if not any(1 <= number <= n_items for cluster in answer.clusters for number in cluster.items):
        raise BrokenAnswer(f"it names none of the items 1 to {n_items}")
    return answer


def second_messages(titles: Titles, broken: str, problem: str) -> list[dict[str, str]]:
    """The question again, with the answer that cannot be used and why."""
    return [
        *build_messages(titles),
        {"role": "assistant", "content": broken[:2_000]},
        {"role": "user", "content": f"This answer cannot be used: {problem}. Answer again, with JSON only."},
    ]


async def _stay_alive(cache: AnswerCache) -> None:
    """Say every now and then that this process lives, so that nobody takes over what it has claimed."""
    while True:
        await asyncio.sleep(LEASE_S / 4)
        cache.renew()


def _run(task: Coroutine[Any, Any, dict[str, str | None]]) -> dict[str, str | None]:
    """Run to the end, also from inside a running event loop (then in a thread of its own)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(task)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()
