"""Which names are releases, when they are settled, and whether all shards are there. Pure functions, no Hub."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.errors import InputError
from tasks.sources.detection import complete, instruct_releases, settled
from tasks.sources.protocol import RepoState, SourceFile

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DENY = ("GGUF", "AWQ", "GPTQ", "FP8", "Int4", "VL", "Math", "Base", "Guard")


def state(repo_id: str, *, age_seconds: float = 7200, disabled: bool = False) -> RepoState:
    return RepoState(
        repo_id=repo_id,
        internal_id="0" * 24,
        sha="a" * 40,
        last_modified=NOW - timedelta(seconds=age_seconds),
        created_at=NOW - timedelta(days=3),
        private=False,
        gated=False,
        disabled=disabled,
        tags=(),
        architectures=(),
        parameters=None,
    )


@pytest.mark.parametrize(
    ("repo_id", "is_release"),
    [
        ("Qwen/Qwen3-8B", True),
        ("Qwen/Qwen3-8B-Instruct-2507", True),
        ("Qwen/Qwen3-8B-Base", False),
        ("Qwen/Qwen3-8B-GGUF", False),
        ("Qwen/Qwen3-8B-Instruct-fp8", False),
        ("Qwen/Qwen3-8B-GPTQ-Int4", False),
        ("Qwen/Qwen3VL-8B", False),
        ("Qwen/Qwen3Guard-8B", False),
        ("Qwen/Qwen3-80B", False),
        ("Qwen-labs/Qwen3-8B", False),
    ],
)
def test_a_name_decides(repo_id: str, is_release: bool) -> None:
    found = instruct_releases([state(repo_id)], pattern=r"Qwen/Qwen3(VL|Guard)?-8B(-.*)?", deny=DENY)
    assert bool(found) == is_release


def test_a_denied_word_is_a_whole_word() -> None:
    kept = state("lab/EVLar-8B")
    assert instruct_releases([kept], pattern="lab/.*", deny=["VL"]) == [kept]
    assert instruct_releases([kept], pattern="lab/.*", deny=[]) == [kept]


def test_releases_come_oldest_first() -> None:
    states = [state("lab/c", age_seconds=1), state("lab/b", age_seconds=9), state("lab/a", age_seconds=1)]
    assert [s.repo_id for s in instruct_releases(states, pattern="lab/.", deny=[])] == ["lab/b", "lab/a", "lab/c"]


def test_a_pattern_that_is_no_regular_expression_is_refused_by_value() -> None:
    with pytest.raises(InputError, match=r"'\('"):
        instruct_releases([], pattern="(", deny=[])


def test_a_release_settles_with_age() -> None:
    assert settled(state("lab/a", age_seconds=3600), NOW, 3600) is None
    assert settled(state("lab/a", age_seconds=3599), NOW, 3600) == (
        "lab/a@aaaaaaaaaaaa changed 3599 s ago; it settles at 3600 s"
    )
    assert settled(state("lab/a", disabled=True), NOW, 0) == "lab/a is disabled at its source"


def file(path: str, size: int = 1) -> SourceFile:
    return SourceFile(path=path, size=size, sha256="0" * 64, blob_id="0" * 40)


def test_every_shard_that_the_index_names_must_be_there() -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}}
    assert complete([file("one.safetensors"), file("two.safetensors")], index) == ()
    (missing,) = complete([file("one.safetensors")], index)
    assert missing.startswith("two.safetensors: named by")
    (empty,) = complete([file("one.safetensors", 0), file("two.safetensors")], index)
    assert empty.startswith("one.safetensors")
    assert complete([], {})


def test_without_an_index_there_must_be_one_file() -> None:
    assert complete([file("model.safetensors")], None) == ()
    (told,) = complete([file("model-00001-of-00002.safetensors")], None)
    assert "model-00001-of-00002.safetensors" in told
