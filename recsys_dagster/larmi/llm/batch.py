"""The backend `openai_batch`: questions as lines of files, answered within a day, at about half the price."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import PROMPT_VERSION, build_messages
from recsys_dagster.larmi.llm.batch_files import BatchFiles, open_client
from recsys_dagster.larmi.llm.cache import AnswerCache, Kept
from recsys_dagster.larmi.llm.client import HOPELESS, Service, question_size
from recsys_dagster.larmi.llm.clusterer import (
    BrokenAnswer,
    LlmClusterer,
    Titles,
    parse_answer,
    second_messages,
)
from recsys_dagster.larmi.llm.cost import token_bound
from recsys_dagster.larmi.llm.submissions import Line, Submission, Submissions
from recsys_dagster.larmi.llm.wire import KNOWN_CODES, Reply, parse_completion

if TYPE_CHECKING:
    from openai.types import Batch

logger = logging.getLogger("recsys_dagster")

MAX_LINES, MAX_BYTES = 50_000, 190_000_000
"""What a file may hold: 50,000 requests; 200 MB at OpenAI, and some room."""

MAX_ROUNDS = 5
"""How often a question is put into a batch that does not answer it, before it counts as failed."""


class OpenAIBatchClusterer(LlmClusterer):
    """Uploads files of questions, creates batches, looks at them until they end, and collects the answers.

    A killed run goes on where it was: `Submissions` says how. Prices are those of the batches.
    """

    block_users = 1_000_000

    async def _ask(self, service: Service, missing: dict[str, Titles], cache: AnswerCache) -> dict[str, str | None]:
        async with open_client(self.settings) as client:
            files = BatchFiles(client, service, Submissions(cache))
            return await _Round(self, files, missing, cache).run()


class _Round:
    """Everything about one set of missing questions."""

    def __init__(
        self, clusterer: OpenAIBatchClusterer, files: BatchFiles, missing: dict[str, Titles], cache: AnswerCache
    ) -> None:
        self.clusterer, self.files, self.missing, self.cache = clusterer, files, missing, cache
        self.service, self.submissions = files.service, files.submissions
        self.answers: dict[str, str | None] = {}
        self.rounds: Counter[str] = Counter()
        self.held: dict[str, float] = {}
        """Money reserved for the submissions that this run waits for."""
        self.collected = 0
        """Batches that have ended."""
        self.collected_before: dict[str, int] = {}
        """How many had when a submission was made."""
        self.full = False
        """The service takes no more for now: wait until a batch has ended."""

    async def run(self) -> dict[str, str | None]:
        while True:
            rest = [key for key in self.missing if key not in self.answers]
            self.answers |= self.cache.get_many(rest)
            self.clusterer.report(len(self.answers))
            rest = [key for key in rest if key not in self.answers]
            if not rest:
                return self.answers
            lines = self.submissions.lines(rest)
            waiting = {line.submission for line in lines.values() if line.submission is not None}
            for name in self.held.keys() - waiting:
                self._let_go(name, 0.0)  # collected by another process
            free = [key for key in rest if key not in lines or lines[key].submission is None]
            if free and not (self.full and waiting):
                self.full = False
                await self._submit(free, lines)
                continue
            ended = [await self._look(name) for name in sorted(waiting)]
            if any(ended):
                self.full = False
            else:
                await asyncio.sleep(self.clusterer.settings.batch_poll_s)

    # Submitting

    async def _submit(self, free: list[str], lines: dict[str, Line]) -> None:
        for questions, bound in self._files(free, lines):
            name, own = self.submissions.plan(questions, bound)
            if own:
                self._hold(name, bound)
                self.collected_before[name] = self.collected
                await self.files.upload(name, (self._line(key, self._messages(key, lines.get(key))) for key in own))

    def _files(self, keys: list[str], lines: dict[str, Line]) -> Iterator[tuple[dict[str, tuple[int, int]], float]]:
        """Questions file by file, with the most that each file can cost; no more than the budget has room for."""
        part: dict[str, tuple[int, int]] = {}
        size, bound = 0, 0.0
        for key in keys:
            messages = self._messages(key, lines.get(key))
            length = len(self._line(key, messages))
            tokens_from = question_size(messages, self.clusterer.settings)
            cost = self.clusterer.budget.bound(tokens_from)
            if part and (len(part) == MAX_LINES or size + length > MAX_BYTES):
                yield part, bound
                part, size, bound = {}, 0, 0.0
            if not self.clusterer.budget.fits(bound + cost):
                # The rest waits until what is under way has come back and is known to have cost less.
                if not part and not self.held:
                    raise self.clusterer.budget.used_up()
                self.full = True
                break
            part[key] = (len(self.missing[key]), tokens_from)
            size, bound = size + length, bound + cost
        if part:
            yield part, bound

    def _messages(self, key: str, line: Line | None) -> list[dict[str, str]]:
        if line is not None and line.attempt == 2:
            return second_messages(self.missing[key], line.broken or "", line.problem or "")
        return build_messages(self.missing[key])

    def _line(self, key: str, messages: list[dict[str, str]]) -> bytes:
        body = self.service.question(messages)
        line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    # Looking and collecting

    async def _look(self, name: str) -> bool:
        """Look at one submission; True if it is under way no more."""
        submission = self.submissions.get(name)
        if submission is None:
            return True
        self._hold(name, submission.reserved)
        if submission.batch_id is None:
            return await self._go_on(submission)
        batch = await self.files.look(submission.batch_id)
        if batch is None:
            raise RecsysError(
                f"backend openai_batch: {self.clusterer.settings.base_url} does not know {submission.batch_id}, "
                "which was created there or elsewhere and is not collected.",
                mend="set base_url and the key that created it, or forget it with llm cache prune --batches.",
            )
        if batch.status not in ("completed", "expired", "cancelled", "failed"):
            return False
        await self._collect(submission, batch)
        if batch.status == "cancelled":
            raise RecsysError(
                f"backend openai_batch: {submission.batch_id} was cancelled at the service.",
                mend="run again to submit what it had not answered yet; its answers are kept.",
            )
        if batch.status == "failed":
            self._failed(submission, batch)
            return False
        return True

    async def _go_on(self, submission: Submission) -> bool:
        """A submission without a batch: leave it to its process, or take it over; True if it is gone."""
        if not self.submissions.adopt(submission.id):
            return False
        if submission.file_id is not None:
            await self.files.create(submission.id, submission.file_id, look_first=submission.creating)
            return False
        # Nothing was created that could cost anything; its lines are planned anew.
        self.submissions.finish(submission.id, [])
        self._let_go(submission.id, 0.0)
        return True

    def _failed(self, submission: Submission, batch: Batch) -> None:
        errors = getattr(batch.errors, "data", None) or []
        codes = {str(getattr(error, "code", "")) for error in errors} & KNOWN_CODES
        others = bool(self.held) or self.collected > self.collected_before.get(submission.id, self.collected)
        if codes == {"token_limit_exceeded"} and others:
            # Too much was under way together; when others have come back there is room.
            self.full = True
            return
        said = f" ({', '.join(sorted(codes))})" if codes else ""
        raise RecsysError(
            f"backend openai_batch: the service refused {submission.batch_id}{said}.",
            mend="look at it at the service; with token_limit_exceeded, run again when other batches are done.",
        )

    async def _collect(self, submission: Submission, batch: Batch) -> None:
        """Keep what a batch has answered, in one transaction with its end."""
        lines = self.submissions.lines_of(submission.id)
        keys = set(lines)
        kept: list[Kept] = []
        second: dict[str, tuple[str, str]] = {}
        failed: set[str] = set()
        cost = 0.0
        for row in await self.files.rows(batch):
            key = row.get("custom_id")
            if key not in keys:
                continue
            keys.discard(key)
            response = row.get("response") or {}
            if response.get("status_code") != 200 or not isinstance(response.get("body"), dict):
                if response.get("status_code") in (400, 413, 422):
                    failed.add(key)
                continue
            cost += self._read(lines[key], response["body"], kept, second)
        self.collected += batch.status != "failed"
        if self.submissions.finish(submission.id, kept, second):
            self.clusterer.counts.second_tries += len(second)
        self._let_go(submission.id, cost)
        self.answers |= {row.key: row.answer for row in kept if row.key in self.missing}
        answered = {row.key for row in kept} | second.keys()
        self.service.answered += len(answered)
        for key in lines.keys() - answered if batch.status != "failed" else ():
            self.rounds[key] += 1
            if key in failed or self.rounds[key] >= MAX_ROUNDS:
                # Answered locally today, asked again another day.
                self.answers[key] = None
                self.service.rejected += 1
        if len(failed) >= HOPELESS and not self.service.answered:
            raise self.service.failure(Reply(400))

    def _read(self, line: Line, body: dict[str, Any], kept: list[Kept], second: dict[str, tuple[str, str]]) -> float:
        """Sort one answer into those to keep and those to ask again; what it has cost."""
        completion = parse_completion(body)
        text = self.service.redact(completion.text)
        tokens = completion.prompt_tokens, completion.completion_tokens
        self.clusterer.count(completion)
        if completion.prompt_tokens:
            self.clusterer.tokens.learn(line.prompt_bytes, line.items, *tokens)
        answer: str | None = None
        try:
            answer = self.service.redact(parse_answer(text, line.items).model_dump_json())
        except BrokenAnswer as problem:
            if line.attempt == 1:
                second[line.key] = (text[:2_000], str(problem))
            else:
                logger.warning("backend openai_batch: two unusable answers in a row; the local clusterer answers")
        if line.key not in second:
            model = self.clusterer.settings.model
            kept.append(Kept(line.key, model, PROMPT_VERSION, answer, line.items, line.prompt_bytes, *tokens))
        return self.clusterer.budget.cost(tokens[0] or token_bound(line.prompt_bytes), tokens[1] or len(text.encode()))

    def _hold(self, name: str, amount: float) -> None:
        if name not in self.held:
            self.held[name] = amount
            self.clusterer.budget.hold(amount)

    def _let_go(self, name: str, cost: float) -> None:
        if name in self.held:
            self.clusterer.budget.settle(self.held.pop(name), cost)
