"""Each rule of the soak's verdict is quiet about a good soak, and speaks about the one thing that breaks it."""

from dataclasses import replace

import pytest

from tests.soak.records import Event, Loaded, Record, Soak, Written, read_records, write_lines
from tests.soak.verdict import Wanted, allowed_for, judge, switches_of, under_way

A, B, C = "a" * 64, "b" * 64, "c" * 64
RELEASES = {A: "lab/v1@1", B: "lab/v2@2", C: "lab/v3@3"}
SMALL = Wanted(requests=8, streams=3, in_flight=2)


def record(number, sent, ended, artifact, generation, **changes):
    told = {
        "model": "eu",
        "is_stream": False,
        "first": ended - 0.1,
        "status": 200,
        "end": "whole",
        "finish": "stop",
        "artifact": artifact,
        "release": RELEASES.get(artifact, ""),
        "generation": generation,
        "version": "live",
        "said": f"eu@{artifact[:12]}",
        "mark": artifact[:12],
    }
    return Record(number=number, sent=sent, ended=ended, **{**told, **changes})


def stream(number, sent, ended, artifact, generation, **changes):
    return record(number, sent, ended, artifact, generation, **{"is_stream": True, "first": sent + 0.1, **changes})


GOOD = Soak(
    channel="eu",
    records=(
        record(1, 1, 2, A, 1),
        stream(2, 1, 12, A, 1),  # begun before the switch, ended after it
        record(3, 9, 11, A, 1),
        record(4, 11, 13, B, 2),
        stream(5, 12, 21, B, 2, end="error event", error="the instance went away"),
        stream(6, 12, 19, B, 2),
        record(7, 19, 26, A, 1, retries=1),
        record(8, 28, 30, B, 2),
    ),
    events=(
        Event("promotion", began=5, at=10, ended=11.5, switches=1, acknowledged_seconds=1.5, switch_seconds=0.02),
        Event("failing start", began=11.5, at=12.5, ended=14, refused=C),
        Event("kill", began=19.5, at=20, ended=27, switches=None, killed=B),
    ),
    written=(
        Written(0, 1, A, 1),
        Written(10, 2, B, 2),
        Written(21, 3, A, 1),
        Written(26, 4, B, 2),
    ),
    loaded=(Loaded(0.5, 1), Loaded(10.1, 2), Loaded(26.1, 4)),
    releases=RELEASES,
)


def problems(soak, wanted=SMALL):
    return {one.rule: one.problems for one in judge(soak, wanted) if one.problems}


def changed(number, **changes):
    """The good soak with one record changed."""
    records = [replace(one, **changes) if one.number == number else one for one in GOOD.records]
    return replace(GOOD, records=tuple(records))


def events(name, **changes):
    return replace(GOOD, events=tuple(replace(e, **changes) if e.name == name else e for e in GOOD.events))


def test_a_good_soak_has_no_problems_and_every_rule_says_what_it_saw():
    found = judge(GOOD, SMALL)
    assert not problems(GOOD)
    assert all(one.seen for one in found)
    assert dict((one.rule, one.seen) for one in found)["kills"] == "1 of 1 open streams broken by kill"


