"""The OpenAI format as it comes over the wire: replies, answers, the schema that is asked for; and the key kept out."""

from __future__ import annotations

import email.utils
import functools
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from recsys_dagster.larmi.answers import InterestAnswer

LONGEST_WAIT_S = 600.0
"""Longest Retry-After that is honoured; a longer one counts as this."""

KNOWN_CODES = frozenset({
    "billing_hard_limit_reached", "context_length_exceeded", "insufficient_quota", "invalid_api_key", "model_not_found",
    "rate_limit_exceeded", "token_limit_exceeded", "unsupported_parameter", "unsupported_value",
})  # fmt: skip
"""Error codes that may be repeated; any other text of a server could quote the key."""

WINDOW = 6
"""Characters of a key in a row that may not appear in anything that is kept."""


@dataclass(frozen=True)
class Reply:
    """What came back: HTTP status (0: nothing came back, -1: nothing was sent), body, and seconds to wait if told."""

    status: int
    body: bytes = b""
    wait_s: float | None = None

    def document(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        """The error code, if it is a known one."""
        error = self.document().get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, str) and code in KNOWN_CODES else ""

    def describe(self) -> str:
        """For an error message: by status and known code only."""
        if self.status <= 0:
            return "did not answer"
        return f"answered with status {self.status}" + (f" ({self.code})" if self.code else "")


@dataclass(frozen=True)
class Completion:
    """The text of an answer, and the tokens that it took (0 where the server did not say)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def parse_completion(document: dict[str, Any]) -> Completion:
    """Text and tokens of a chat completion, whatever the server put there."""
    try:
        text = document["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    usage = document.get("usage")
    prompt, completion = (
        value if isinstance(value := usage.get(name), int) and 0 < value < 10**9 else 0
        for name in ("prompt_tokens", "completion_tokens")
    ) if isinstance(usage, dict) else (0, 0)  # fmt: skip
    return Completion(text if isinstance(text, str) else "", prompt, completion)


def response_format(kind: str) -> dict[str, Any]:
    """The schema of `InterestAnswer` as strict structured outputs want it: closed objects, all fields required."""
    if kind == "json_object":
        return {"type": "json_object"}
    schema = InterestAnswer.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part["additionalProperties"] = False
        part.pop("description", None)
    return {"type": "json_schema", "json_schema": {"name": "interests", "strict": True, "schema": schema}}


@functools.cache
def schema_size(kind: str) -> int:
    """Bytes of the schema that goes with every question."""
    return len(json.dumps(response_format(kind)))


def redact(text: str, key: str) -> str:
    """Replace every stretch of a text that the key holds too, from six characters on (shorter keys are no secret).

    >>> redact("my key is abcdefgh12, or abcdefgh... and abc", "abcdefgh12")
    'my key is [key], or [key]... and abc'
    """
    if not any(key[start : start + WINDOW] in text for start in range(len(key) - WINDOW + 1)):
        return text
    pieces, place = [], 0
    while place < len(text):
        length = 0
        while place + length < len(text) and text[place : place + length + 1] in key:
            length += 1
        if length >= WINDOW:
            pieces.append("[key]")
            place += length
        else:
            pieces.append(text[place])
            place += 1
    return "".join(pieces)


def retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait: Retry-After in seconds or as a date, or retry-after-ms."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if seconds == seconds:
            return min(max(0.0, seconds), LONGEST_WAIT_S)
    return None


def pause(reply: Reply, attempt: int) -> float:
    """Seconds before the next try: what the server asks and up to a tenth more, or 0.5 doubled up to 30, jittered."""
    if reply.wait_s is not None:
        return reply.wait_s * random.uniform(1.0, 1.1)
    return min(0.5 * 2 ** (attempt - 1), 30.0) * random.uniform(0.5, 1.0)
