"""Files and batches at the service, each made once, through the official client."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from recsys_dagster.larmi.llm.client import Service
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.submissions import Submissions
from recsys_dagster.larmi.llm.wire import Reply, pause, retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

logger = logging.getLogger("recsys_dagster")

MARK = "recsys_submission"
"""Name in a batch's metadata of the submission that it belongs to."""

MOST_PAGES = 50
"""Hundreds of batches, the newest first, among which one is looked for."""

T = TypeVar("T")


def open_client(settings: LlmSettings) -> AsyncOpenAI:
    """The official client. It repeats what may be repeated; no operation of the network may stall past `timeout_s`."""
    import openai

    for name in ("openai", "httpx2", "httpcore2"):
        # Below warnings they write down the headers of the server, which may echo the key.
        logging.getLogger(name).setLevel(logging.WARNING)
    return openai.AsyncOpenAI(
        api_key=settings.api_key().get_secret_value() or "none",  # it refuses to be without one
        base_url=settings.base_url,
        timeout=settings.timeout_s,
        max_retries=settings.max_retries,
    )


class BatchFiles:
    """Uploads, creates, finds and downloads, noting every step in `Submissions`."""

    def __init__(self, client: AsyncOpenAI, service: Service, submissions: Submissions) -> None:
        self.client, self.service, self.submissions = client, service, submissions

    async def upload(self, name: str, lines: Iterable[bytes]) -> None:
        """Upload the file of a planned submission and create its batch."""
        with tempfile.TemporaryFile() as content:
            content.writelines(lines)
            content.seek(0)
            file = await self._done(self.client.files.create(file=("questions.jsonl", content), purpose="batch"))
        file_id = self._id(file)
        self.submissions.uploaded(name, file_id)
        await self.create(name, file_id, look_first=False)

    async def create(self, name: str, file_id: str, *, look_first: bool) -> None:
        """Create a batch once: after anything but a clear answer, the service is asked whether it is there."""
        once = self.client.with_options(max_retries=0).batches
        self.submissions.creating(name)
        for attempt in range(1, self.service.settings.max_retries + 2):
            if look_first and (batch_id := await self._find(name)):
                break
            made = await _reply(
                once.create(
                    input_file_id=file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={MARK: name},
                )
            )
            if not isinstance(made, Reply):
                batch_id = self._id(made)
                break
            if 400 <= made.status < 500 and made.status not in (408, 409, 429):
                self.submissions.finish(name, [])
                raise self.service.failure(made)
            look_first, lost = True, made
            await asyncio.sleep(pause(lost, attempt))
        else:
            raise self.service.failure(lost)
        self.submissions.created(name, batch_id)
        logger.info("backend openai_batch: %s created", batch_id)

    async def look(self, batch_id: str) -> Batch | None:
        """A batch as it is now; None if the service does not know it."""
        found = await _reply(self.client.batches.retrieve(batch_id))
        if isinstance(found, Reply):
            if found.status == 404:
                return None
            raise self.service.failure(found)
        self._id(found)
        return found

    async def rows(self, batch: Batch) -> list[dict[str, Any]]:
        """The lines of both files of a batch that has ended."""
        rows = []
        for name in (batch.output_file_id, batch.error_file_id):
            if not name:
                continue
            reply = await self._done(self.client.files.content(self.service.identifier(name)))
            for line in reply.content.splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    rows.append(row)
        return rows

    async def _find(self, name: str) -> str | None:
        """The batch that carries a submission's id."""

        async def search() -> Batch | None:
            page = await self.client.batches.list(limit=100)
            for _ in range(MOST_PAGES):
                # Not the client's own loop, which takes a page without a list of batches for the end.
                for batch in page.data:
                    if (batch.metadata or {}).get(MARK) == name:
                        return batch
                if not page.has_next_page():
                    break
                page = await page.get_next_page()
            return None

        batch = await self._done(search())
        return None if batch is None else self._id(batch)

    async def _done(self, call: Awaitable[T]) -> T:
        found = await _reply(call)
        if isinstance(found, Reply):
            raise self.service.failure(found)
        return found

    def _id(self, found: object) -> str:
        return self.service.identifier(getattr(found, "id", None))


async def _reply(call: Awaitable[T]) -> T | Reply:
    """What a call brings, or how it failed: the client's own errors quote the server, which may quote the key."""
    import openai

    try:
        return await call
    except openai.APIStatusError as error:
        return Reply(error.status_code, error.response.content, retry_after(error.response.headers))
    except openai.APIConnectionError:
        return Reply(0)
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):
        # The client does not check what it reads, and trips over what is not in the format.
        return Reply(200)
