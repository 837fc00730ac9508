"""Where people read the reports: their address, and the small server that gives them out.

The Dagster UI cannot open a file, so it links to this server. It answers to this machine alone, reads the pages from
the store and changes nothing.
"""

import html
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from resources.storage import AssetStore

DEFAULT_URL = "http://127.0.0.1:3010"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Interest reports</title></head>
<body><h1>Interest reports</h1>{body}</body></html>
"""
SECURITY = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def reports_url() -> str:
    """The address of all reports: ``RECSYS_REPORTS_URL``, or one of this machine."""
    return (os.environ.get("RECSYS_REPORTS_URL") or DEFAULT_URL).rstrip("/")


def report_url(dataset: str) -> str:
    """The address of one dataset's report."""
    return f"{reports_url()}/{dataset}.html"


def stored_reports(store: AssetStore) -> list[str]:
    """Datasets that have a report."""
    folder = store.base() / "interest_report"
    return sorted(path.stem for path in folder.glob("*.html")) if folder.exists() else []


class ReportServer(ThreadingHTTPServer):
    """Serves the stored reports on a loopback address.

    Args:
        store: where they lie.
        host: 127.0.0.1 or localhost.
        port: 0 takes a free one.

    Raises:
        ValueError: the host is not of this machine.
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, store: AssetStore, host: str, port: int) -> None:
        if host not in LOOPBACK:
            raise ValueError(f"reports are served on {', '.join(LOOPBACK)} alone, not on {host!r}: they have no login")
        self.store = store
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version = "recsys-dagster"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the index, a page, or 404."""
        # A page elsewhere may bind its own name to 127.0.0.1; the name in the request gives it away.
        if (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "") not in LOOPBACK:
            self._answer(403, "<p>This server answers to this machine alone.</p>")
            return
        asked = unquote(urlsplit(self.path).path)
        found = re.fullmatch(r"/([\w][\w.-]*)\.html", asked)
        there = stored_reports(self.server.store)
        if asked == "/":
            links = "".join(f'<li><a href="{html.escape(name)}.html">{html.escape(name)}</a></li>' for name in there)
            self._answer(200, f"<ul>{links}</ul>" if links else "<p>No dataset has a report yet.</p>")
        elif found and found[1] in there:
            page = self.server.store.path("interest_report", found[1], ".html")
            self._send(200, page.read_text(encoding="utf-8"))
        else:
            self._answer(404, "<p>There is no such report. <a href='/'>All reports</a></p>")

    def _answer(self, status: int, body: str) -> None:
        self._send(status, INDEX.format(body=body))

    def _send(self, status: int, page: str) -> None:
        contents = page.encode()
        self.send_response(status)
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(contents)), **SECURITY}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(contents)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to Dagster."""
