"""A merge of small words, and what was found about it: enough to test keys, plans and pages without a model."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.jobs import Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Digest, ModelRef, Release
from tasks.engine.recipe import Recipe

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def digest_named(name: str) -> Digest:
    """64 hex digits that are the same for the same name."""
    return (name.encode().hex() + "0" * 64)[:64]


def ref_named(name: str) -> ModelRef:
    return ModelRef(repo_id=f"lab/{name}", revision=(name.encode().hex()[::-1] + "f" * 40)[:40])


def release_named(name: str, *, days: int = 0, seen_days: int | None = None) -> Release:
    seen = START + timedelta(days=days if seen_days is None else seen_days, hours=1)
    return Release(
        family="llama-tiny",
        ref=ref_named(name),
        content_digest=digest_named(name),
        released_at=START + timedelta(days=days),
        seen_at=seen,
    )


def lineage_for(*languages: str, release: str = "instruct-v2", engine: str = "1") -> Lineage:
    names = {"base": "base", "instruct": release} | {f"tuned:{code}": f"{code}_base" for code in languages}
    return Lineage(
        family="llama-tiny",
        target="-".join(languages),
        ingredients=tuple(
            Ingredient(role=role, ref=ref_named(name), digest=digest_named(name)) for role, name in names.items()
        ),
        recipe=Recipe(method="task_arithmetic", tuned_weight=0.85).model_dump(mode="json"),
        engine_version=engine,
    )


@pytest.fixture(scope="session")
def digest() -> Callable[[str], Digest]:
    return digest_named


@pytest.fixture(scope="session")
def release() -> Callable[..., Release]:
    return release_named


@pytest.fixture(scope="session")
def lineage() -> Callable[..., Lineage]:
    return lineage_for


@pytest.fixture(scope="session")
def job() -> Job:
    return Job(
        release=release_named("instruct-v2"),
        target="eu",
        channel="eu-channel",
        gate_digest=digest_named("gate"),
        lineage=lineage_for("eu"),
    )
