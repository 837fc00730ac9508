"""A small HTTP server that speaks the chat-completions format, for tests: it answers, rate-limits, fails or rambles."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Reply = tuple[int, dict[str, str], str]
"""Status, extra headers, and the content of the message (or, for an error status, the text of the error)."""


def one_interest(body: dict[str, Any]) -> str:
    """A good answer: all the numbered items of the question in two interests, the odd and the even numbers."""
    numbers = [int(n) for n in re.findall(r"^(\d+): ", body["messages"][1]["content"], flags=re.M)]
    parts = [numbers[::2], numbers[1::2]]
    clusters = [{"label": f"part {k}", "reason": "r", "items": part} for k, part in enumerate(parts) if part]
    return json.dumps({"clusters": clusters})


class OpenAIServer:
    """Counts requests and answers each with ``reply(number from 0, body, headers)``; good answers by default."""

    def __init__(self, reply: Callable[[int, dict[str, Any], dict[str, str]], Reply] | None = None) -> None:
        self.reply = reply or (lambda number, body, headers: (200, {}, one_interest(body)))
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                status, headers, content = outer.reply(number, body, {k.lower(): v for k, v in self.headers.items()})
                if self.path != "/v1/chat/completions":
                    status, content = 404, "no such path"
                message = {"role": "assistant", "content": content}
                document: dict[str, Any] = {
                    "id": f"chatcmpl-{number}",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                }
                if status != 200:
                    document = {"error": {"message": content, "type": "error"}}
                data = json.dumps(document).encode()
                with outer._lock:
                    outer.in_flight -= 1
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
