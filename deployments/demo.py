"""`empelt demo`: the whole story for real. One release goes live, a better one arrives, three others must not.

Nothing here merges, judges or publishes: it brings the installation up, pushes to the Hub as labs do, waits, asks the
endpoint, and writes down what happened.
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

import yaml
from rich.console import Console

from deployments.demo_report import demo_report
from deployments.demo_show import shortly, show
from deployments.demo_story import ORGANIZATION, Story, story_of
from deployments.demo_wait import Ended, ask, ask_parent, wait_for_ends, wait_for_refusal
from deployments.supervisor import Child, Supervisor, require_free
from deployments.up import answers, bring_up, keep_up
from infra.local_hub.push import push_folder
from tasks.domain.errors import PipelineError
from tasks.domain.models import Evaluation
from tasks.doors import forget, open_ledger
from tasks.settings import ROOT, Settings, settings

MODELS = ROOT / "infra" / "demo_family" / "models"
EVALUATIONS = ROOT / "infra" / "demo_family" / "evaluations"
HUB_PORT = int(os.environ.get("EMPELT_DEMO_HUB_PORT", "8710"))
Say = Callable[[str], None]


def demo_settings(story: Story) -> Settings:
    """An installation of its own below .empelt/demo, whose Hub is on this machine."""
    home = Path(os.environ.get("EMPELT_HOME", ".empelt/demo"))
    chosen = {
        "HOME": str(home),
        "CATALOG": str(home / "catalog"),
        "FAMILIES": story.family,
        "HUB_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
        "WATCH_INTERVAL_SECONDS": os.environ.get("EMPELT_WATCH_INTERVAL_SECONDS", "20"),
        "SETTLE_SECONDS": "0",
        "WINDOW": os.environ.get("EMPELT_WINDOW", "2"),  # one job merges while another one is being asked
    }
    os.environ.update({f"EMPELT_{name}": value for name, value in chosen.items()})
    forget()
    return settings()


def own_catalog(story: Story, home: Path) -> None:
    """A catalog for this demo alone, which one may edit while it runs: the family with the story's targets."""
    source = ROOT / "deployments" / "catalog"
    content = yaml.safe_load((source / f"{story.family}.yaml").read_text(encoding="utf-8"))
    content["targets"] = {name: content["targets"][name] for name in story.targets}
    text = "# The demo's own copy, with the targets that it plays. Edit it: every watch reads it anew.\n"
    shutil.copytree(source / "gates", home / "catalog" / "gates")
    path = home / "catalog" / f"{story.family}.yaml"
    path.write_text(text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def hub_child(home: Path) -> Child:
    """The local Hub as one more child of the installation."""
    arguments = ["-m", "infra.local_hub", "--root", str(home / "hub"), "--port", str(HUB_PORT)]
    return Child(
        "hub", [sys.executable, *arguments], is_ready=lambda: answers(f"http://127.0.0.1:{HUB_PORT}/api/models")
    )


def push(home: Path, model: str, folder: Path | None = None) -> str:
    """Push one model as a lab would; the new revision. ``folder`` holds it if it is none of the demo family."""
    return push_folder(home / "hub", f"{ORGANIZATION}/{model}", folder or MODELS / model, f"Upload {model}")


class Stage:
    """The demo while it is up: what is pushed, waited for and asked, act by act."""

    def __init__(self, story: Story, chosen: Settings, console: Console, say: Say) -> None:
        self.story, self.home, self.gateway = story, chosen.home, chosen.gateway_url
        self.console, self.say = console, say
        self.pushed: dict[str, tuple[str, datetime]] = {}
        self.ended: list[Ended] = []
        self.answers: dict[str, dict[str, str]] = {}
        self.refusal: dict[str, str] = {}
        self.making: dict[str, subprocess.Popen[bytes]] = {}

    def push(self, model: str, folder: Path | None = None) -> None:
        """Push one model, and remember when."""
        at = datetime.now(UTC)
        self.pushed[model] = (push(self.home, model, folder), at)
        self.say(f"pushed {ORGANIZATION}/{model}@{self.pushed[model][0][:12]}")

    def wait(self, release: str, targets: tuple[str, ...]) -> list[Ended]:
        """How the release's jobs ended."""
        found = wait_for_ends(self.story.family, f"{ORGANIZATION}/{release}", targets, self.console)
        for job in found:
            self.say(f"{job.name}: {job.state_name}. {job.why}")
        self.ended += found
        return found

    def ask_all(self, who: str) -> None:
        """Every channel its question."""
        served = {state.target: state.channel for state in open_ledger().channels()}
        for target, question in self.story.questions.items():
            if question and target in served:
                said = self.answers.setdefault(target, {"question": question})
                said[who] = ask(self.gateway, served[target], question)
                self.say(f"{served[target]}, {who}: {question} -> {said[who]}")

    def first_graft(self) -> None:
        """The older release is on the Hub already; the watch takes it up. Those to refuse are made meanwhile."""
        for model in self.story.derived:
            made = ["-m", "infra.demo_family.releases", self.story.derive[model], str(self.home / "derived" / model)]
            self.making[model] = subprocess.Popen([sys.executable, *made], cwd=ROOT)
        self.wait(self.story.older, self.story.targets[:1])
        self.ask_all("before")

    def better_release(self) -> None:
        """A lab pushes the newer release, and the tuned bases that other targets wait for are published."""
        for model in (self.story.newer, *self.story.with_newer):
            self.push(model)
        jobs = self.wait(self.story.newer, self.story.targets)
        self.ask_all("after")
        for job in jobs:
            if job.target in self.answers:
                question = self.answers[job.target]["question"]
                said = ask_parent(self.gateway, self.story.family, job, question)
                self.answers[job.target]["instruct parent"] = said

    def releases_to_refuse(self) -> None:
        """Three more releases: one of a foreign architecture, one healthy but weaker, one that cannot chat."""
        for model, made in self.making.items():
            if made.wait() != 0:
                raise PipelineError(f"{model} could not be made: exit {made.returncode}")
            self.push(model, self.home / "derived" / model)
        if self.story.refused:
            held = wait_for_refusal(f"{ORGANIZATION}/{self.story.refused}", self.console)
            self.refusal = {"release": self.story.refused, "key": held.key, "reason": held.reason}
            self.say(f"{self.story.refused}: refused. {shortly(held.reason)}")
        for model in (self.story.bad, self.story.weaker):
            if model:
                self.wait(model, self.story.targets)


def play(*, console: Console, as_json: bool, then: str, stay: bool, family: str = "llama", record: bool = False) -> int:
    """Run the demo; the exit code of ``then``, or 0. ``record`` measures the parents anew and keeps their scores."""
    story = story_of(family)
    chosen = demo_settings(story)

    def say(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:4.0f} s  {line}[/dim]", highlight=False)

    began = time.monotonic()
    _forget_last_time(chosen.home, say)
    require_free("127.0.0.1", HUB_PORT, "the local Hub")
    own_catalog(story, chosen.home)
    for model in (*story.first, story.older):
        push(chosen.home, model)
    for path in [] if record else sorted(EVALUATIONS.glob("*.json")):
        for known in json.loads(path.read_text(encoding="utf-8")):
            open_ledger().record_evaluation(Evaluation.model_validate(known))
    began = time.monotonic()
    with bring_up(chosen, say, hub=hub_child(chosen.home)) as installation:
        console.print(f"[bold]UI[/bold] {chosen.prefect_url}   [bold]endpoint[/bold] {chosen.gateway_url}/v1")
        stage = Stage(story, chosen, console, say)
        stage.first_graft()
        stage.better_release()
        stage.releases_to_refuse()
        report = demo_report(chosen, stage, up_seconds=installation.seconds, seconds=time.monotonic() - began)
        (chosen.home / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        if as_json:
            sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
        else:
            show(console, report)
        if record:
            keep_parents(stage.ended, say)
        if then:
            return subprocess.run(then, shell=True, env={**os.environ, "EMPELT_DEMO_PID": str(os.getpid())}).returncode
        if stay:
            console.print("All stays up until Ctrl-C.")
            keep_up(installation, say)
    return 0


def _forget_last_time(home: Path, say: Say) -> None:
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


def keep_parents(ended: list[Ended], say: Say) -> None:
    """Write the parents' scores, item by item, to where the next demo finds them by their eval_key."""
    EVALUATIONS.mkdir(exist_ok=True)
    for ref, digest in {i.ref.slug: i.digest for job in ended for i in job.lineage.ingredients}.items():
        if found := open_ledger().evaluations_of(digest):
            path = EVALUATIONS / f"{ref}.json"
            rows = sorted((e.model_dump(mode="json") for e in found), key=lambda row: str(row["eval_key"]))
            path.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
            say(f"kept {path.name}: {len(found)} evaluation(s)")
