"""`empelt demo`: the whole way once, for real: v1 on a local Hub goes live, v2 is pushed, the watch does the rest.

Nothing here merges, judges or publishes: it brings the installation up, pushes to the Hub as a lab would, waits, asks
the endpoint, and writes down what happened.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deployments.demo_report import demo_report
from deployments.supervisor import Child, Supervisor, require_free
from deployments.up import answers, bring_up, keep_up
from infra.local_hub.push import push_folder
from tasks.domain.errors import EndpointUnavailable, PipelineError
from tasks.domain.models import ChannelState, Evaluation
from tasks.doors import open_catalog, open_ledger, open_source, open_store
from tasks.settings import ROOT, Settings, settings

FAMILY, TARGET, CHANNEL, ORGANIZATION = "llama-tiny", "eu", "eu", "empelt-demo"
MODELS = ROOT / "infra" / "demo_family" / "models"
EVALUATIONS = ROOT / "infra" / "demo_family" / "evaluations"
QUESTION = "Zein hiri da Herbehereak herrialdeko hiriburua?"
"""Which city is the capital of the Netherlands? v1 x eu and the instruct parent are wrong, v2 x eu says Amsterdam."""
HUB_PORT = int(os.environ.get("EMPELT_DEMO_HUB_PORT", "8710"))
DEADLINE_SECONDS = 900


def demo_settings() -> Settings:
    """An installation of its own below .empelt/demo, whose Hub is on this machine."""
    home = Path(os.environ.get("EMPELT_HOME", ".empelt/demo"))
    chosen = {
        "HOME": str(home),
        "FAMILIES": FAMILY,
        "HUB_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
        "WATCH_INTERVAL_SECONDS": os.environ.get("EMPELT_WATCH_INTERVAL_SECONDS", "20"),
        "SETTLE_SECONDS": "0",
    }
    os.environ.update({f"EMPELT_{name}": value for name, value in chosen.items()})
    for cached in (settings, open_catalog, open_ledger, open_store, open_source):
        cached.cache_clear()
    return settings()


def hub_child(home: Path) -> Child:
    """The local Hub as one more child of the installation."""
    arguments = ["-m", "infra.local_hub", "--root", str(home / "hub"), "--port", str(HUB_PORT)]
    return Child(
        "hub", [sys.executable, *arguments], is_ready=lambda: answers(f"http://127.0.0.1:{HUB_PORT}/api/models")
    )


def push(home: Path, model: str) -> str:
    """Push one model of the demo family, as a lab would; the new revision."""
    return push_folder(home / "hub", f"{ORGANIZATION}/{model}", MODELS / model, f"Upload {model}")


def play(*, console: Console, as_json: bool, then: str, stay: bool, record: bool = False) -> int:
    """Run the demo; the exit code of ``then``, or 0. ``record`` measures the parents anew and keeps their scores."""
    chosen = demo_settings()

    def say(line: str) -> None:
        console.print(f"[dim]{line}[/dim]", highlight=False)

    _forget_last_time(chosen.home, say)
    require_free("127.0.0.1", HUB_PORT, "the local Hub")
    for model in ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1"):
        push(chosen.home, model)
    for path in [] if record else sorted(EVALUATIONS.glob("*.json")):
        open_ledger().record_evaluation(Evaluation.model_validate_json(path.read_text(encoding="utf-8")))
    began = time.monotonic()
    with bring_up(chosen, say, hub=hub_child(chosen.home)) as installation:
        console.print(f"[bold]UI[/bold] {chosen.prefect_url}   [bold]endpoint[/bold] {chosen.gateway_url}/v1")
        first = wait_for(f"{ORGANIZATION}/{FAMILY}-instruct-v1", console)
        before = ask(chosen.gateway_url, CHANNEL, QUESTION)
        say(f"v1 x eu is live ({time.monotonic() - began:.0f} s): {QUESTION} -> {before}")
        pushed_at = datetime.now(UTC)
        revision = push(chosen.home, f"{FAMILY}-instruct-v2")
        say(
            f"pushed {ORGANIZATION}/{FAMILY}-instruct-v2@{revision[:12]}; "
            f"the watch looks every {chosen.watch_interval_seconds} s"
        )
        second = wait_for(f"{ORGANIZATION}/{FAMILY}-instruct-v2", console)
        after = ask(chosen.gateway_url, CHANNEL, QUESTION)
        parent = ask_parent(chosen.gateway_url, second, QUESTION)
        report = demo_report(
            chosen,
            states=[first, second],
            pushed_at=pushed_at,
            answers={"question": QUESTION, "before": before, "after": after, "instruct parent": parent},
            up_seconds=installation.seconds,
            seconds=time.monotonic() - began,
        )
        (chosen.home / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        if as_json:
            sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
        else:
            show(console, report)
        if record:
            keep_parents([first, second], say)
        if then:
            return subprocess.run(then, shell=True, env={**os.environ, "EMPELT_DEMO_PID": str(os.getpid())}).returncode
        if stay:
            console.print("All stays up until Ctrl-C.")
            keep_up(installation, say)
    return 0


def _forget_last_time(home: Path, say: Callable[[str], None]) -> None:
    """Start from nothing: end what an earlier demo left, and remove its folder."""
    if not home.exists():
        return
    supervisor = Supervisor(home)  # refuses if another demo is up in this home
    for name in supervisor.end_leftovers():
        say(f"ended {name}, left by an earlier demo")
    supervisor.stop()
    for path in home.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)  # artifacts are read-only folders
    shutil.rmtree(home)


def wait_for(repo_id: str, console: Console) -> ChannelState:
    """Wait until the channel serves a merge of ``repo_id`` and the gateway has said so.

    Raises:
        PipelineError: if the job ended otherwise, with its reason.
    """
    ledger, deadline = open_ledger(), time.monotonic() + DEADLINE_SECONDS
    with console.status("waiting for the watch") as line:
        while time.monotonic() < deadline:
            state = ledger.channel(CHANNEL)
            if state and state.release.repo_id == repo_id and state.acknowledged_generation >= state.generation:
                return state
            release = next((r for r in ledger.releases(FAMILY) if r.ref.repo_id == repo_id), None)
            claims = [c for c in ledger.live_claims() if repo_id.split("/")[1] in str(c.description.get("name"))]
            verdicts = [v for v in ledger.verdicts(FAMILY, TARGET) if v.outcome != "passed"]
            if verdicts and not claims and release:
                raise PipelineError(f"{repo_id} was not published: {verdicts[0].payload.get('reasons')}")
            line.update(
                f"{repo_id}: "
                + ("seen, " if release else "not seen yet")
                + (f"job claimed (attempt {claims[0].attempt})" if claims else "")
            )
            time.sleep(0.5)
    raise EndpointUnavailable(f"{repo_id} was not live after {DEADLINE_SECONDS} s; look at {settings().prefect_url}")


def ask(gateway: str, model: str, question: str) -> str:
    """One chat question to the endpoint; the answer."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
    response = httpx.post(f"{gateway}/v1/chat/completions", json=body, timeout=60)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


