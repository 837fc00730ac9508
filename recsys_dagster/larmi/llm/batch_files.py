"""Files and batches at the service, each made once."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recsys_dagster.larmi.llm.client import Service
from recsys_dagster.larmi.llm.submissions import Submissions

logger = logging.getLogger("recsys_dagster")

TRANSFER_S = 3_600.0
"""Seconds that a file may take on its way."""

MARK = "recsys_submission"
"""Name in a batch's metadata of the submission that it belongs to."""


class BatchFiles:
    """Uploads, creates, finds and downloads, noting every step in `Submissions`."""

    def __init__(self, service: Service, submissions: Submissions) -> None:
        self.service, self.submissions = service, submissions

    async def upload(self, name: str, lines: Iterable[bytes]) -> None:
        """Upload the file of a planned submission and create its batch."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "questions.jsonl"
            with path.open("wb") as file:
                file.writelines(lines)
            reply = await self.service.request("POST", "/files", data=lambda: _form(path), timeout_s=TRANSFER_S)
        if reply.status != 200:
            raise self.service.failure(reply)
        file_id = self.service.identifier(reply.document().get("id"))
        self.submissions.uploaded(name, file_id)
        await self.create(name, file_id, look_first=False)

    async def create(self, name: str, file_id: str, *, look_first: bool) -> None:
        """Create a batch once: after anything but a clear answer, the service is asked whether it is there."""
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {MARK: name},
        }
        self.submissions.creating(name)
        for _ in range(self.service.settings.max_retries + 1):
            if look_first and (batch_id := await self._find(name)):
                break
            reply = await self.service.send("POST", "/batches", body=body)
            if reply.status == 200:
                batch_id = self.service.identifier(reply.document().get("id"))
                break
            if 400 <= reply.status < 500 and reply.status not in (408, 409, 429):
                self.submissions.finish(name, [])
                raise self.service.failure(reply)
            look_first = True
            await asyncio.sleep(reply.wait_s if reply.wait_s is not None else 1.0)
        else:
            raise self.service.failure(reply)
        self.submissions.created(name, batch_id)
        logger.info("backend openai_batch: %s created", self.service.redact(batch_id))

    async def _find(self, name: str) -> str | None:
        """The batch that carries a submission's id, among the hundreds that were created last."""
        after = ""
        for _ in range(50):
            page = (await self.service.request("GET", f"/batches?limit=100{after}")).document()
            data = [batch for batch in page.get("data") or [] if isinstance(batch, dict)]
            for batch in data:
                if (batch.get("metadata") or {}).get(MARK) == name:
                    return self.service.identifier(batch.get("id"))
            if not data or not page.get("has_more"):
                return None
            after = f"&after={data[-1]['id']}"
        return None

    async def rows(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of both files of a batch that has ended."""
        rows = []
        for name in ("output_file_id", "error_file_id"):
            if not batch.get(name):
                continue
            file = self.service.identifier(batch[name])
            reply = await self.service.request("GET", f"/files/{file}/content", timeout_s=TRANSFER_S)
            if reply.status != 200:
                raise self.service.failure(reply)
            for line in reply.body.splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    rows.append(row)
        return rows


def _form(path: Path) -> Any:
    import aiohttp

    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", path.open("rb"), filename="questions.jsonl", content_type="application/jsonl")
    return form
