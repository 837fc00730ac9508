"""What the tests of the language-model clusterers share: users, items, settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.openai_server import OpenAIServer
from recsys_dagster.larmi.llm.batch import OpenAIBatchClusterer
from recsys_dagster.larmi.llm.openai import OpenAIClusterer
from recsys_dagster.larmi.llm.settings import LlmSettings

KEY = "test-secret-8c1f0e7d2b"
USERS = [(user, [user, user + 1, user + 2, user + 3]) for user in range(20)]


def users(n: int) -> list[tuple[int, list[int]]]:
    return [(user, [user, user + 1, user + 2, user + 3]) for user in range(n)]


def items(n: int, prefix: str = "title") -> pd.DataFrame:
    titles = [f"{prefix} {k}" for k in range(n)]
    return pd.DataFrame({"item_id": np.arange(n), "title": titles, "text": titles})


def settings(server: OpenAIServer, **changes: object) -> LlmSettings:
    values = {"backend": "openai", "base_url": server.url, "model": "m", "api_key_env": "TEST_LLM_KEY"}
    return LlmSettings(**(values | {"max_retries": 3, "batch_poll_s": 0.01} | changes))


def clusterer(server: OpenAIServer, cache: Path, **changes: object) -> OpenAIClusterer:
    return OpenAIClusterer(settings(server, **changes), cache)


def batch_clusterer(server: OpenAIServer, cache: Path, **changes: object) -> OpenAIBatchClusterer:
    return OpenAIBatchClusterer(settings(server, backend="openai_batch", **changes), cache)
