"""The clusterer that asks a language model at any endpoint that speaks the OpenAI chat-completions format."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answer_cache import AnswerCache, answer_key
from recsys_dagster.larmi.answers import PROMPT_VERSION, ClusterResult, InterestAnswer, build_messages, validate_answer
from recsys_dagster.larmi.clusters import Catalogue
from recsys_dagster.larmi.local_clusterer import LocalClusterer

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger("recsys_dagster")


class OpenAISettings(BaseModel):
    """Where and how to ask. The key itself is no setting: only the name of the environment variable that holds it."""

    # A password or key put where it does not belong must not be repeated in the error.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str = Field(default="https://api.openai.com/v1", description="address of the API, up to and with /v1")
    model: str = Field(default="gpt-4o", min_length=1, description="name of the model there (the paper's is gpt-4o)")
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="environment variable that holds the key, read when the first call is made; empty for a server "
        "that needs none",
    )
    response_format: Literal["json_schema", "json_object"] = Field(
        default="json_schema", description="json_object for servers without structured outputs"
    )
    max_output_tokens: int = Field(default=4_096, ge=64, description="longest answer, in tokens")
    max_items: int = Field(
        default=200, ge=2, description="items in one question; longer histories are cut and merged by label"
    )
    concurrency: int = Field(default=16, ge=1, description="calls in flight at a time")
    max_retries: int = Field(
        default=6,
        ge=0,
        description="retries after 408, 409, 429, 5xx and lost connections, with back-off and Retry-After",
    )
    timeout_s: float = Field(default=120.0, gt=0, description="seconds that one call may take")

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or "@" in value:
            raise ValueError("base_url must start with http:// or https:// and hold no user or password")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("api_key_env must be the name of an environment variable, not a key")
        return value

    def api_key(self) -> SecretStr:
        """Read the key from the environment.

        Raises:
            RecsysError: if the variable is not set or empty.
        """
        if not self.api_key_env:
            return SecretStr("none")
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise RecsysError(
                f"backend openai: the environment variable {self.api_key_env} (setting api_key_env) is not set.",
                mend=f'export {self.api_key_env}, set api_key_env to "" for a server without keys, or use local.',
            )
        return SecretStr(key)

    def cache_identity(self) -> dict[str, str | int | float]:
        """What, beside the titles, decides the answer; not the address: a server that moved is not paid again."""
        return {
            "model": self.model,
            "prompt": PROMPT_VERSION,
            "temperature": 0,
            "response_format": self.response_format,
            "max_output_tokens": self.max_output_tokens,
        }


class _BrokenAnswer(Exception):
    """An answer that is not what the schema asks for; the text says why, for the model's second try."""


