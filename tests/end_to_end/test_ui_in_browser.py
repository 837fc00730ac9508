"""The UI as people use it: `recsys-dagster ui` and a headless Chromium that looks, clicks and reads.

``RECSYS_SCREENSHOTS=docs`` keeps the pictures of the documentation; without it they go to a temporary folder.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg
import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket: pip install websockets")

import chromium  # beside this file
from services import free_ports

pytestmark = [
    pytest.mark.skipif(not chromium.COMMAND, reason="no Chromium here: on Debian, apt install chromium"),
    pytest.mark.timeout(900),  # the first test here may be the one that makes the home
]

NOISE = re.compile(r"\b(WARNING|ERROR|CRITICAL|Warning|Traceback)\b")
NOT_OURS = ("WebSocket is closed before the connection is established", "go.apollo.dev/c/err")
"""What Dagster's own pages say in the console: when a test goes on before they have connected, and of their cache."""

PHONE = {"width": 375, "height": 812, "ratio": 2, "phone": True}


class Ui:
    """The running UI, its address and what it says."""

    def __init__(self, home) -> None:
        self.home, self.log = home, home.folder / "ui.log"
        (port,) = free_ports(1)
        self.address, self.reports = f"http://127.0.0.1:{port}", home.env["RECSYS_REPORTS_URL"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recsys_dagster.cli", "ui", "--port", str(port)],
                env=home.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        chromium.Page.wait(self.answers, "the UI to answer", 240)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.address}/server_info", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(scope="module")
def ui(home):
    ui = Ui(home)
    yield ui
    ui.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    page = chromium.Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    wanted = os.environ.get("RECSYS_SCREENSHOTS")
    return Path(wanted) if wanted else tmp_path_factory.mktemp("pictures")


@pytest.fixture(autouse=True)
def clean(page):
    """Every page that a test opens must be quiet, and ask this machine alone."""
    page.errors.clear()
    page.requests.clear()
    page.screen(1600, 900)
    yield
    assert [error for error in page.errors if not any(words in error for words in NOT_OURS)] == []
    elsewhere = [each for each in page.requests if not re.match(r"(http://127\.0\.0\.1:|data:|blob:|about:)", each)]
    assert elsewhere == []


def node_of(name: str) -> str:
    """An expression for the box of a group or an asset in the graph."""
    return (
        '[...document.querySelectorAll("foreignObject > *")].find('
        f"each => each.innerText.trim().split(/\\s/)[0] === {json.dumps(name)})"
    )


def middle_of_group(page, name: str) -> float:
    """Where a group stands in the graph, from left to right; 0 while it is not there."""
    return page.run(
        "(node => { if (!node) return 0; const box = node.getBoundingClientRect(); return box.left + box.width / 2; })"
        f"({node_of(name)})"
    )


def test_lineage_reads_from_left_to_right(ui, page, pictures):
    page.open(f"{ui.address}/asset-groups", "evaluation", 120)
    page.wait(lambda: middle_of_group(page, "evaluation"), "the graph")
    page.wait(lambda: "fetching" not in page.run("document.body.innerText"), "the state of the assets")
    groups = ("data", "baselines", "comparisons", "g2rec", "larmi", "evaluation")
    place = {name: middle_of_group(page, name) for name in groups}
    assert place["data"] < place["baselines"] < place["g2rec"] < place["evaluation"], place
    assert place["data"] < place["larmi"] < place["evaluation"], place
    assert place["data"] < place["comparisons"] < place["evaluation"], place
    page.screen(2200, 1000, ratio=0.75)
    page.click(node_of("g2rec"), "the group")
    page.see(f"!!{node_of('soft_memberships')}", "its assets")
    page.call("Page.reload")  # the graph keeps what is open, and fits into the screen again
    page.see(f"!!{node_of('g2rec_model')}", "all of its assets")
    page.wait(lambda: "fetching" not in page.run("document.body.innerText"), "the state of the assets")
    time.sleep(2)
    page.picture(pictures / "lineage.png")


