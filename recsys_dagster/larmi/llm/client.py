"""One server in the OpenAI format: completions with retries, limits, budget; and nothing that it says repeated blindly.

Why not the official client, which files and batches go through: at 300 calls a second it needs 4.7 ms of processor time
a call and aiohttp 0.6 ms (`docs/decisions.md`), and retries, limits and money of completions must be ours in any case.
"""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.llm.cost import Budget, TokenEstimate, token_bound
from recsys_dagster.larmi.llm.limits import Throttle
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.wire import (
    Completion,
    Reply,
    parse_completion,
    pause,
    redact,
    response_format,
    retry_after,
    schema_size,
)

if TYPE_CHECKING:
    from aiohttp import ClientSession

logger = logging.getLogger("recsys_dagster")

HOPELESS = 20
"""Questions rejected, with none accepted, after which the settings are to blame and not the questions."""


class Service:
    """What is known about the server, and a session for chat completions, to be opened inside an event loop.

    Attributes:
        retries: calls that were sent again; refusals: those of them for the rate (429).
        answered: calls that were answered.
        stopping: set when a run is about to end with an error: nothing is sent again.
    """

    def __init__(self, settings: LlmSettings, throttle: Throttle, budget: Budget, tokens: TokenEstimate) -> None:
        self.settings, self.throttle, self.budget, self.tokens = settings, throttle, budget, tokens
        self.answered = self.rejected = self.retries = self.refusals = 0
        self.stopping = False
        self._key = settings.api_key().get_secret_value()
        self._session: ClientSession | None = None
        self._dropped: set[str] = set()
        self._schema = response_format(settings.response_format)

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout_s),
            connector=aiohttp.TCPConnector(limit=self.settings.concurrency + 1),
            # Costs a thread's turn a call, so only where there is a proxy to be found.
            trust_env=bool(urllib.request.getproxies()),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def redact(self, text: str) -> str:
        """The text without the key or any part of it: a server may echo its headers."""
        return redact(text, self._key)

    def question(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """The body of a chat completion."""
        body = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.settings.max_output_tokens,
            "response_format": self._schema,
        }
        # Reasoning models take neither; they say so once and are not asked that way again.
        if "max_tokens" in self._dropped:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if "temperature" in self._dropped:
            del body["temperature"]
        return body

    async def complete(self, messages: list[dict[str, str]], n_items: int) -> Completion | None:
        """The answer to one question; None if the server rejects or fails this very question.

        Raises:
            RecsysError: if the server refuses the key, does not know the model, fails every question, or the budget
                is used up.
        """
        size = question_size(messages, self.settings)
        bound = self.budget.bound(size)
        expected = self.tokens.prompt(size) + self.tokens.completion(n_items)
        failures = refusals = adapted = 0
        async with self.throttle.slot():
            before = self.answered
            while True:
                reply = await self._try(messages, bound, expected, size, n_items)
                if isinstance(reply, Completion):
                    return reply
                if reply.status == 400 and adapted < 3 and self._adapt(reply):
                    adapted += 1
                    continue
                if reply.status in (400, 413, 422):
                    self._reject(reply)
                    return None
                if reply.status == 429:
                    refusals += 1
                    self.refusals += 1
                else:
                    failures += 1
                hopeless = reply.status not in (0, -1, 408, 409, 429) and reply.status < 500
                if (
                    self.stopping
                    or hopeless
                    or (max(failures, refusals) > self.settings.max_retries and self.answered == before)
                ):
                    raise self.failure(reply)
                if failures > self.settings.max_retries:
                    self._reject(reply)
                    return None
                self.retries += 1
                await asyncio.sleep(pause(reply, failures + refusals))

    async def _try(
        self, messages: list[dict[str, str]], bound: float, expected: int, size: int, n_items: int
    ) -> Completion | Reply:
        await self.budget.reserve(bound)
        actual = 0.0
        try:
            delay = self.throttle.delay(expected)
            if delay > 0:
                await asyncio.sleep(delay)
            # From here on, a call that brings no answer may have been paid for at its dearest.
            actual = bound
            reply = await self._send(self.question(messages))
            if reply.status != 200:
                actual = bound if reply.status == 0 else 0.0
                if reply.status == 429:
                    self.throttle.refused()
                return reply
            completion = parse_completion(reply.document())
            self.answered += 1
            self.throttle.accepted()
            prompt_tokens = completion.prompt_tokens or token_bound(size)
            completion_tokens = completion.completion_tokens or len(completion.text.encode())
            actual = self.budget.cost(prompt_tokens, completion_tokens)
            if completion.prompt_tokens:
                self.tokens.learn(size, n_items, completion.prompt_tokens, completion.completion_tokens)
                self.throttle.correct(completion.prompt_tokens + completion.completion_tokens - expected)
            return completion
        finally:
            self.budget.settle(bound, actual)

    async def _send(self, body: dict[str, Any]) -> Reply:
        """One chat completion, no retry: whatever happens, a `Reply`."""
        import aiohttp

        assert self._session is not None
        try:
            async with self._session.post(
                f"{self.settings.base_url}/chat/completions", json=body, allow_redirects=False
            ) as response:
                return Reply(response.status, await response.read(), retry_after(response.headers))
        except aiohttp.ClientConnectorError:
            return Reply(-1)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply(0)

    def identifier(self, found: object) -> str:
        """The id of a file or batch, as the server gave it, if it can be one.

        Raises:
            RecsysError: if not.
        """
        if not isinstance(found, str) or not re.fullmatch(r"[\w.:-]{1,200}", found) or self.redact(found) != found:
            raise self.failure(Reply(200))
        return found

    def failure(self, reply: Reply) -> RecsysError:
        """The end of a run, by status and known code only."""
        return RecsysError(
            f"backend {self.settings.backend}: {self.settings.base_url}, model {self.settings.model}, "
            f"{reply.describe()}.",
            mend="check base_url, model, the key and its quota, then run again: answers so far are kept, none is paid "
            "twice.",
        )

    def _reject(self, reply: Reply) -> None:
        self.rejected += 1
        logger.warning("backend %s: a question failed, the server %s", self.settings.backend, reply.describe())
        if self.rejected >= HOPELESS and not self.answered:
            raise self.failure(reply)

    def _adapt(self, reply: Reply) -> bool:
        error = reply.document().get("error")
        name = error.get("param") if isinstance(error, dict) else None
        if name not in ("max_tokens", "temperature") or reply.code not in (
            "unsupported_parameter",
            "unsupported_value",
        ):
            return False
        self._dropped.add(name)
        return True


def question_size(messages: list[dict[str, str]], settings: LlmSettings) -> int:
    """UTF-8 bytes of a question that count as its tokens: the texts, and the schema that goes with them."""
    return schema_size(settings.response_format) + sum(len(message["content"].encode()) for message in messages)
