"""Where, how and at what cost to ask. Light to import: the Dagster resource `LlmResource` is made of it."""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import PROMPT_VERSION


class LlmSettings(BaseModel):
    """The backend and its settings. The key itself is no setting: only the name of the variable that holds it."""

    # A password or key put where it does not belong must not be repeated in the error.
    model_config = ConfigDict(hide_input_in_errors=True)

    backend: Literal["local", "openai", "openai_batch"] = Field(
        default="local",
        description="local: no key, no network; openai: chat completions at any compatible server; openai_batch: files "
        "and batches, answered within a day at a lower price.",
    )
    base_url: str = Field(
        default="https://api.openai.com/v1",
        description="Address of the server up to and with /v1, e.g. http://localhost:8000/v1.",
    )
    model: str = Field(
        default="gpt-4o", min_length=1, description="Name of the model at the server (the paper's is gpt-4o)."
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="NAME of the environment variable that holds the key, read when the first call is made; empty for "
        "a server that needs none.",
    )
    response_format: Literal["json_schema", "json_object"] = Field(
        default="json_schema", description="json_object for servers without structured outputs."
    )
    max_output_tokens: int = Field(default=4_096, ge=64, description="Longest answer, in tokens.")
    max_items: int = Field(
        default=200, ge=2, description="Items in one question; longer histories are cut and merged by label."
    )
    concurrency: int = Field(default=16, ge=1, le=1_024, description="Most calls in flight at a time.")
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most calls a minute; without it only the server's own refusals (429) slow down.",
    )
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Most tokens a minute, in and out together.")
    max_retries: int = Field(
        default=6, ge=0, description="Repeats of a call after an error of the server or the network."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds that one call may take.")
    input_price: float = Field(default=0.0, ge=0, description="Price of a million input tokens, in any currency.")
    output_price: float = Field(default=0.0, ge=0, description="Price of a million output tokens, in that currency.")
    spending_cap: float | None = Field(
        default=None,
        gt=0,
        description="Most that one asset of one run may spend, in the currency of the prices; asking stops before it.",
    )
    batch_poll_s: float = Field(default=60.0, gt=0, description="Seconds between two looks at a batch.")

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            raise ValueError("base_url must start with http:// or https:// and hold no user, password or query")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", value):
            raise ValueError(
                "api_key_env must be the NAME of an environment variable in capitals, not a key: OPENAI_API_KEY"
            )
        return value

    @model_validator(mode="after")
    def _cap_has_prices(self) -> LlmSettings:
        if self.spending_cap is not None and not (self.input_price and self.output_price):
            raise ValueError("spending_cap needs input_price and output_price, the prices of a million tokens")
        return self

    def api_key(self) -> SecretStr:
        """Read the key from the environment.

        Raises:
            RecsysError: if the variable is not set or empty, or what it holds cannot be a header.
        """
        if not self.api_key_env:
            return SecretStr("")
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            found = "is not set" if not key else "holds characters that no key has"
            raise RecsysError(
                f"backend {self.backend}: the environment variable {self.api_key_env} (setting api_key_env) {found}.",
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