def test_asset_page_tells_its_story(ui, page):
    page.open(f"{ui.address}/assets/soft_memberships", "Row count", 120)
    for words in (
        "G2Rec, Eq. 3-4", "p_i = softmax(field_i / T)", "Share of the item that belongs to it", "recsys", "g2rec",
        "numba", "level_0_q_soft", "auc_soft", ui.reports,
    ):  # fmt: skip
        page.see(f"document.body.innerText.includes({json.dumps(words)})", words, 20)
    leaves = "[...document.querySelectorAll('*')].filter(each => !each.children.length)"
    page.click(f"{leaves}.find(each => each.textContent === '[Show Markdown]')", "the link to a picture")
    page.see("[...document.images].some(each => /^data:image.png/.test(each.src) && each.naturalWidth)", "a picture")


def materializations(home, asset: str) -> int:
    with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=["sample"])
        return len(instance.fetch_materializations(wanted, limit=100).records)


def test_materialize_from_the_ui(ui, page, home, pictures):
    before = materializations(home, "user_cliques")
    page.open(f"{ui.address}/assets/user_cliques?view=partitions&partition=sample", "items_per_clique", 120)
    page.click(page.button("Materialize"), "the button")
    launch = page.button("Launch 1 run")
    page.click(launch, "the launch")
    page.see(f"!{launch}", "the dialog to close", 30)
    page.wait(lambda: materializations(home, "user_cliques") == before + 1, "the materialization", 240)
    with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        run = instance.get_runs(limit=1)[0]
        page.wait(lambda: instance.get_run_by_id(run.run_id).is_finished, "the run to end", 120)
        assert instance.get_run_by_id(run.run_id).is_success
        assert instance.get_run_by_id(run.run_id).tags["recsys/dataset"] == "sample"
    page.open(f"{ui.address}/assets/user_cliques?view=checks", "Latest execution", 120)
    page.see("document.body.innerText.includes('Passed')", "the check")
    assert "The items of a clique are the train items of its members." in page.run("document.body.innerText")
    page.open(f"{ui.address}/assets/user_cliques", "Row count", 120)
    page.click(page.button("Plots"), "the plots")
    page.click(page.button("Events", "button"), "plots over time")
    page.see(
        "document.body.innerText.includes('items_per_clique') && document.querySelectorAll('canvas').length > 2",
        "plots",
    )
    time.sleep(0.5)
    page.screen(1600, 1150)
    page.picture(pictures / "materialize.png")


def drawn(page) -> str:
    """What the map shows, as a text that tells two pictures apart."""
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return hashlib.sha256(page.run("document.getElementById('canvas').toDataURL()").encode()).hexdigest()


def colours(page) -> int:
    """Different colours on the map, rounded to sixteenths."""
    return page.run(
        """(() => { const canvas = document.getElementById("canvas"), seen = new Set();
        // of a copy: Chromium complains where a canvas that is not made for it is read again and again
        const copy = Object.assign(document.createElement("canvas"), {width: canvas.width, height: canvas.height});
        const pen = copy.getContext("2d", {willReadFrequently: true});
        pen.drawImage(canvas, 0, 0);
        const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
        for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] > 250)
            seen.add([0, 1, 2].map(part => pixels[at + part] >> 4).join());
        return seen.size; })()"""
    )


def label_with(page, word: str) -> bool:
    """Whether the panel lists a prototype with this word in its label, and its number of items."""
    listed = page.run("[...document.querySelectorAll('#panel .pick')].map(each => each.innerText)")
    return any(re.search(rf"\b{word}\b.*\d$", each, re.DOTALL) for each in listed)


