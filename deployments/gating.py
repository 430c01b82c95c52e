"""A gate file that is no target's yet, beside the catalog and the ledger: linted, or tried on the history."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deployments.showing import table
from tasks.domain.errors import InputError
from tasks.domain.evidence import score_of
from tasks.domain.fitting import fit_gate
from tasks.domain.gate import Check, Gate, parse_gate
from tasks.domain.lint import Trio, lint
from tasks.domain.models import Digest, Evaluation
from tasks.domain.replay import joined_for, replay
from tasks.domain.verdict import Verdict
from tasks.domain.yaml_lines import Document
from tasks.doors import open_catalog
from tasks.harness.suite import chosen, known_benchmarks, permuted, requests_of

if TYPE_CHECKING:
    from tasks.store.ledger import Ledger


class Fitted(NamedTuple):
    """A gate file, as it would judge one target."""

    family: str
    target: str
    gate: Gate


def fitted(path: Path, family: str = "", target: str = "") -> list[Fitted]:
    """The gate of ``path`` for each target that it is for.

    Those of ``family`` and ``target`` if they are given, else those whose gate has this file's name, else all.

    Raises:
        InputError: if there is no such file, or no such target.
        CatalogError: listing what is wrong with the file, or why it does not fit a target.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; expected a gate's YAML")
    document = Document(path)
    gate = parse_gate(document.data, document.where, known=known_benchmarks())
    catalog = open_catalog()
    there = [(name, code, t) for name, one in catalog.families.items() for code, t in one.targets.items()]
    asked = [row for row in there if family in ("", row[0]) and target in ("", row[1])]
    if not asked:
        known = ", ".join(f"{name}/{code}" for name, code, _ in there)
        raise InputError(f"no target {family or '*'}/{target or '*'}; the catalog has {known}")
    own = [row for row in asked if row[2].gate == path.stem]
    rows = asked if family or target or not own else own
    return [
        Fitted(
            name, code, fit_gate(gate, document.where, t.languages, known=known_benchmarks(), requests_of=requests_of)
        )
        for name, code, t in rows
    ]


def linted(gates: Sequence[Fitted], ledger: "Ledger | None") -> dict[str, Any]:
    """What the items of each target can carry: the report of ``empelt gate lint``."""
    read = _reader(ledger)
    rows = []
    for one in gates:
        known = list(_on_record(one, ledger, read))

        def on_record(
            check: Check, known: list[tuple[Evaluation | None, dict[str, Evaluation], Evaluation | None]] = known
        ) -> list[Trio]:
            return [_trio(check, *found) for found in known]

        found = lint(one.gate, lambda name: len(chosen(name)), on_record)
        rows += [{"family": one.family, "target": one.target, **row._asdict()} for row in found]
    refused = sum(row["standing"] == "refused" for row in rows)
    return {"gate": gates[0].gate.name, "refused": refused, "margins": rows}


def _reader(ledger: "Ledger | None") -> Callable[[Digest], Sequence[Evaluation]]:
    return cache(lambda digest: ledger.evaluations_of(digest) if ledger is not None else [])


def _on_record(
    one: Fitted, ledger: "Ledger | None", read: Callable[[Digest], Sequence[Evaluation]]
) -> Iterator[tuple[Evaluation | None, dict[str, Evaluation], Evaluation | None]]:
    """Candidate, parents and live model of each verdict on the target, newest first."""
    for fact in ledger.verdicts(one.family, one.target) if ledger is not None else ():
        verdict = Verdict.model_validate(fact.payload)
        candidate = joined_for(one.gate, read(verdict.candidate_digest), {})
        like = candidate.facts if candidate is not None else {}
        parents = {role: joined_for(one.gate, read(digest), like) for role, digest in verdict.parent_digests.items()}
        live = joined_for(one.gate, read(verdict.live_digest), like) if verdict.live_digest else None
        yield candidate, {role: found for role, found in parents.items() if found is not None}, live


def _trio(check: Check, candidate: Evaluation | None, parents: dict[str, Evaluation], live: Evaluation | None) -> Trio:
    scores = {role: score for role, one in parents.items() if (score := score_of(one, check)) is not None}
    return Trio(score_of(candidate, check), scores, score_of(live, check))


def lint_text(found: dict[str, Any]) -> str:
    """The report for people: one line a margin, what is refused last."""
    names = ("target", "benchmark", "against", "margin", "n", "discordance", "detectable", "power", "", "why")
    rows = [
        (
            f"{row['family']}/{row['target']}",
            row["benchmark"],
            row["against"],
            _number(row["margin"]),
            row["items"],
            _number(row["discordance"]) + (" assumed" if row["assumed"] and row["discordance"] is not None else ""),
            _number(row["detectable"]),
            _number(row["power"]),
            row["standing"],
            row["why"],
        )
        for row in found["margins"]
    ]
    told = (
        f"{found['refused']} of {len(rows)} margins refused"
        if found["refused"]
        else f"{len(rows)} margins, none refused"
    )
    return f"{table(names, rows)}\ngate {found['gate']}: {told}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def replayed(gates: Sequence[Fitted], ledger: "Ledger") -> dict[str, Any]:
    """What a gate says of every verdict on record, from stored items: the report of ``empelt replay``."""
    read, found, without = _reader(ledger), [], 0
    for one in gates:
        for fact in ledger.verdicts(one.family, one.target):
            before = Verdict.model_validate(fact.payload)
            again = replay(
                one.gate,
                before,
                read,
                permuted,
                family=one.family,
                target=one.target,
                verdict_key=fact.verdict_key,
                requests_of=requests_of,
            )
            without += again is None
            found += [] if again is None else [again]
    return {
        "gate": gates[0].gate.name,
        "verdicts": len(found),
        "changed": sum(one.changes for one in found),
        "without_items": without,
        "replayed": [{**one.model_dump(mode="json"), "changes": one.changes} for one in found],
    }


def replay_text(found: dict[str, Any]) -> str:
    """The report for people: one line a verdict, the newest first, and why where it changes."""
    rows = [
        (
            f"{row['family']}/{row['target']}",
            row["candidate"][:12],
            _ended(row["before"], row["stronger_before"]),
            _ended(row["after"], row["stronger_after"]),
            f"look {row['stop']['look']} of {row['stop']['of']}" if row["stop"] else "",
            "CHANGES" if row["changes"] else "",
            row["reasons"][0] if row["changes"] else "",
        )
        for row in found["replayed"]
    ]
    told = f"gate {found['gate']}: {found['changed']} of {found['verdicts']} verdicts change"
    if found["without_items"]:
        told += f"; {found['without_items']} have no stored items and were not judged"
    return f"{table(('target', 'candidate', 'before', 'after', 'decided', '', 'why'), rows)}\n{told}"


def _ended(outcome: str, stronger: bool | None) -> str:
    return outcome + {None: "", True: ", stronger", False: ", not stronger"}[stronger]
