"""Whose page tells of a hold. A real ledger, the shipped catalog; no server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import doors
from tasks.pages import holds_of
from tasks.store.ledger import Ledger

LLAMA, QWEN = "empelt-demo/llama-tiny-instruct-v9", "empelt-demo/qwen3-tiny-instruct-v9"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny,qwen3-tiny")
    monkeypatch.delenv("EMPELT_CATALOG", raising=False)
    doors.forget()
    yield doors.open_ledger()
    doors.forget()


def test_two_families_of_one_organisation_tell_each_of_their_own_holds(ledger: Ledger) -> None:
    sha = "a" * 40
    keys = {
        "llama-tiny": [f"release:{LLAMA}@{sha}", "target:llama-tiny/eu"],
        "qwen3-tiny": [f"release:{QWEN}@{sha}", "target:qwen3-tiny/eu"],
        "nobody": ["release:empelt-demo/something-else@1", "release:other/llama-tiny-instruct-v9@1", "b" * 64],
    }
    for key in (key for held in keys.values() for key in held):
        ledger.record_hold(key, "why")
    for name in ("llama-tiny", "qwen3-tiny"):
        assert sorted(hold.key for hold in holds_of(doors.open_catalog().family(name))) == keys[name]
