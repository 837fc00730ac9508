"""The backend `openai`: one chat completion a question, many in flight (LARMI, Eq. 1 and 9)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import PROMPT_VERSION, build_messages
from recsys_dagster.larmi.llm.cache import AnswerCache, Kept
from recsys_dagster.larmi.llm.client import Service, question_size
from recsys_dagster.larmi.llm.clusterer import (
    BrokenAnswer,
    LlmClusterer,
    Titles,
    parse_answer,
    second_messages,
)
from recsys_dagster.larmi.llm.wire import Completion

logger = logging.getLogger("recsys_dagster")

OTHERS_POLL_S = 0.5
"""Seconds between two looks for answers that another process is asking for."""


@dataclass
class Question:
    """One list of titles on its way to an answer, with what both attempts have taken."""

    key: str
    titles: Titles
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, size: int, completion: Completion) -> None:
        """Note what an attempt of so many bytes has taken."""
        self.prompt_bytes += size
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens

    def kept(self, model: str, answer: str | None) -> Kept:
        """The row of the cache."""
        return Kept(
            self.key, model, PROMPT_VERSION, answer, len(self.titles), self.prompt_bytes, self.prompt_tokens,
            self.completion_tokens,
        )  # fmt: skip


class OpenAIClusterer(LlmClusterer):
    """One chat completion a question, many in flight."""

    async def _ask(self, service: Service, missing: dict[str, Titles], cache: AnswerCache) -> dict[str, str | None]:
        answers: dict[str, str | None] = {}
        async with service:
            while len(answers) < len(missing):
                rest = [key for key in missing if key not in answers]
                own = cache.claim(rest)
                if own:
                    # In the order of the users, so that a log of a server can be followed.
                    await self._ask_own(service, {key: missing[key] for key in rest if key in own}, cache, answers)
                else:
                    await asyncio.sleep(OTHERS_POLL_S)
                # What another process has asked for in the meantime; it may also have given up.
                found = cache.get_many([key for key in rest if key not in own])
                self.counts.cached += len(found)
                answers |= found
        return answers

    async def _ask_own(
        self,
        service: Service,
        own: dict[str, Titles],
        cache: AnswerCache,
        answers: dict[str, str | None],
    ) -> None:
        waiting = [Question(key, titles) for key, titles in reversed(own.items())]
        keeper = _Keeper(cache)

        problems: list[RecsysError] = []

        async def work() -> None:
            while waiting:
                question = waiting.pop()
                try:
                    answer, keep = await self._answer(service, question)
                    if keep:
                        # Before the next question, so that a killed run has paid for the calls in flight only.
                        await keeper.keep(question.kept(self.settings.model, answer))
                except RecsysError as error:
                    # Nothing new is asked; what is in flight and paid for may still come back.
                    problems.append(error)
                    waiting.clear()
                    service.stopping = True
                    return
                answers[question.key] = answer
                self.report(len(answers))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.concurrency, len(waiting))):
                    group.create_task(work())
        finally:
            keeper.flush()
            cache.release(own)
        if problems:
            raise problems[0]

    async def _answer(self, service: Service, question: Question) -> tuple[str | None, bool]:
        """The answer as canonical JSON, or None for the fallback; and whether the cache should keep it."""
        messages = build_messages(question.titles)
        for attempt in (1, 2):
            completion = await service.complete(messages, len(question.titles))
            if completion is None:
                return None, False
            self.count(completion)
            question.add(question_size(messages, self.settings), completion)
            text = service.redact(completion.text)
            try:
                return service.redact(parse_answer(text, len(question.titles)).model_dump_json()), True
            except BrokenAnswer as problem:
                if attempt == 1:
                    self.counts.second_tries += 1
                    messages = second_messages(question.titles, text, str(problem))
        logger.warning("backend openai: two unusable answers in a row; the local clusterer answers for this user")
        return None, True


class _Keeper:
    """Writes answers that arrive together in one transaction; `keep` returns when they are on disk."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._rows: list[Kept] = []
        self._written: asyncio.Event | None = None
        self._problem: RecsysError | None = None

    async def keep(self, row: Kept) -> None:
        if self._written is None:
            self._written = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._flush_quietly)
        written = self._written
        self._rows.append(row)
        await written.wait()
        if self._problem is not None:
            raise self._problem

    def _flush_quietly(self) -> None:
        try:
            self.flush()
        except RecsysError as error:
            # Raised in the worker that waits, not in the event loop.
            self._problem = error

    def flush(self) -> None:
        """Write what waits."""
        rows, written = self._rows, self._written
        self._rows, self._written = [], None
        try:
            if rows:
                self._cache.put_many(rows)
        finally:
            if written is not None:
                written.set()
