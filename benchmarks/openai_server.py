"""A server that speaks the OpenAI format (chat completions, files, batches), for tests and for the benchmark `llm`.

It counts what it is sent, and can be told to be slow, to rate-limit, to fail, to answer rubbish, to hang and to hang
up. As a program (`python -m benchmarks.openai_server --latency-ms 200`) it prints its address and serves until its
standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@dataclass(frozen=True)
class Reply:
    """How to answer one question.

    Attributes:
        content: text of the message, or of the error; a good answer to the question unless given.
        status: HTTP status.
        headers: extra headers.
        delay_s: seconds before the answer.
        hang_up: close the connection without an answer.
        hang: never answer, until the server is closed.
        usage: tokens reported.
        error: more fields of an error.
    """

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang_up: bool = False
    hang: bool = False
    usage: dict[str, int] | None = field(default_factory=lambda: dict(USAGE))
    error: dict[str, str] = field(default_factory=dict)


Rule = Callable[[int, dict[str, Any], dict[str, str]], Reply]
"""From number of the question (from 0), its body and the headers (lower case) to the reply."""


def good_answer(body: dict[str, Any]) -> str:
    """All the numbered items of the question in two interests, the odd and the even numbers."""
    numbers = [int(n) for n in re.findall(r"^(\d+): ", body["messages"][1]["content"], flags=re.M)]
    parts = [numbers[::2], numbers[1::2]]
    clusters = [{"label": f"part {k}", "reason": "r", "items": part} for k, part in enumerate(parts) if part]
    return json.dumps({"clusters": clusters})


def _completion(number: int, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    content = good_answer(body) if reply.content is None else reply.content
    if reply.status != 200:
        return {"error": {"message": content, "type": "error", **reply.error}}
    message = {"role": "assistant", "content": content}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": reply.usage,
    }


@dataclass
class Batch:
    """One batch at the server; `end` is the status that it comes to after so many looks."""

    id: str
    file_id: str
    metadata: dict[str, str]
    looks: int
    end: str
    status: str = "validating"
    output: str | None = None
    errors: str | None = None

    def document(self) -> dict[str, Any]:
        """What the service says about it."""
        problem = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit"}]}
        return {
            "id": self.id, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": self.file_id,
            "completion_window": "24h", "created_at": 0, "status": self.status, "metadata": self.metadata,
            "output_file_id": self.output, "error_file_id": self.errors,
            "errors": problem if self.status == "failed" else None,
        }  # fmt: skip


class OpenAIServer:
    """Serves in a thread of its own while the context is open.

    Attributes:
        rule: decides about every question; good answers by default.
        bodies: every question that came, in order, those in batch files too.
        calls: (method, path) of every upload, creation and list.
        refuse: status of the answer to every upload, creation and list, if not 0.
        fail_first: so many uploads, creations and lists are answered with status 500 first.
        lose_creations: after so many creations of a batch the connection is closed without an answer.
        rubbish: bodies in place of the answers to files and batches, by method and path.
        batch_ends: status that the next batches come to, first in first out; "completed" when used up.
        batch_looks: how often a batch must be looked at before it ends.
    """

    def __init__(self, rule: Rule | None = None) -> None:
        self.rule: Rule = rule or (lambda number, body, headers: Reply())
        self.bodies: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.refuse = self.fail_first = self.lose_creations = 0
        self.rubbish: dict[str, bytes] = {}
        self.batch_ends: list[str] = []
        self.batch_looks = 1
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=256 * 2**20)
        app.on_response_prepare.append(_echo)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create_batch)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._get_batch)
        app.router.add_get("/stats", self._stats)
        self._stop = asyncio.Event()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"questions": len(self.bodies), "most_in_flight": self.most_in_flight})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = await request.json()
            number = len(self.bodies)
            self.bodies.append(body)
            reply = self.rule(number, body, {name.lower(): value for name, value in request.headers.items()})
            if reply.hang:
                assert self._stop is not None
                await self._stop.wait()
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            if (reply.hang_up or reply.hang) and request.transport is not None:
                request.transport.abort()
            return web.json_response(_completion(number, body, reply), status=reply.status, headers=reply.headers)
        finally:
            self.in_flight -= 1

    def _note(self, request: web.Request) -> web.Response | None:
        self.calls.append((request.method, request.path))
        if self.fail_first:
            self.fail_first -= 1
            return web.json_response({"error": {"message": "failed"}}, status=500)
        if not self.refuse:
            return self._rubbish(request)
        echo = request.headers.get("Authorization", "")
        return web.json_response({"error": {"message": f"refused: {echo}"}}, status=self.refuse)

    def _rubbish(self, request: web.Request) -> web.Response | None:
        body = self.rubbish.get(f"{request.method} {request.path}")
        return None if body is None else web.Response(body=body, content_type="application/json")

    async def _upload(self, request: web.Request) -> web.Response:
        if (refused := self._note(request)) is not None:
            return refused
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField)
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = part.file.read()
        return web.json_response({
            "id": file_id, "object": "file", "bytes": len(self.files[file_id]), "created_at": 0,
            "filename": part.filename, "purpose": str(form["purpose"]), "status": "processed",
        })  # fmt: skip

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["id"]], content_type="application/binary")

    async def _create_batch(self, request: web.Request) -> web.Response:
        if (refused := self._note(request)) is not None:
            return refused
        body = await request.json()
        end = self.batch_ends.pop(0) if self.batch_ends else "completed"
        name = f"batch_{len(self.batches)}"
        batch = Batch(name, body["input_file_id"], body.get("metadata") or {}, self.batch_looks, end)
        self.batches[name] = batch
        if self.lose_creations and request.transport is not None:
            self.lose_creations -= 1
            request.transport.abort()
        return web.json_response(batch.document())

    async def _list_batches(self, request: web.Request) -> web.Response:
        if (refused := self._note(request)) is not None:
            return refused
        newest = list(reversed(self.batches.values()))
        after = request.query.get("after")
        if after:
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        page = newest[: int(request.query.get("limit", 20))]
        last = page[-1].id if page else None
        data = [batch.document() for batch in page]
        return web.json_response({"object": "list", "data": data, "has_more": len(newest) > len(page), "last_id": last})

    async def _get_batch(self, request: web.Request) -> web.Response:
        if (rubbish := self._rubbish(request)) is not None:
            return rubbish
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        batch.looks -= 1
        if batch.looks > 0:
            batch.status = "in_progress"
        elif batch.status != batch.end:
            self._end(batch, {name.lower(): value for name, value in request.headers.items()})
        return web.json_response(batch.document())

    def _end(self, batch: Batch, headers: dict[str, str]) -> None:
        """Answer the lines of a batch: all if it is completed, every second if it expires or is cancelled."""
        batch.status = batch.end
        if batch.end == "failed":
            return
        good, bad = [], []
        for place, line in enumerate(self.files[batch.file_id].decode().splitlines()):
            request = json.loads(line)
            row: dict[str, Any] = {"id": f"r{place}", "custom_id": request["custom_id"], "response": None}
            if batch.end != "completed" and place % 2:
                bad.append({**row, "error": {"code": f"batch_{batch.end}", "message": "not executed"}})
                continue
            number = len(self.bodies)
            self.bodies.append(request["body"])
            reply = self.rule(number, request["body"], headers)
            document = _completion(number, request["body"], reply)
            answer = {"status_code": reply.status, "request_id": "x", "body": document}
            (good if reply.status == 200 else bad).append({**row, "response": answer, "error": None})
        for kind, rows in (("output", good), ("errors", bad)):
            if rows:
                name = f"{batch.id}-{kind}"
                self.files[name] = "\n".join(json.dumps(row) for row in rows).encode()
                setattr(batch, kind, name)


async def _echo(request: web.Request, response: web.StreamResponse) -> None:
    """Repeat what a log must not: the key, in a header of the answer."""
    response.headers["X-Echo"] = response.headers["X-Request-Id"] = request.headers.get("Authorization", "")


def _serve_until_closed() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openai_server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="time before every answer")
    delay = parser.parse_args().latency_ms / 1_000
    with OpenAIServer(lambda number, body, headers: Reply(delay_s=delay)) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve_until_closed()