def test_report_is_linked_and_its_map_responds(ui, page, pictures):
    page.open(f"{ui.address}/assets/interest_report?view=partitions&partition=sample", "characters", 120)
    link = page.see("[...document.links].map(each => each.href).find(each => /sample.html$/.test(each))", "the link")
    assert link == f"{ui.reports}/sample.html"
    page.screen(1280, 1090)
    page.open("about:blank", "")  # Dagster's page asks for its own things until it is left
    page.requests.clear()
    page.open(link, "Leaderboard")
    page.see("document.querySelectorAll('#panel .pick').length > 3", "the prototypes")
    page.wait(lambda: colours(page) > 20, "the map to be drawn")
    time.sleep(0.3)
    page.picture(pictures / "report.png")
    whole = drawn(page)

    page.click("document.querySelector('#panel .pick')", "the first prototype")
    label = page.run("document.querySelector('#panel h3').innerText")
    assert label in page.run("document.getElementById('said').innerText")
    assert "items" in page.run("document.querySelector('#panel .note').innerText")
    chosen = drawn(page)
    assert chosen != whole
    page.click("document.querySelector('#panel .back')", "back")
    assert drawn(page) == whole

    page.run("document.getElementById('search').focus()")
    page.call("Input.insertText", text="coffee")
    assert label_with(page, "coffee")
    page.run("document.getElementById('search').select()")
    page.call("Input.insertText", text="ESPRESSO  beans")
    found = page.run("[...document.querySelectorAll('#panel h4 ~ .pick')].map(each => each.innerText)")
    assert found
    assert all("espresso" in each.lower() and "beans" in each.lower() for each in found)
    page.click("document.querySelector('#panel h4 ~ .pick')", "the first item found")
    assert page.run("document.querySelector('#panel h3').innerText") == found[0]
    assert page.run("document.querySelectorAll('#panel h4').length") == 3  # a list of prototypes a level

    # The map flew to the item, so it is in the middle; the pointer over it shows its name.
    box = page.run("document.getElementById('canvas').getBoundingClientRect().toJSON()")
    left, top = box["left"], box["top"]
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + box["width"] / 2, y=top + box["height"] / 2)
    page.see("!document.getElementById('tip').hidden", "the name under the pointer", 10)
    assert page.run("document.getElementById('tip').innerText").startswith(found[0])

    # By keyboard, by wheel, by hand.
    page.run("document.getElementById('canvas').focus()")
    for key in ("+", "ArrowLeft", "-"):
        before = drawn(page)
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        assert drawn(page) != before, key
    before = drawn(page)
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=left + 200, y=top + 200, deltaX=0, deltaY=-300)
    page.wait(lambda: drawn(page) != before, "the wheel to zoom", 10)
    before = drawn(page)
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=left + 200, y=top + 200, button="left", clickCount=1)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + 260, y=top + 240, button="left", buttons=1)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", x=left + 260, y=top + 240, button="left")
    assert drawn(page) != before
    page.click("document.getElementById('zoom-all')", "show all")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert drawn(page) == whole
    assert page.requests == [link]
    assert page.errors == []


def test_report_on_a_phone_in_dark_mode(ui, page, pictures):
    link = f"{ui.reports}/sample.html"
    page.screen(**PHONE)
    page.open(link, "Leaderboard")
    light = page.run("getComputedStyle(document.body).backgroundColor"), drawn(page)
    page.screen(**PHONE, dark=True)
    page.see(f"getComputedStyle(document.body).backgroundColor !== {json.dumps(light[0])}", "dark colours", 10)
    page.wait(lambda: drawn(page) != light[1], "a dark map", 10)
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run("document.documentElement.scrollWidth") == 375
    wide = page.run(
        """[...document.querySelectorAll("main *")].filter(each => each.getBoundingClientRect().right > 376
        && !each.closest(".wide")).map(each => each.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    page.open(link, "Leaderboard")
    time.sleep(0.3)
    page.picture(pictures / "report-dark-phone.png")
    assert page.errors == []
    # A tap on a prototype's name, as a thumb does it.
    page.click("document.querySelectorAll('#panel .pick')[1]", "a prototype")
    assert page.run("document.querySelector('#panel h3').innerText")


def test_report_can_be_used_without_seeing_it(ui, page):
    page.open(f"{ui.reports}/sample.html", "Leaderboard")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    told = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")}
    names = {role: [name for kind, name in told if kind == role] for role in ("button", "link", "searchbox", "heading")}
    assert all(name.strip() for kind in ("button", "link", "searchbox") for name in names[kind]), names
    assert "Find items and prototypes" in names["searchbox"]
    assert {"Map of interests", "Leaderboard", "Nights"} <= set(names["heading"])
    assert any(role == "application" and "Arrow keys move" in name for role, name in told)
    # Everything that can be clicked can be reached by the tabulator.
    assert page.run("[...document.querySelectorAll('button, a, input, summary, canvas')].every(e => e.tabIndex >= 0)")


def test_the_services_said_nothing_bad(ui):
    lines = ui.log.read_text(encoding="utf-8", errors="replace").splitlines()
    assert [line for line in lines if NOISE.search(line)] == []
    assert any("Interest reports are at" in line for line in lines)