@pytest.mark.parametrize(
    ("soak", "rule", "says"),
    [
        (changed(1, end="cut"), "nothing lost", "request 1 to aaaaaaaaaaaa ended: cut"),
        (changed(1, end="refused", status=503), "nothing lost", "refused 503"),
        (changed(6, end="clean end"), "nothing lost", "stream 6 to bbbbbbbbbbbb ended: clean end"),
        (changed(2, end="error event"), "nothing lost", "stream 2"),
        (changed(7, end="error event"), "nothing lost", "request 7"),
        (changed(5, first=None), "nothing lost", "stream 5"),
        (changed(5, end="clean end"), "kills", "expected an error event"),
        (changed(5, end="cut"), "kills", "expected an error event"),
        (changed(1, artifact=""), "attributable", "(no header)"),
        (changed(1, release="lab/v2@2"), "attributable", "says release lab/v2@2, it is lab/v1@1"),
        (changed(1, generation=None), "attributable", "without its generation"),
        (changed(1, mark=B[:12]), "right model", "the text was written by bbbbbbbbbbbb"),
        (changed(1, said="eu@bbbbbbbbbbbb"), "right model", "the answer eu@bbbbbbbbbbbb"),
        (changed(1, generation=2), "right model", "allowed: 1: aaaaaaaaaaaa g1"),
        (
            changed(4, artifact=A, release=RELEASES[A], generation=1, said="eu@" + A[:12], mark=""),
            "right model",
            "as live",
        ),
        (changed(1, version="canary", generation=None), "right model", "as canary answered"),
        (changed(1, first=None, status=0, end="silent"), "nothing lost", "silent"),
        (events("failing start", refused=B), "refused artifacts", "request 6 was answered by bbbbbbbbbbbb"),
        (events("promotion", acknowledged_seconds=2.5), "switch times", "to the acknowledgement took 2.500 s"),
        (events("promotion", switch_seconds=0.07), "switch times", "promotion: the switch itself took 0.070 s"),
        (events("promotion", switch_seconds=None), "switch times", "the switch itself was not measured"),
        (events("promotion", switches=0), "switches", "1 switches in promotion, 0 expected"),
        (events("promotion", problems=("it was not acknowledged",)), "events", "promotion: it was not acknowledged"),
        (replace(GOOD, left=("python (pid 7)",)), "processes", "still alive: python (pid 7)"),
        (
            replace(GOOD, written=GOOD.written[:2] + GOOD.written[3:]),
            "right model",
            "routes 3 to 3 were written and not",
        ),
    ],
)
def test_one_thing_that_is_wrong_is_told_by_its_rule(soak, rule, says):
    found = problems(soak)
    assert rule in found
    assert says in "\n".join(found[rule])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (SMALL._replace(requests=9), "8 requests, at least 9"),
        (SMALL._replace(streams=4), "3 streams, at least 4"),
        (SMALL._replace(in_flight=3), "2 under way at promotion, at least 3"),
    ],
)
def test_a_soak_that_asked_too_little_says_nothing(wanted, says):
    assert says in "\n".join(problems(GOOD, wanted)["load"])


def test_where_times_are_not_judged_they_are_told():
    told = SMALL._replace(acknowledged_seconds=None, switch_seconds=None)
    slow = events("promotion", acknowledged_seconds=9.0, switch_seconds=0.5)
    seen = dict((one.rule, one.seen) for one in judge(slow, told))["switch times"]
    assert "acknowledgement 9.000 s at most" in seen
    assert "switch itself 0.500 s at most" in seen
    assert not problems(slow, told)


def test_what_was_loaded_before_a_request_was_sent_is_the_oldest_that_may_answer_it():
    late = record(9, 10.5, 11, A, 1)
    assert [one.serial for one in allowed_for(GOOD, late)] == [2]
    assert [one.serial for one in allowed_for(GOOD, replace(late, sent=10.05))] == [1, 2]
    assert [one.serial for one in allowed_for(GOOD, replace(late, sent=9.0, first=9.9))] == [1]


def test_a_canary_may_answer_while_it_is_tried_and_not_after():
    tried = Written(0.2, 2, A, 1, canary=C)
    soak = replace(GOOD, written=(GOOD.written[0], tried), loaded=(), events=())
    by_canary = record(1, 1, 2, C, None, version="canary")
    assert "right model" not in problems(replace(soak, records=(by_canary,)))
    assert "right model" in problems(replace(soak, records=(replace(by_canary, generation=1),)))
    assert "right model" in problems(replace(soak, written=GOOD.written[:1], records=(by_canary,)))


def test_a_canary_that_was_refused_may_have_answered_before_its_end_only():
    canary = record(4, 11.2, 13, C, None, version="canary")
    event = Event("canary abort", began=11, at=11.5, ended=12, refused=C, may_answer=True)
    written = (*GOOD.written[:2], Written(11.1, 3, B, 2, canary=C), Written(11.9, 4, B, 2))
    soak = replace(GOOD, events=(event,), written=written, loaded=(), records=(canary,))
    assert "refused artifacts" not in problems(soak)
    assert "refused artifacts" in problems(replace(soak, records=(replace(canary, sent=12.5),)))


def test_switches_and_what_is_under_way_are_counted_at_their_moment():
    assert switches_of(GOOD, GOOD.events[0]) == 1
    assert switches_of(GOOD, GOOD.events[2]) == 2
    assert [one.number for one in under_way(GOOD.records, 10)] == [2, 3]


def test_records_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "records.jsonl"
    for one in GOOD.records:
        write_lines(path, [one])
    assert read_records(path) == GOOD.records
