"""What `empelt gate MODEL` prints: a verdict for people, or as JSON."""

from typing import TYPE_CHECKING, Any

from deployments.showing import table
from tasks.domain.decision import mark
from tasks.domain.report import number
from tasks.domain.verdict import Verdict

if TYPE_CHECKING:
    from deployments.judging import Judged

EXIT_CODES = {"passed": 0, "rejected": 1, "undecided": 2, "broken": 3}


def report(judged: "Judged") -> dict[str, Any]:
    """As JSON has it."""
    outcome = judged.verdict.outcome
    return {
        "outcome": outcome,
        "exit_code": EXIT_CODES[outcome],
        "model": judged.model,
        "family": judged.family,
        "target": judged.target,
        "verdict": judged.verdict.model_dump(mode="json"),
        "requests": dict(judged.requests),
        "seconds": round(judged.seconds, 1),
        "error": None,
    }


def broken(error: Exception) -> dict[str, Any]:
    """A run that could not be judged: never a pass, and no verdict either."""
    return {
        "outcome": "broken",
        "exit_code": EXIT_CODES["broken"],
        "verdict": None,
        "error": f"{type(error).__name__}: {error}",
    }


def as_text(found: dict[str, Any]) -> str:
    """The verdict for people: what was examined, the gate's checks, the reasons, the outcome last."""
    if found["verdict"] is None:
        return "BROKEN: it could not be judged, which is no pass"
    verdict = Verdict.model_validate(found["verdict"])
    word = {True: "pass", False: "FAIL", None: "undecided"}
    examined = [
        (one.name, number(one.value), number(one.parent), number(one.limit), one.n or "–", word[one.ok])
        for one in verdict.examined
    ]
    roles = sorted(verdict.parent_digests)
    checks = [
        (
            f"{row.benchmark}{' *' if row.critical else ''}",
            row.metric,
            number(row.score, row.stderr),
            row.n,
            row.limit,
            *(number(row.parents.get(role)) for role in roles),
            "not asked" if row.reason == "not asked" else mark(row),
        )
        for row in verdict.rows
    ]
    asked = found["requests"]
    return "\n".join(
        [
            table(("examined", "share", "instruct", "limit", "n", ""), examined),
            table(("benchmark", "metric", "score", "n", "limit", *roles, ""), checks),
            *verdict.reasons,
            f"{asked['examination']} + {asked['benchmarks']} requests; the whole gate plans {asked['planned']}",
            f"{found['outcome'].upper()} by gate {verdict.gate} for {found['family']}/{found['target']}: "
            f"{found['model'][:12]}, {found['seconds']:.0f} s",
        ]
    )
