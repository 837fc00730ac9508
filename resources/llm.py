"""Who reads item titles: the local clusterer, or any server that speaks the OpenAI protocol."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from recsys_dagster.larmi.llm.settings import LlmSettings
from resources.storage import home


class LlmResource(LlmSettings, dg.ConfigurableResource):
    """The clusterer behind ``user_clusters`` and ``representative_clusters``.

    ``local`` needs no key and no network. ``openai`` and ``openai_batch`` work with any compatible `base_url`; the key
    is read from the environment variable named by `api_key_env` when a step runs, and is never part of the
    configuration, a log line or metadata. Assets that use it share the pool ``llm``.
    """

    cache: str = Field(
        default="", description="SQLite file with all answers; empty means RECSYS_HOME/cache/llm.sqlite."
    )

    def cache_path(self) -> Path:
        """Where answers are kept, so that none is paid for twice."""
        return Path(self.cache).absolute() if self.cache else home() / "cache" / "llm.sqlite"

    def describe(self) -> dict[str, Any]:
        """Metadata of the backend, without the key."""
        if self.backend == "local":
            return {"llm_backend": "local"}
        return {"llm_backend": self.backend, "llm_model": self.model, "llm_base_url": self.base_url}
