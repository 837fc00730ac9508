"""A headless Chromium driven over its DevTools protocol: what the browser tests need of it, and no more."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

COMMAND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-port=0"
)


class Page:
    """One tab. It records what the console says, what fails, and every address that is asked for."""

    def __init__(self, folder: Path) -> None:
        if not COMMAND:
            raise FileNotFoundError("no chromium")
        profile = folder / "profile"
        self._process = subprocess.Popen(
            [COMMAND, *OPTIONS.split(), f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = profile / "DevToolsActivePort"
        self.wait(lambda: port_file.exists() and port_file.read_text().count("\n"), "the browser to start", 60)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tab = next(each for each in json.load(answer) if each["type"] == "page")
        self._socket = connect(tab["webSocketDebuggerUrl"], max_size=None, compression=None, ping_interval=None)
        self._number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; events that come in between are recorded."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._record(message.get("method", ""), message.get("params", {}))

    def _record(self, event: str, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(f"console.{told['type']}: {json.dumps(told['args'])[:500]}")
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['source']}: {told['entry']['text']} {told['entry'].get('url', '')}")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, a promise awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {json.dumps(answer['exceptionDetails'])[:800]}"
        return answer["result"].get("value")

    @staticmethod
    def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait until something is true, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:.0f} s for {what}")

    def see(self, script: str, what: str, seconds: float = 60) -> Any:
        """Wait until an expression is true."""
        return self.wait(lambda: self.run(script), what, seconds)

    def open(self, address: str, text: str, seconds: float = 60) -> None:
        """Go to an address and wait until a text is shown."""
        self.call("Page.navigate", url=address)
        self.see(f"document.body !== null && document.body.innerText.includes({json.dumps(text)})", text, seconds)

    def screen(self, width: int, height: int, *, dark: bool = False, ratio: float = 1, phone: bool = False) -> None:
        """Size, density and colours of the screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )

    def click(self, script: str, what: str, seconds: float = 60) -> None:
        """Click in the middle of the element that an expression gives, once it is there and stands still."""
        spot = f"""(() => {{ const element = {script}; if (!element || element.disabled) return null;
            element.scrollIntoView({{block: "nearest"}}); const box = element.getBoundingClientRect();
            return box.width ? [box.left + box.width / 2, box.top + box.height / 2] : null; }})()"""
        before = None
        while (now := self.see(spot, what, seconds)) != before:
            before = now
            time.sleep(0.15)
        self.click_at(*now)

    def click_at(self, x: float, y: float) -> None:
        """Click at a place of the screen."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def button(self, words: str, what: str = "button, a, [role=button], [role=menuitem]") -> str:
        """An expression for the visible button or link whose words begin with these."""
        return (
            f"[...document.querySelectorAll({json.dumps(what)})].find(element => element.offsetParent !== null && "
            f"element.innerText.trim().startsWith({json.dumps(words)}))"
        )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write the screen, or the whole page, as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
