"""What the run found: one row a case, what must be blocked measured against a full run, and what is wrong with it."""

from collections.abc import Sequence
from typing import NamedTuple

from tests.must_block.cases import Case

MOST_SHARE = 0.40
"""Of a full run's requests, which the clear ones may take on the mean."""


class Result(NamedTuple):
    """One case, judged."""

    name: str
    outcome: str
    reasons: tuple[str, ...]
    requests: int
    """HTTP requests that the gateway passed on to the candidate, by its own count."""
    planned: int
    """HTTP requests of a full run of the gate's benchmarks, without the examination before it."""
    decided: str
    """``files``, ``examination``, ``look 1 of 3``; what the run did not get beyond."""
    seconds: float

    @property
    def share(self) -> float:
        """Of a full run's requests."""
        return self.requests / self.planned if self.planned else 0.0


class Finding(NamedTuple):
    """One case beside its result."""

    case: Case
    result: Result

    @property
    def reason(self) -> str:
        """The expected reason where it was given, else the first."""
        return self.case.explains(list(self.result.reasons)) or next(iter(self.result.reasons), "")

    @property
    def problems(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.result.outcome != self.case.outcome:
            found.append(
                f"{self.case.name}: {self.result.outcome}, expected {self.case.outcome}; it said: {self.reason}"
            )
        elif not self.case.explains(list(self.result.reasons)):
            found.append(f"{self.case.name}: no reason is {self.case.reason!r}; given: {' '.join(self.result.reasons)}")
        return found


def mean_share(findings: Sequence[Finding]) -> float | None:
    """Mean share of a full run's requests over the clear ones; None where none was run."""
    shares = [one.result.share for one in findings if one.case.clear]
    return sum(shares) / len(shares) if shares else None


def problems_of(findings: Sequence[Finding]) -> list[str]:
    """Every violation."""
    found = [problem for one in findings for problem in one.problems]
    mean = mean_share(findings)
    if mean is not None and mean > MOST_SHARE:
        found.append(f"the clear ones took {mean:.1%} of a full run's requests on the mean, at most {MOST_SHARE:.0%}")
    return found


def table(findings: Sequence[Finding], seconds: float) -> str:
    """For people; the last lines say how it went."""
    head = ("case", "outcome", "decided by", "expected reason", "requests", "share", "seconds", "reason")
    rows = [_row(one) for one in findings]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head) - 1)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in [head, *rows]]
    mean, planned = mean_share(findings), max((one.result.planned for one in findings), default=0)
    clear = [one for one in findings if one.case.clear]
    if mean is not None:
        sent = sum(one.result.requests for one in clear)
        lines.append(
            f"{len(clear)} clear ones: {sent} requests, {mean:.1%} of a full run's {planned} on the mean,"
            f" {1 - mean:.1%} saved (at most {MOST_SHARE:.0%} may be taken)"
        )
    found = problems_of(findings)
    told = f"{len(found)} violations" if found else "no violation"
    lines += [*found, f"{len(findings)} cases in {seconds:.0f} s: {told}"]
    return "\n".join(lines) + "\n"


def as_json(findings: Sequence[Finding], seconds: float) -> dict[str, object]:
    """The same for programs."""
    cases = [
        {
            **one.result._asdict(),
            "expected": one.case.outcome,
            "reason": one.reason,
            "share": one.result.share,
            "clear": one.case.clear,
            "problems": one.problems,
        }
        for one in findings
    ]
    return {"cases": cases, "mean_share": mean_share(findings), "problems": problems_of(findings), "seconds": seconds}


def _row(one: Finding) -> tuple[str, ...]:
    result = one.result
    right = "yes" if one.case.explains(list(result.reasons)) and not one.problems else "NO"
    said = " ".join(one.reason.split())
    return (
        result.name,
        result.outcome,
        result.decided,
        right,
        str(result.requests),
        f"{result.share:.1%}",
        f"{result.seconds:.0f}",
        said if len(said) <= 150 else f"{said[:149]}…",
    )