def ask_parent(gateway: str, state: ChannelState, question: str) -> str:
    """The instruct parent's answer to the same question, from an instance put up for the purpose."""
    from tasks.stage import REFERENCE, staged

    lineage = open_ledger().lineage(state.artifact_digest)
    assert lineage is not None  # every promoted artifact of this demo was merged here
    with staged(FAMILY, lineage.digest_of("instruct"), REFERENCE, state.release) as ready:
        return ask(gateway, ready.model, question)


def keep_parents(states: list[ChannelState], say: Callable[[str], None]) -> None:
    """Write the parents' scores, item by item, to where the next demo finds them by their eval_key."""
    EVALUATIONS.mkdir(exist_ok=True)
    for path in EVALUATIONS.glob("*.json"):
        path.unlink()
    for state in states:
        lineage = open_ledger().lineage(state.artifact_digest)
        for ingredient in lineage.ingredients if lineage else ():
            for found in open_ledger().evaluations_of(ingredient.digest):
                path = EVALUATIONS / f"{ingredient.ref.slug}.json"
                path.write_text(found.model_dump_json() + "\n", encoding="utf-8")
                say(f"kept {path.name}, eval_key {found.eval_key[:12]}")


def show(console: Console, report: dict[str, Any]) -> None:
    """The end of the demo, for people."""
    shown = ("benchmark", "score", "limit", "instruct", "tuned", "live", "verdict")
    table = Table(*shown, title="The gate of v2 x eu (live: v1 x eu)", title_justify="left")
    for row in report["verdict"]["rows"]:
        table.add_row(*(str(row.get(column, "")) for column in shown))
    console.print(table)
    for line in report["verdict"]["reasons"]:
        console.print(f"  {line}")
    said = report["answers"]
    console.print(f"\n[bold]{said['question']}[/bold]")
    for who in ("before", "after", "instruct parent"):
        console.print(f"  {who:<16} {said[who]}", highlight=False, markup=False)
    console.print("\nseconds: " + ", ".join(f"{s['stage']} {s['seconds']}" for s in report["stages"]), highlight=False)
    console.print(
        f"\nUI        {report['ui']}\ndecision  {report['decision']}\nendpoint  {report['endpoint']}\n"
        f"report    {report['file']}\nroll back with: {settings().command_prefix}.venv/bin/empelt rollback {CHANNEL}",
        highlight=False,
    )
