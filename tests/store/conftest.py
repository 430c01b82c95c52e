"""Every ledger test runs on SQLite and on a PostgreSQL cluster of its own, started here and gone with the session."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tasks.domain.audit import AuditFact
from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, Evaluation, FileDigest, Item, ModelRef, Release, Score
from tasks.domain.outputs import Answer, Prompt, ReferenceOutputs, Step, reference_key
from tasks.domain.publication import Publication
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata
from tests.store.postgres_server import BINARIES, running_postgres

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment

    def forward(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class Samples:
    """Nouns to put on record; the same argument gives an equal one."""

    @staticmethod
    def digest(name: str) -> str:
        return (name.encode().hex() + "0" * 64)[:64]

    @staticmethod
    def ref(name: str = "v1") -> ModelRef:
        return ModelRef(repo_id=f"lab/llama-tiny-instruct-{name}", revision=(name.encode().hex() + "0" * 40)[:40])

    def release(self, name: str = "v1", *, days: int = 0, family: str = "tiny") -> Release:
        released = START + timedelta(days=days)
        return Release(
            family=family,
            ref=self.ref(name),
            content_digest=self.digest(name),
            released_at=released,
            seen_at=released + timedelta(hours=1),
        )

    def artifact(self, name: str) -> Artifact:
        digest = self.digest(name)
        files = (FileDigest(path="model.safetensors", sha256=digest, size=5_000_000_000),)
        return Artifact(digest=digest, folder=f"/srv/artifacts/{digest}", files=files)

    def lineage(self, name: str = "v1", engine: str = "1.0") -> Lineage:
        part = Ingredient(role="instruct", ref=self.ref(name), digest=self.digest(name))
        recipe = {"method": "linear", "weight": 0.75}
        return Lineage(family="tiny", target="eu", ingredients=(part,), recipe=recipe, engine_version=engine)

    def job(self, name: str = "v1", *, gate: str = "gate") -> Job:
        """A job of one release; another gate makes it another job of the same release and target."""
        release = self.release(name)
        parts = (
            Ingredient(role="base", ref=self.ref("base"), digest=self.digest("base")),
            Ingredient(role="instruct", ref=release.ref, digest=release.content_digest),
            Ingredient(role="tuned:eu", ref=self.ref("eu"), digest=self.digest("eu")),
        )
        lineage = Lineage(
            family="tiny", target="eu", ingredients=parts, recipe={"method": "task_arithmetic"}, engine_version="1"
        )
        return Job(release=release, target="eu", channel="eu", gate_digest=self.digest(gate), lineage=lineage)

    @staticmethod
    def request(job: Job, digest: str) -> PublishRequest:
        return PublishRequest(
            family=job.family,
            target=job.target,
            channel=job.channel,
            artifact_digest=digest,
            release=job.release.ref,
            expected_generation=0,
            claim_key=job.key,
        )

    def publication(self, name: str = "v1", *, commit: str = "c" * 40) -> Publication:
        return Publication(
            **{"endpoint": "https://hub", "repo_id": "acme/tiny-eu", "merge_key": self.digest("merge")},
            **{"digest": self.digest(name), "family": "tiny", "target": "eu", "commit": commit, "tag": "merge-6d65"},
            **{"how": "uploaded", "private": True, "bytes": 5_000_000_000, "seconds": 1.5, "flow_run_id": None},
            at=START,
        )

    def outputs(self, logprob: float = -2.5) -> ReferenceOutputs:
        digest, facts = self.digest("served"), {"flags": "--dtype float32", "device": "cpu", "image": "vllm 1"}
        answer = Answer(
            prompt=Prompt(name="eu chat 1", kind="chat", text="Zein da hiriburua? ñ"),
            tokens=(1, 7, 9),
            logprobs=(logprob, -0.25),
            steps=(Step(token=5, logprob=-0.1, runner_up=-3.0),),
            text="Bratislava",
        )
        return ReferenceOutputs(
            key=reference_key(digest, facts), artifact_digest=digest, facts=facts, answers=(answer,)
        )

    def audit(self, channel: str = "eu", generation: int = 1) -> AuditFact:
        return AuditFact(
            **{"channel": channel, "generation": generation, "artifact_digest": self.digest("x"), "outcome": "wrong"},
            **{"said": "it differs", "problems": ("one", "two"), "seconds": 0.5, "at": START},
        )

    def evaluation(self, key: str = "eval", *, right: int = 2, n: int = 3) -> Evaluation:
        items = tuple(Item(item_id=f"q{i}", value=float(i < right), answer="Zaragoza, ñ") for i in range(n))
        value = right / n
        scores = (
            Score(benchmark="facts_eu", metric="acc", value=value, stderr=0.1, n=n, items=items),
            Score(benchmark="bpb_eu", metric="bits_per_byte", value=1.25, stderr=0.01, n=9, higher_is_better=False),
        )
        facts = {"lm_eval": "0.4.13", "template": ""}
        return Evaluation(eval_key=self.digest(key), artifact_digest=self.digest("merged"), scores=scores, facts=facts)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A ledger's address in a PostgreSQL of our own, its schema made."""
    if BINARIES is None:
        missing = "PostgreSQL is not installed (infra/setup.sh --tests, or apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing}; CI must test the ledger on PostgreSQL", pytrace=False)
        pytest.skip(missing)
    with running_postgres() as url:
        Ledger.open(url).close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's address, once for each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: str = request.getfixturevalue("postgres")
    with psycopg.connect(server) as admin:
        admin.execute("SET session_replication_role = replica")  # the triggers on facts would refuse the next line
        admin.execute(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY")  # 10x quicker than a new database
    return server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    with Ledger.open(url, now=clock) as opened:
        yield opened


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model folder; the store does not look inside the weights."""

    def make(name: str = "model", *, weights: bytes = b"weights", **others: bytes) -> Path:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_bytes(b"{}")
        for path, body in others.items():
            (folder / path).write_bytes(body)
        return folder

    return make
