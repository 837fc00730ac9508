"""The alarm: a failed run is told to the log, to a webhook and to Slack, as far as the environment names them."""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

import dagster as dg

WEBHOOK_ENVIRONMENT = "RECSYS_ALERT_WEBHOOK"
SLACK_ENVIRONMENT = "RECSYS_SLACK_WEBHOOK"
UI_ENVIRONMENT = "RECSYS_UI_URL"
TIMEOUT_S = 10.0

_PREFIX = re.compile(r"^[\w.]*\b\w*(?:Error|Exception|Failure): ")


def one_line(error: Any) -> str:
    """What went wrong, in one line: what says how to mend it if the chain has that, else the outermost not Dagster's.

    Args:
        error: a serialized error of Dagster (``cls_name``, ``message``, ``cause``).
    """
    chain = []
    while error is not None:
        chain.append(error)
        error = error.cause
    ours = [link for link in chain if " To mend: " in str(link.message)]
    users = [link for link in chain if not str(link.cls_name).startswith("Dagster")]
    link = (ours or users or chain)[0]
    text = " ".join(str(link.message).split())
    return _PREFIX.sub("", text) if ours else f"{link.cls_name}: {_PREFIX.sub('', text)}"


def failure_of(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """What is told of a failed run: dataset, job, run, errors (one line for each failed check and step), its page."""
    run, errors = context.dagster_run, []
    for record in context.instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event is not None else None
        if check is not None and not check.passed and check.blocking:
            name = f"{check.asset_key.to_user_string()}: {check.check_name}"
            errors.append(f"check failed: {name}: {check.description or 'no description'}")
    for event in context.get_step_failure_events():
        text = one_line(event.step_failure_data.error)
        if "DagsterAssetCheckFailedError" not in text:
            errors.append(f"{event.step_key}: {text}")
    page = os.environ.get(UI_ENVIRONMENT, "").rstrip("/")
    return {
        "dataset": run.tags.get("dagster/partition", ""),
        "job": run.job_name,
        "reason": run.tags.get("recsys/reason", ""),
        "run_id": run.run_id,
        "errors": errors or [" ".join(str(context.failure_event.message).split())],
        **({"page": f"{page}/runs/{run.run_id}"} if page else {}),
    }


def as_text(failure: Mapping[str, Any]) -> str:
    """A failure in a few lines, for people."""
    why = f" ({failure['reason']})" if failure["reason"] else ""
    head = f"{failure['job']} of {failure['dataset'] or 'no partition'}{why} failed, run {failure['run_id']}"
    return "\n".join([head, *failure["errors"], *([failure["page"]] if "page" in failure else [])])


def alert(failure: Mapping[str, Any], log: logging.Logger) -> None:
    """Tell a failure to the log and to the addresses that the environment names.

    An address is a secret: it stands in no message, and neither does what a failed delivery says of it.
    """
    log.error(as_text(failure))
    for variable, payload in (
        (WEBHOOK_ENVIRONMENT, dict(failure)),
        (SLACK_ENVIRONMENT, {"text": _escaped(as_text(failure))}),
    ):
        address = os.environ.get(variable)
        if address:
            problem = _post(address, payload)
            if problem is not None:
                log.error(f"The alarm could not be delivered to the address in {variable}: {problem}.")


def _escaped(text: str) -> str:
    """Slack reads <, > and & as markup; an error may quote a title that somebody else wrote."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _post(address: str, payload: Mapping[str, Any]) -> str | None:
    """Send JSON; None if it arrived, else the kind of failure, without the address."""
    try:
        if not address.startswith(("https://", "http://")):
            return "it is not an http(s) address"
        body = json.dumps(payload, ensure_ascii=False).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except Exception as error:  # whatever it is, its text may hold the address
        code = getattr(error, "code", None)
        return f"{type(error).__name__}{'' if code is None else f' {code}'}"


@dg.run_failure_sensor(
    name="run_failed",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells every failed run to this sensor's log, to the webhook in RECSYS_ALERT_WEBHOOK (JSON) and to the "
    "Slack webhook in RECSYS_SLACK_WEBHOOK, where these are set.",
)
def run_failed(context: dg.RunFailureSensorContext) -> None:
    """Sound the alarm."""
    alert(failure_of(context), context.log)
