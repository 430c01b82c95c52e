"""The table that a soak ends with: what happened at each event, then what each rule saw."""

from collections.abc import Sequence

from tests.soak.records import Event, Soak
from tests.soak.verdict import SHOWN, Finding, broken_streams, lost_of, switches_of, under_way


def table(soak: Soak, findings: Sequence[Finding], seconds: float) -> str:
    """All of it, one line each."""
    head = ("event", "s", "in flight", "asked", "lost", "broken", "retried", "switches", "ack s", "switch ms")
    lines = [_line(*head), *(_event(soak, event) for event in soak.events), ""]
    for one in findings:
        lines.append(f"{'FAIL' if one.problems else 'ok  '}  {one.rule:20} {one.seen}")
        lines += [f"      {problem}" for problem in one.problems[:SHOWN]]
        lines += [f"      ... and {len(one.problems) - SHOWN} more"] if len(one.problems) > SHOWN else []
    failed = sum(bool(one.problems) for one in findings)
    lines.append(f"{len(findings) - failed} of {len(findings)} rules hold, in {seconds / 60:.1f} min")
    return "\n".join(lines) + "\n"


def _event(soak: Soak, event: Event) -> str:
    during = [one for one in soak.records if one.sent <= event.ended and one.ended >= event.began]
    broken = broken_streams(soak, event) if event.killed else []
    lost = [one for one in lost_of(soak) if one in during]
    return _line(
        event.name,
        f"{event.ended - event.began:.1f}",
        len(under_way(soak.records, event.at)),
        len(during),
        len(lost),
        len(broken),
        sum(one.retries > 0 for one in during),
        switches_of(soak, event),
        "" if event.acknowledged_seconds is None else f"{event.acknowledged_seconds:.2f}",
        "" if event.switch_seconds is None else f"{event.switch_seconds * 1000:.0f}",
    )


def _line(name: object, *cells: object) -> str:
    return f"{name!s:26}" + "".join(f"{cell!s:>10}" for cell in cells)
