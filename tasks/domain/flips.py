"""The items that a candidate lost: which of them are worst, with what was answered before and after.

An item is worse lost the more of the references have it right: what the live model, the instruct parent and the tuned
parent all know and the candidate does not is no accident of one of them. Only items that are right or wrong can be
lost so; texts scored in bits per byte move a little each.
"""

from collections.abc import Mapping

from tasks.domain.evidence import Evidence, score_of
from tasks.domain.models import Item, Noun
from tasks.domain.statistics import is_binary

MOST = 20


class Lost(Noun):
    """An item that the candidate has wrong and a reference right."""

    benchmark: str
    item_id: str
    critical: bool
    known_by: tuple[str, ...]
    """References that have it right; the first is the one whose answer is shown."""
    before: str
    """What that reference answered; empty where its answers are not stored."""
    after: str
    """What the candidate answered."""
    question: str = ""
    """What was asked, bounded; empty where the suite's data are not here, or have changed since."""
    gold: str = ""


def worst_flips(evidence: Evidence, most: int = MOST) -> tuple[Lost, ...]:
    """At most ``most`` lost items, worst first: known by most references, critical slices first.

    Where several are equally bad the benchmarks take turns, so that one of them does not fill the list.
    """
    others = {**({"live": evidence.live} if evidence.live else {}), **evidence.parents}
    found: list[tuple[int, Lost]] = []
    for check in evidence.gate.checks:
        ours = score_of(evidence.candidate, check)
        if ours is None or not ours.items or not is_binary(ours.items):
            continue
        known: dict[str, Mapping[str, Item]] = {}
        for role, evaluation in others.items():
            theirs = score_of(evaluation, check)
            if theirs is not None and theirs.items:
                known[role] = {item.item_id: item for item in theirs.items}
        lost = sorted(
            (row for item in ours.items if (row := _lost(check.benchmark, check.critical, item, known)) is not None),
            key=lambda row: (-len(row.known_by), row.item_id),
        )
        turns: dict[int, int] = {}
        for row in lost:
            turn = turns[len(row.known_by)] = turns.get(len(row.known_by), 0) + 1
            found.append((turn, row))
    found.sort(key=lambda pair: (-len(pair[1].known_by), not pair[1].critical, pair[0]))
    return tuple(row for _, row in found[:most])


def _lost(benchmark: str, critical: bool, item: Item, known: Mapping[str, Mapping[str, Item]]) -> Lost | None:
    if item.value != 0.0:
        return None
    right = [role for role, items in known.items() if item.item_id in items and items[item.item_id].value == 1.0]
    if not right:
        return None
    before = known[right[0]][item.item_id].answer
    told = {"benchmark": benchmark, "item_id": item.item_id, "critical": critical, "known_by": tuple(right)}
    return Lost.model_validate({**told, "before": before, "after": item.answer})
