"""`empelt explain` and the files of a verdict's page."""

import json
from datetime import UTC, datetime
from pathlib import Path

from deployments.explained import as_text
from deployments.explaining import page_of
from tasks.domain.records import VerdictFact

FACT = VerdictFact(
    verdict_key="a" * 64,
    job_key="j",
    family="tiny",
    target="eu",
    outcome="passed",
    payload={},
    at=datetime(2026, 5, 1, tzinfo=UTC),
)


def test_a_verdict_is_shown_with_its_page_and_document(tmp_path: Path) -> None:
    assert page_of(tmp_path, FACT) == {"page": None, "document": None}
    folder = tmp_path / "reports" / "tiny-eu"
    folder.mkdir(parents=True)
    for name, said in (("v1-bbbbbbbbbbbb", "other"), ("v2-aaaaaaaaaaaa", "mine")):
        (folder / f"{name}.html").write_text("<p>")
        (folder / f"{name}.json").write_text(json.dumps({"document": said}))
    found = page_of(tmp_path, FACT)
    assert found == {"page": str(folder / "v2-aaaaaaaaaaaa.html"), "document": {"document": "mine"}}
    verdict = {"family": "tiny", "target": "eu", "outcome": "passed", "at": "2026-05-01T00:00", "reasons": ["good"]}
    told = {"kind": "artifact", "artifact": "c" * 64, "lineage": None, "promotions": []}
    text = as_text({**told, "verdicts": [{**verdict, "critical": [], **found}]})
    assert f"page         {found['page']}" in text


def test_a_page_of_an_older_version_has_no_document(tmp_path: Path) -> None:
    page = tmp_path / "reports" / "tiny-eu" / "v2-aaaaaaaaaaaa.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    assert page_of(tmp_path, FACT) == {"page": str(page), "document": None}
