"""A ledger of every earlier schema, with a row in each of its tables, is brought up to date and keeps all of them."""

import uuid
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, make_url, select, text
from sqlalchemy.exc import DBAPIError

from tasks.domain.errors import PromotionFailed
from tasks.domain.records import MergeCost
from tasks.store import database
from tasks.store.ledger import Ledger
from tasks.store.tables import FACTS, metadata

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
KEY, OTHER = "a" * 64, "b" * 64
REF = {"repo_id": "lab/m", "revision": "c" * 40}
REPO = "lab/m"


def script() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    return ScriptDirectory.from_config(config)


REVISIONS = [revision.revision for revision in reversed(list(script().walk_revisions()))]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path) -> Iterator[str]:
    """The address of a database without any table, once for each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    server, name = request.getfixturevalue("postgres"), f"upgrade_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def rows(samples) -> dict[str, dict]:
    """One row for each table of the newest schema; an older one lacks some of the columns."""
    job = samples.job()
    request = samples.request(job, KEY).model_dump(mode="json")
    named = {"family": "tiny", "target": "eu"}
    return {
        "releases": {"id": 7, **REF, "family": "tiny", "content_digest": KEY, "released_at": AT, "seen_at": AT},
        "repo_states": {"id": 7, **REF, "internal_id": "id-1", "content_digest": KEY, "at": AT},
        "watches": {"id": 7, "family": "tiny", "rule": "{}", "at": AT},
        "artifacts": {"digest": KEY, "total_bytes": 5_000_000_000, "files": [], "at": AT},
        "merges": {
            **{"id": 7, "merge_key": OTHER, "digest": KEY, "seconds": 12.5, "at": AT, "peak_bytes": None},
            "lineage": samples.lineage().model_dump(mode="json"),
        },
        "fetches": {**REF, "digest": KEY, "at": AT},
        "evaluations": {"eval_key": KEY, "artifact_digest": KEY, "facts": {"shots": "0"}, "at": AT},
        "scores": {
            **{"eval_key": KEY, "position": 0, "benchmark": "facts_eu", "metric": "acc", "value": 0.5, "stderr": 0.1},
            **{"n": 0, "higher_is_better": True, "items": zlib.compress(b"[]")},
        },
        "verdicts": {
            "id": 7,
            "verdict_key": "v",
            "job_key": job.key,
            **named,
            "outcome": "passed",
            "payload": {},
            "at": AT,
        },
        "job_ends": {
            **{"id": 7, "job_key": job.key, "outcome": "published", "reason": "better", "artifact_digest": KEY},
            **{"flow_run_id": "run", "at": AT},
        },
        "holds": {"id": 7, "key": "release:lab/x@1", "held": True, "reason": "gated: ñ", "at": AT},
        "base_changes": {
            **{"id": 7, "family": "tiny", "language": "eu", "change": "updated", **REF, "digest": KEY},
            **{"details": {"was": {"revision": "d" * 40}}, "at": AT},
        },
        "attempts": {"fence": 41, "job_key": job.key, "attempt": 3, "owner": "run:x", "at": AT},
        "promotions": {
            **{"channel": "eu", "generation": 1, "artifact_digest": KEY, "previous_digest": None, **REF, **named},
            **{"at": AT, "reason": "first", "flow_run_id": None, "claim_key": job.key, "fence": 41, "extra": {"a": 1}},
        },
        "jobs": {
            **{"id": 7, "job_key": job.key, **named, "channel": "eu", **REF, "release_digest": KEY, "at": AT},
            "payload": job.model_dump(mode="json"),
        },
        "approvals": {
            **{"id": 7, "job_key": job.key, "state": "waiting", "artifact_digest": KEY, "request": request, "by": ""},
            **{"reason": "stronger", "flow_run_id": None, "at": AT},
        },
        "acknowledgements": {"channel": "eu", "generation": 1, "at": AT},
        "claims": {
            **{"job_key": job.key, "attempt": 3, "fence": 41, "owner": "run:x", "lease_seconds": 60.0},
            **{"lease_until": AT, "ended_at": None, "description": {"name": "x"}},
        },
        "turns": {"name": "watch-hub", "number": 9, "owner": "run:x", "lease_until": AT, "ended_at": None},
        "channels": {"channel": "eu", "generation": 1, "acknowledged_generation": 1, "acknowledged_at": AT},
        "staged": {
            **{"digest": KEY, "channel": "eu", "owner": "run:x", **REF, "wanted_at": AT, "lease_until": AT},
            "extra": {},
        },
        "instances": {"agent": "local", "name": "eu@1", "status": {"name": "eu@1"}},
        "polls": {
            **{"family": "tiny", "polls": 2, "failures": 1, "calls": 9, "good_at": AT, "failed_at": None},
            "failure": "",
        },
        "publications": {
            **{"id": 7, "endpoint": "https://hub", "repo_id": REPO, "merge_key": OTHER, "digest": KEY, **named},
            **{"commit": "c" * 40, "tag": "merge-bbbbbbbbbbbb", "how": "uploaded", "private": True},
            **{"bytes": 5_000_000_000, "seconds": 12.5, "flow_run_id": None, "at": AT},
        },
        "reference_outputs": {"key": KEY, "artifact_digest": KEY, "facts": {"device": "cpu"}, "answers": [], "at": AT},
        "audits": {
            **{"id": 7, "channel": "eu", "generation": 1, "artifact_digest": KEY, "outcome": "wrong", "said": "ñ"},
            **{"problems": ["one"], "seconds": 0.5, "at": AT},
        },
        "hearings": {"key": KEY, "artifact_digest": KEY, "found": [1.5], "at": AT},
        "searches": {"key": KEY, "job_key": KEY, "chosen": KEY, "tried": [], "said": "ñ", "at": AT},
        "agents": {"agent": "local", "seen_at": AT},
        "canaries": {
            **{"channel": "eu", "digest": KEY, "weight": 5.0, "generation": 1, "owner": "run:x"},
            "languages": ["eu"],
            **{"at": AT, "lease_until": AT},
        },
        "promotion_steps": {
            **{"id": 7, "channel": "eu", "generation": 1, "digest": KEY, "step": "canary 5", "ended": "done"},
            **{"seconds": 1.5, "said": "ñ", "figures": {"canary": {"requests": 3}}, "flow_run_id": None, "at": AT},
        },
    }


def make_old(url: str, revision: str) -> database.Database:
    old = database.Database(database.connect(url))
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with old._write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return old


def fill(connection: Connection, values: dict[str, dict]) -> list[str]:
    """Put the row of each table into it, by the columns that it has at this revision; the tables that there are."""
    here = MetaData()
    here.reflect(connection)
    tables = [table for table in here.sorted_tables if table.name != "alembic_version"]
    for table in tables:
        # JSON and moments go in by our types: by reflection SQLite's columns are text.
        known: Table = metadata.tables[table.name]
        connection.execute(known.insert().values({c: values[table.name][c] for c in table.columns.keys()}))
        counted = next(iter(table.primary_key.columns))
        if connection.dialect.name == "postgresql" and counted.name in ("id", "fence"):  # as if it had given the number
            said = {"name": table.name, "column": counted.name, "value": values[table.name][counted.name]}
            connection.execute(text("SELECT setval(pg_get_serial_sequence(:name, :column), :value)"), said)
    return [table.name for table in tables]


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_ledger_of_every_earlier_schema_keeps_each_of_its_rows(empty, revision, samples):
    values = rows(samples)
    old = make_old(empty, revision)
    with old._write() as connection:
        there = fill(connection, values)
    old.close()
    with Ledger.open(empty) as ledger:
        with ledger._read() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == REVISIONS[-1]
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
            for name in there:
                (row,) = connection.execute(select(metadata.tables[name])).all()
                kept = {column: row._mapping[column] for column in values[name]}
                assert kept == values[name], name
        for name in set(FACTS) & set(there):
            column = next(iter(values[name]))
            with (
                pytest.raises(DBAPIError, match="facts are appended, never changed"),
                ledger._write() as connection,
            ):
                connection.execute(text(f"UPDATE {name} SET {column} = {column}"))


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_older_version_has_promised_holds_after_the_upgrade(empty, revision, samples):
    job = samples.job()
    old = make_old(empty, revision)
    with old._write() as connection:
        fill(connection, rows(samples))
    old.close()
    with Ledger.open(empty) as ledger:
        later = ledger.claim(job.key, "run:y", 60)
        assert (later.attempt, later.fence) == (4, 42)  # neither number is given out twice
        switch = {"release": samples.ref(), "target": "eu", "family": "tiny", "expected_generation": 1}
        with pytest.raises(PromotionFailed, match="fence 41 was superseded"):
            ledger.switch_channel("eu", digest=OTHER, fence=41, claim_key=job.key, **switch)
        state = ledger.switch_channel("eu", digest=OTHER, fence=42, claim_key=job.key, **switch)
        assert (state.generation, state.previous_digest, state.acknowledged_generation) == (2, KEY, 1)
        assert [hold.reason for hold in ledger.holds()] == ["gated: ñ"]
        assert ledger.repo_seen(REPO).internal_id == "id-1"
        assert [release.content_digest for release in ledger.releases("tiny")] == [KEY]
        assert ledger.merge_cost(OTHER, KEY) == MergeCost(seconds=12.5, peak_bytes=None)
        assert ledger.lineage(KEY) == samples.lineage()
        assert ledger.evaluation(KEY).scores[0].items == ()
        assert ledger.record_watch("tiny", "another rule", AT, ())


def test_a_watch_of_an_older_version_takes_up_no_place_after_the_upgrade(empty, samples):
    old, later = make_old(empty, "0005"), datetime(2100, 1, 1, tzinfo=UTC)
    values = rows(samples)
    values["attempts"] |= {"job_key": "watch-hub"}
    values["claims"] |= {"job_key": "watch-hub", "lease_until": later}
    with old._write() as connection:
        fill(connection, values)
    old.close()
    with Ledger.open(empty) as ledger:
        assert ledger.live_claims() == []
        assert ledger.attempts("watch-hub") == 1  # a fact stays


def test_every_table_has_a_row_to_be_carried_over(samples):
    assert set(rows(samples)) == set(metadata.tables)
