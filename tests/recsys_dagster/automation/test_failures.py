import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import dagster as dg
import pytest

from recsys_dagster.automation.failures import alert, as_text, failure_of, run_failed
from recsys_dagster.errors import RecsysError

FAILURE = {"dataset": "shop", "job": "refresh", "reason": "source changed", "run_id": "abc", "errors": ["a: <b> & c"]}


class Hook(BaseHTTPRequestHandler):
    told: ClassVar[list[dict]] = []
    answer: ClassVar[int] = 200

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook():
    handler = type("OwnHook", (Hook,), {"told": [], "answer": 200})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/services/T0/s3cret"
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def addresses(monkeypatch):
    for name in ("RECSYS_ALERT_WEBHOOK", "RECSYS_SLACK_WEBHOOK", "RECSYS_UI_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_webhook_and_slack_are_told(hook, addresses, caplog):
    addresses.setenv("RECSYS_ALERT_WEBHOOK", hook.url)
    addresses.setenv("RECSYS_SLACK_WEBHOOK", hook.url)
    alert(FAILURE, logging.getLogger("alarm"))
    told, slack = hook.told
    assert told == FAILURE
    text = "refresh of shop (source changed) failed, run abc\na: &lt;b&gt; &amp; c"
    assert slack == {"text": text}  # a title in an error cannot put a link into Slack
    assert caplog.messages == [as_text(FAILURE)]


@pytest.mark.parametrize("answer", [404, None])
def test_an_address_never_shows_even_where_it_fails(hook, addresses, caplog, answer):
    hook.answer = answer or 200
    url = hook.url if answer else "gopher://s3cret.invalid/s3cret"
    addresses.setenv("RECSYS_SLACK_WEBHOOK", url)
    alert(FAILURE, logging.getLogger("alarm"))
    assert "could not be delivered to the address in RECSYS_SLACK_WEBHOOK: " in caplog.messages[1]
    assert ("HTTPError 404" if answer else "not an http(s) address") in caplog.messages[1]
    assert "s3cret" not in caplog.text


def test_without_addresses_the_log_is_told(addresses, caplog):
    alert(FAILURE, logging.getLogger("alarm"))
    assert len(caplog.messages) == 1


def test_a_failed_run_in_words(addresses):
    addresses.setenv("RECSYS_UI_URL", "http://127.0.0.1:3000/")

    @dg.asset
    def broken() -> None:
        raise RecsysError("file x is empty.", mend="fill it.")

    @dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="unsound", blocking=True)])
    def unsound():
        yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, description="it is not")])

    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [broken, unsound], instance=instance, raise_on_error=False, tags={"dagster/partition": "shop"}
        )
        (event,) = [event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE"]
        context = dg.build_run_status_sensor_context(
            "run_failed", event, instance, instance.get_run_by_id(result.run_id)
        ).for_run_failure()
        found = failure_of(context)
    assert found["dataset"] == "shop"
    assert found["errors"] == [
        "check failed: unsound: sound: it is not", "broken: file x is empty. To mend: fill it."
    ]  # fmt: skip
    assert found["page"] == f"http://127.0.0.1:3000/runs/{result.run_id}"


def test_the_alarm_is_on_by_itself():
    assert run_failed.default_status == dg.DefaultSensorStatus.RUNNING
