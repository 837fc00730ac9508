"""Who reads item titles: the local clusterer, or any server that speaks the OpenAI protocol."""

from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import ConfigDict, Field, field_validator

from resources.storage import home


class LlmResource(dg.ConfigurableResource):
    """The clusterer behind ``user_clusters`` and ``representative_clusters``.

    ``local`` needs no key and no network. ``openai`` works with any compatible `base_url`; its key is read from the
    environment variable named by `api_key_env` when a step runs, and is never part of the configuration, a log line or
    metadata. Assets that use it share the pool ``llm``.
    """

    # A key given where its name belongs must not be repeated in the error, and so in a run's log.
    model_config = ConfigDict(hide_input_in_errors=True)

    backend: Literal["local", "openai"] = Field(
        default="local", description="local, or openai for any compatible server."
    )
    model: str = Field(default="gpt-4o", min_length=1, description="Name of the model at the server.")
    base_url: str = Field(
        default="https://api.openai.com/v1",
        description="Address of the server up to and with /v1, e.g. http://localhost:8000/v1.",
    )
    api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="NAME of the environment variable that holds the key; empty where none is needed.",
    )
    response_format: Literal["json_schema", "json_object"] = Field(
        default="json_schema", description="json_object for servers without structured outputs."
    )
    max_output_tokens: int = Field(default=4_096, ge=64, description="Longest answer, in tokens.")
    max_items: int = Field(default=200, ge=2, description="Items in one question; longer histories are cut and merged.")
    concurrency: int = Field(default=16, ge=1, le=256, description="Requests under way at once.")
    max_retries: int = Field(default=6, ge=0, description="Repeats of a request after a rate limit or a network error.")
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds to wait for one answer.")
    cache: str = Field(
        default="", description="SQLite file with all answers; empty means RECSYS_HOME/cache/llm.sqlite."
    )

    @field_validator("api_key_env")
    @classmethod
    def _name_not_key(cls, value: str) -> str:
        if value and (not value.replace("_", "").isalnum() or value.startswith("sk-")):
            raise ValueError("llm.api_key_env must be the NAME of an environment variable, not a key: OPENAI_API_KEY")
        return value

    def cache_path(self) -> Path:
        """Where answers are kept, so that none is paid for twice."""
        return Path(self.cache).absolute() if self.cache else home() / "cache" / "llm.sqlite"

    def settings(self) -> dict[str, Any]:
        """Everything that a client needs to know, but for the key itself, which it reads from the environment."""
        return self.model_dump(exclude={"backend", "cache"})

    def describe(self) -> dict[str, Any]:
        """Metadata of the backend, without the key."""
        if self.backend == "local":
            return {"llm_backend": "local"}
        return {"llm_backend": "openai", "llm_model": self.model, "llm_base_url": self.base_url}
