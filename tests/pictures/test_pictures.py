"""The pictures and the page as a file: the verdict's numbers, the same bytes each time, nothing from any network."""

import random
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from tasks.domain.decision import Decision, Served
from tasks.domain.evidence import Evidence, changes, kept, mark
from tasks.domain.gate import parse_gate
from tasks.domain.jobs import Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Evaluation, Item, ModelRef, Release, Score
from tasks.domain.records import MergeCost
from tasks.domain.report import Picture, decision_page
from tasks.domain.verdict import judge
from tasks.pictures.page import draw, html_page, spread

AT = datetime(2026, 5, 1, tzinfo=UTC)
METRICS = ("strict", "acc", "bits_per_byte")
LANGUAGES = ("eu", "ca", "gl", "es", "en")
HOSTILE = '</td><script>alert(1)</script>{{ 7 * 7 }} & "x"'


def measured(who: str, benchmarks: list[str], rate: float) -> Evaluation:
    rng, scores = random.Random(who), []
    for name in benchmarks:
        if name.endswith("bpb"):
            items = tuple(
                Item(item_id=f"t{k}", value=100 * (2.4 - rate + rng.gauss(0, 0.02)), weight=100.0) for k in range(60)
            )
            value, stderr = sum(i.value for i in items) / 6000, 0.003
        else:
            items = tuple(
                Item(item_id=f"q{k}", value=float(rng.random() < rate), answer=HOSTILE if name.endswith("chat") else "")
                for k in range(150)
            )
            value = sum(i.value for i in items) / 150
            stderr = (value * (1 - value) / 150) ** 0.5
        metric = {"chat": "strict", "c": "acc", "bpb": "bits_per_byte"}[re.split(r"_|m", name)[-1]]
        scores.append(Score(benchmark=name, metric=metric, value=value, stderr=stderr, n=len(items), items=items))
    return Evaluation(eval_key="e" * 64, artifact_digest=who.encode().hex()[:8] * 8, scores=tuple(scores))


def check(name: str) -> dict[str, object]:
    if name.endswith("chat"):
        return {"benchmark": name, "metric": "strict", "floor": 0.35, "critical": True}
    if name.endswith("mc"):
        return {"benchmark": name, "metric": "acc", "max_drop": {"instruct": 0.1}, "critical": True}
    return {"benchmark": name, "metric": "bits_per_byte", "keep_gain": 0.5}


class Case(NamedTuple):
    decision: Decision
    evidence: Evidence


def case(rate: float, *, languages: int = 1, live: float | None = None, tuned: bool = True, extra: str = "") -> Case:
    names = [f"{code}_{kind}" for kind in ("chat", "mc", "bpb") for code in LANGUAGES[:languages]]
    names += [extra] if extra else []
    gate = parse_gate({"name": "eu", "checks": [check(name) for name in names]}, "eu.yaml")
    parents = {"instruct": measured("instruct", names, 0.6)} | (
        {"tuned": measured("tuned", names, 0.9)} if tuned else {}
    )
    candidate = measured("candidate", names, rate)
    now = measured("live", names, live) if live else None
    verdict = judge(gate, candidate, parents, now)
    ref = ModelRef(repo_id="lab/instruct-v2", revision="1" * 40)
    job = Job(
        release=Release(family="tiny", ref=ref, content_digest="a" * 64, released_at=AT, seen_at=AT),
        target="eu",
        channel="eu",
        gate_digest=gate.digest(),
        lineage=Lineage(
            family="tiny",
            target="eu",
            ingredients=tuple(Ingredient(role=r, ref=ref, digest="a" * 64) for r in ("base", "instruct", "tuned:eu")),
            recipe={"method": "linear"},
            engine_version="1",
        ),
    )
    evidence = Evidence(gate, candidate, parents, now)
    served = Served(ref, now.artifact_digest, 3) if now else None
    generation = 4 if verdict.passed and verdict.stronger_than_live else None
    ended = "Published" if generation else verdict.outcome.capitalize()
    found = changes(evidence)
    return Case(Decision(job, verdict, ended, "c" * 64, generation, {"device": "cpu"}, served, found), evidence)