class OpenAIClusterer:
    """Asks a language model once for every distinct list of titles (LARMI, Eq. 1 and 9).

    Answers are kept in a cache on disk as soon as they arrive. An answer that breaks the schema is asked for a second
    time with the error stated; if that breaks too, the local clusterer answers, the result says "fallback", and the
    cache remembers it, so the same titles are not paid for again. A service that refuses the key, does not know the
    model or stops answering ends the run with an error: nothing is answered locally in silence.
    """

    def __init__(self, settings: OpenAISettings, cache_path: Path, fallback: LocalClusterer | None = None) -> None:
        self.settings = settings
        self.cache_path = Path(cache_path)
        self.max_items = settings.max_items
        self.fallback = fallback or LocalClusterer()
        self._counts = {
            "llm_calls": 0, "llm_cached": 0, "llm_second_tries": 0, "llm_fallbacks": 0, "prompt_tokens": 0,
            "completion_tokens": 0,
        }  # fmt: skip

    def statistics(self) -> dict[str, int | float]:
        """Calls answered, questions answered by the cache, second tries, fallbacks, tokens in and out."""
        return dict(self._counts)

    def cluster(self, catalogue: Catalogue, batch: Sequence[NDArray[np.int64]]) -> list[ClusterResult]:
        """One result for each list of item ids; equal lists of titles are asked about once.

        Raises:
            RecsysError: if the catalogue has no titles, the key is missing or refused, or the service does not answer.
        """
        if not catalogue.has_titles:
            raise RecsysError(
                "backend openai: the items of this dataset have no titles, so a language model has nothing to read.",
                mend="use backend local, which works on attribute words, or a dataset with titles.",
            )
        titles = [tuple(catalogue.titles[item] or f"(item {item} without title)" for item in ids) for ids in batch]
        keys = [answer_key(self.settings.cache_identity(), own) for own in titles]
        wanted = dict(zip(keys, titles, strict=True))
        with AnswerCache(self.cache_path) as cache:
            answers = cache.get_many(list(wanted))
            self._counts["llm_cached"] += len(answers)
            missing = {key: own for key, own in wanted.items() if key not in answers}
            if missing:
                answers |= _run(self._ask_all(missing, cache))
        results: dict[str, ClusterResult] = {}
        for key, ids in zip(keys, batch, strict=True):
            if key in results:
                continue
            text = answers[key]
            if text is None:
                self._counts["llm_fallbacks"] += 1
                local = self.fallback.cluster(catalogue, [ids])[0]
                results[key] = ClusterResult(local.clusters, "fallback", local.repairs)
            else:
                clusters, repairs = validate_answer(InterestAnswer.model_validate_json(text), len(ids))
                results[key] = ClusterResult(clusters, "openai", repairs)
        return [results[key] for key in keys]

    async def _ask_all(self, missing: dict[str, tuple[str, ...]], cache: AnswerCache) -> dict[str, str | None]:
        from openai import AsyncOpenAI

        key = self.settings.api_key().get_secret_value()
        answers: dict[str, str | None] = {}
        waiting = list(reversed(missing.items()))
        async with AsyncOpenAI(
            api_key=key,
            base_url=self.settings.base_url,
            max_retries=self.settings.max_retries,
            timeout=self.settings.timeout_s,
        ) as client:

            async def work() -> None:
                while waiting:
                    name, titles = waiting.pop()
                    answer, keep = await self._ask(client, titles, key)
                    answers[name] = answer
                    if keep:
                        # At once, so that a killed run has paid for the calls in flight only.
                        cache.put(name, self.settings.model, PROMPT_VERSION, answer)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.settings.concurrency, len(waiting))):
                        group.create_task(work())
            except* RecsysError as errors:
                first = errors.exceptions[0]
                while isinstance(first, BaseExceptionGroup):
                    first = first.exceptions[0]
            else:
                return answers
        # Outside of the handler: no chain of causes, which could carry what the service has said.
        raise first

    async def _ask(self, client: AsyncOpenAI, titles: tuple[str, ...], key: str) -> tuple[str | None, bool]:
        """The answer as canonical JSON, or None for the fallback; and whether the cache should keep it."""
        messages = build_messages(titles)
        for attempt in (1, 2):
            text = await self._complete(client, messages)
            if text is None:
                return None, False
            # A server that echoes its headers must not bring the key into the cache.
            text = text.replace(key, "[key]") if self.settings.api_key_env else text
            try:
                return _parse(text, len(titles)).model_dump_json(), True
            except _BrokenAnswer as problem:
                if attempt == 1:
                    self._counts["llm_second_tries"] += 1
                    messages = [
                        *messages,
                        {"role": "assistant", "content": text[:2_000]},
                        {
                            "role": "user",
                            "content": f"This answer cannot be used: {problem}. Answer again, with JSON only.",
                        },
                    ]
        logger.warning("backend openai: two unusable answers in a row; the local clusterer answers for this user")
        return None, True

    async def _complete(self, client: AsyncOpenAI, messages: list[dict[str, str]]) -> str | None:
        """The text of one completion; None if the service rejects this very question.

        Errors are reported by class and status only: what a service says in its error may quote the key.
        """
        import openai

        response_format: Any = {"type": "json_object"}
        if self.settings.response_format == "json_schema":
            schema = {"name": "interests", "strict": True, "schema": _strict_schema()}
            response_format = {"type": "json_schema", "json_schema": schema}
        problem = ""
        try:
            completion = await client.chat.completions.create(
                model=self.settings.model,
                messages=messages,  # type: ignore[arg-type]
                temperature=0,
                max_tokens=self.settings.max_output_tokens,
                response_format=response_format,
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            logger.warning("backend openai: the service rejected a question (status %d)", error.status_code)
            return None
        except openai.APIStatusError as error:
            problem = f"answered {type(error).__name__} (status {error.status_code})"
        except openai.OpenAIError as error:
            problem = f"did not answer ({type(error).__name__})"
        if problem:
            raise RecsysError(
                f"backend openai: {self.settings.base_url}, model {self.settings.model}, {problem}.",
                mend="check base_url, model and the key, then run again: answers so far are kept, none is paid twice.",
            )
        self._counts["llm_calls"] += 1
        if completion.usage is not None:
            self._counts["prompt_tokens"] += completion.usage.prompt_tokens or 0
            self._counts["completion_tokens"] += completion.usage.completion_tokens or 0
        return (completion.choices[0].message.content or "") if completion.choices else ""


def _parse(text: str, n_items: int) -> InterestAnswer:
    try:
        answer = InterestAnswer.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole answer"
        raise _BrokenAnswer(f"{place}: {first['msg']}") from None
    if not any(1 <= number <= n_items for cluster in answer.clusters for number in cluster.items):
        raise _BrokenAnswer(f"it names none of the items 1 to {n_items}")
    return answer


def _strict_schema() -> dict[str, Any]:
    """The schema of `InterestAnswer` as strict structured outputs want it: closed objects, all fields required."""
    schema = InterestAnswer.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part["additionalProperties"] = False
        part.pop("description", None)
    return schema


def _run(task: Coroutine[Any, Any, dict[str, str | None]]) -> dict[str, str | None]:
    """Run to the end, also from inside a running event loop (then in a thread of its own)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(task)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, task).result()
