"""Logs: secrets are struck out of messages, arguments and tracebacks; JSON lines hold what they should."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.up import LOGGING, prefects
from tasks.doors import forget
from tasks.logs import JsonLines, Redact, secrets_of
from tasks.settings import Settings

SECRETS = {
    "hub_token": "hf-canary-1",
    "webhook_secret": "canary-2-ñ",
    "publish_token": "hf-canary-5",
    "prefect_auth": "operator:canary-3",
    "ledger_url": "postgresql://u:canary-4%2F@db/empelt",
}


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    forget()
    yield
    forget()


@pytest.fixture
def chosen() -> Settings:
    return Settings.model_validate(SECRETS)


def written(record: logging.LogRecord, chosen: Settings, formatter: logging.Formatter) -> str:
    assert Redact(chosen).filter(record)
    return formatter.format(record)


def record_of(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "tasks.hub", "levelname": "INFO", "msg": message, "args": arguments, "created": 1_800_000_000, **more}
    )


@pytest.mark.parametrize("formatter", [logging.Formatter("%(message)s"), JsonLines()])
def test_no_secret_gets_through(chosen: Settings, formatter: logging.Formatter) -> None:
    try:
        raise RuntimeError(f"connecting to {SECRETS['ledger_url']} with {SECRETS['prefect_auth']}")
    except RuntimeError:
        trouble = sys.exc_info()
    parts = " ".join(SECRETS.values())
    told = written(record_of("%s and %s", parts, ["canary-3", "canary-4/"], exc_info=trouble), chosen, formatter)
    assert "canary" not in told
    assert "RuntimeError: connecting to" in told
    assert "***" in told


def test_a_message_whose_arguments_do_not_fit_is_struck_too(chosen: Settings) -> None:
    told = written(record_of("%d of %d", "canary-3"), chosen, logging.Formatter("%(message)s"))
    assert told == "%d of %d ('***',)"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer hf_AbCdEfGhIjKlMnOpQrSt", "Authorization: Bearer ***"),
        ("postgresql://me:pw@db/x", "postgresql://***@db/x"),
        ("http://127.0.0.1:4200/api a:b@c", "http://127.0.0.1:4200/api a:b@c"),
        ("hf_token is not set", "hf_token is not set"),
    ],
)
def test_what_looks_like_a_secret_of_somebody_else_is_struck_out_too(text: str, left: str, chosen: Settings) -> None:
    assert Redact(chosen).struck(text) == left


def test_a_short_secret_does_not_strike_out_words() -> None:
    assert secrets_of(Settings.model_validate({"webhook_secret": "model"})) == []


def test_a_key_with_a_comment_behind_it_is_struck_out_without_the_comment() -> None:
    chosen = Settings.model_validate(
        {"gateway_keys": "anna:s3cr3t-s3cr3t  # laptop\nben:an0ther-0ne:4", "gateway_key": "k" * 9}
    )
    assert {"s3cr3t-s3cr3t", "an0ther-0ne"} <= set(secrets_of(chosen))


def test_a_line_of_json_has_what_there_is_and_nothing_else(chosen: Settings) -> None:
    record = record_of("due: %d", 3, flow_run_id="r-1", flow_run_name="watch", task_run_name="plan", process=7)
    assert json.loads(written(record, chosen, JsonLines())) == {
        "at": "2027-01-15T08:00:00.000+00:00",
        "level": "INFO",
        "logger": "tasks.hub",
        "process": 7,
        "message": "due: 3",
        "run": "r-1",
        "run_name": "watch",
        "task": "plan",
    }


def test_a_message_over_several_lines_is_one_line_of_json(chosen: Settings) -> None:
    assert written(record_of("one\ntwo\r\u2028three"), chosen, JsonLines()).count("\n") == 0


def test_our_processes_write_json_where_it_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import logging; from tasks.logs import set_up_logging; from tasks.settings import settings;"
        "set_up_logging(settings()); logging.getLogger('x').warning('token %s', 'hf-canary-1')"
    )
    for chosen, is_json in (("json", True), ("text", False)):
        environment = {**os.environ, "EMPELT_LOG_FORMAT": chosen, "EMPELT_HUB_TOKEN": "hf-canary-1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert "canary" not in done.stderr
        assert "token ***" in done.stderr
        assert done.stderr.startswith("{") is is_json


def test_prefects_logging_differs_from_its_own_only_in_what_is_ours() -> None:
    import prefect.logging

    theirs = yaml.safe_load((Path(prefect.logging.__file__).parent / "logging.yml").read_text(encoding="utf-8"))
    ours = yaml.safe_load(LOGGING.read_text(encoding="utf-8"))
    assert ours.pop("filters") == {"secrets": {"()": "tasks.logs.Redact"}}
    assert ours["formatters"].pop("empelt") == {"()": "tasks.logs.JsonLines"}
    assert [handler.pop("filters") for handler in ours["handlers"].values()] == [["secrets"]] * len(theirs["handlers"])
    assert ours == theirs


@pytest.mark.parametrize("chosen", ["json", "text"])
def test_prefect_takes_the_file_and_strikes_secrets_out(chosen: str, tmp_path: Path) -> None:
    code = "from prefect import flow; import logging; logging.getLogger('prefect.x').warning('token %s [bold]x', 'hf-canary-1')"
    wanted = Settings.model_validate({"log_format": chosen, "home": tmp_path})
    environment = {**os.environ, **prefects(wanted), "EMPELT_HUB_TOKEN": "hf-canary-1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "canary" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "token" in line]
    if chosen == "json":
        told = json.loads(line)
        assert (told["message"], told["logger"], told["level"]) == ("token *** [bold]x", "prefect.x", "WARNING")
    else:
        assert line.endswith("token *** [bold]x")