def words(svg: str) -> list[str]:
    return [text.replace("\N{EN SPACE}", " ") for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


@pytest.fixture(scope="module")
def better() -> Case:
    return case(0.88, languages=2, live=0.7)


@pytest.fixture(scope="module")
def pictures(better: Case) -> tuple[Picture, ...]:
    return draw(*better)


@pytest.fixture(scope="module")
def html(better: Case, pictures: tuple[Picture, ...]) -> str:
    return html_page(better.decision, pictures)


def test_the_first_picture_has_every_score_of_the_verdict(better: Case, pictures: tuple[Picture, ...]) -> None:
    told = words(pictures[0].svg)
    for row in better.decision.verdict.rows:
        assert f"{row.benchmark}{' *' if row.critical else ''}" in told
        assert f"{row.score:.3f} pass" in told
    assert (
        told[:5] == ["candidate", "live", "instruct", "tuned", "the gate&#39;s limit"] or told[4] == "the gate's limit"
    )


def test_the_second_picture_has_every_share_and_its_limit(better: Case, pictures: tuple[Picture, ...]) -> None:
    told, bars = words(pictures[1].svg), kept(better.evidence)
    assert len(bars) == 8  # retention on all six checks, and the kept score of the two that limit its loss
    for bar in bars:
        limit = "" if bar.limit is None else f", limit {bar.limit:.0%} pass"
        assert f"{bar.share:.0%} ({bar.low:.0%} to {bar.high:.0%}){limit}" in told


def test_the_file_has_what_the_merge_took_where_that_is_on_record(better: Case, html: str) -> None:
    cost = MergeCost(seconds=75.0, peak_bytes=4_900_000_000)
    assert '<th scope="row">merged in</th><td>75 s, peak 4.9 GB</td>' in html_page(
        better.decision._replace(cost=cost), ()
    )
    assert "merged in" not in html


def test_the_same_decision_gives_the_same_bytes(better: Case, pictures: tuple[Picture, ...], html: str) -> None:
    assert draw(*better) == pictures
    assert html_page(better.decision, draw(*better)) == html


@pytest.mark.parametrize(
    ("outcome", "made"),
    [
        ("rejected", case(0.3)),
        ("undecided", case(0.749, live=0.7)),
        ("rejected", case(0.88, tuned=False)),
        ("passed", case(0.88, extra="a_benchmark_with_a_name_longer_than_the_margin_mc")),
        ("passed", case(0.88, languages=5, live=0.9)),
    ],
    ids=["rejected", "undecided", "no tuned parent", "long name", "kept, 15 benchmarks"],
)
def test_whatever_was_decided_can_be_drawn(outcome: str, made: Case) -> None:
    verdict, found = made.decision.verdict, draw(*made)
    assert verdict.outcome == outcome
    for picture in found:
        ET.fromstring(picture.svg)  # well formed
        ids = re.findall(r' id="([^"]+)"', picture.svg)
        assert len(ids) == len(set(ids))
    told = words(found[0].svg)
    for row in verdict.rows:
        assert f"{row.score:.3f} {mark(row)}" in told
        assert any(text.startswith(row.benchmark[:16]) for text in told)
    assert len(html_page(made.decision, found)) < 400_000
    assert len(decision_page(made.decision, found)) < 200_000


def test_a_verdict_without_parents_has_one_picture() -> None:
    made = case(0.9)
    floors = made.evidence.gate.model_copy(update={"checks": made.evidence.gate.checks[:1]})
    assert len(draw(made.decision, made.evidence._replace(gate=floors, parents={}))) == 1


def test_the_file_asks_nothing_of_any_network(html: str, pictures: tuple[Picture, ...]) -> None:
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"[a-z]+://[^\s\"'<)]+", html)) <= namespaces
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import|\bsrc=", html)
    assert set(re.findall(r'href="([^"]*)"', html)) == {
        found for picture in pictures for found in re.findall(r'href="(#[^"]*)"', picture.svg)
    }


def test_the_file_has_everything_of_the_decision(better: Case, html: str) -> None:
    decision = better.decision
    for said in (decision.sentence, decision.take_back, decision.digest, decision.job.key[:12], "served before"):
        assert said is not None
        assert said in html
    for row in decision.verdict.rows:
        assert f"{row.score:.3f}\N{NO-BREAK SPACE}±" in html
    for change in decision.changes:
        if change.won or change.lost:
            assert f"{change.check.benchmark}: {len(change.won)} won, {len(change.lost)} lost" in html


def test_what_a_model_answered_or_a_reason_says_is_never_markup(better: Case, pictures: tuple[Picture, ...]) -> None:
    verdict = better.decision.verdict.model_copy(update={"reasons": (HOSTILE,)})
    html = html_page(better.decision._replace(verdict=verdict), pictures)
    assert "<script>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}") > 10


def test_pictures_follow_light_and_dark(pictures: tuple[Picture, ...]) -> None:
    for picture in pictures:
        assert "prefers-color-scheme:dark" in picture.svg
        body = picture.svg[picture.svg.index("</style>") :]
        assert not re.search(r"(?:fill|stroke): #(?!000000|ffffff)", body)
        assert "var(--candidate, #" in pictures[0].svg


def test_examples_are_spread_over_all_items() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread([1, 2], 4) == [1, 2]
