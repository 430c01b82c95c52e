"""What a candidate is held to before any benchmark is asked: its files, and how it behaves when it is spoken to. Pure.

Each check is against the instruct parent on the same prompts, since parents differ in how they talk; but for the
language, which the parent may not speak: that is held to the gate's own floor. Prompts are few, so a check fails on
evidence and not on a single answer: the paired sign test on the prompts where one of the two goes wrong and the other
does not, and the binomial for the language. Empty answers and leaked template tokens are the exception: not one more
than the parent has. A check that could not be made is undecided, and the verdict with it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tasks.domain.models import Noun

LEVEL = 0.05
"""One-sided error of each check that counts answers."""
LANGUAGE_LEVEL = 0.01
"""Of that of the language: the small model of the demo goes on in Galician on .5 of texts, and its floor is .5."""
ALLOWED = {"endless": 0.05, "loops": 0.05}
"""How much larger a candidate's share may be than its parent's before the test is asked."""
NEVER = frozenset({"empty", "leaks"})
"""Of these not one more than the parent has."""
EXAMINED_REQUESTS = 60
"""HTTP requests that an examination may take at most; part of a gate's budget."""
SHARE, NORM = "share", "norm"
"""Metrics under which the ledger keeps what was found; no gate knows them."""


class Examined(Noun):
    """One check."""

    name: str
    """``tokenizer``, ``template``, ``stop_tokens``, ``norms``; ``empty``, ``endless``, ``loops``, ``leaks``,
    ``thinks``, ``language``; ``repeats`` and ``noise:<benchmark>`` of A/A (``tasks.domain.repeats``)."""
    stage: Literal["files", "server"]
    ok: bool | None
    """None: it could not be told, which never passes."""
    value: float | None = None
    """Share of the candidate's answers, 0 to 1, of A/A what it says there; None for files."""
    parent: float | None = None
    """The instruct parent's share on the same prompts."""
    limit: float | None = None
    """The most that is let through; for a language the least."""
    n: int = 0
    """Answers."""
    reasons: tuple[str, ...] = ()
    """Sentences with values; empty if it holds."""

    @property
    def sentence(self) -> str:
        """For the reasons of a verdict."""
        return f"Examined, {self.name}: {'; '.join(self.reasons)}."


def refused(examined: Iterable[Examined]) -> bool:
    """Whether a check failed."""
    return any(one.ok is False for one in examined)


def undecided(examined: Iterable[Examined]) -> bool:
    """Whether a check could not be made."""
    return any(one.ok is None for one in examined)


def of_file(name: str, problems: Sequence[str]) -> Examined:
    """A check on the files, which fails if there are ``problems``."""
    return Examined(name=name, stage="files", ok=not problems, reasons=tuple(problems))


def of_answers(name: str, ours: Sequence[bool], theirs: Sequence[bool]) -> Examined:
    """How often the candidate goes wrong, beside its instruct parent on the same prompts in the same order."""
    n, mine, parents = len(ours), sum(ours), sum(theirs)
    only_mine = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    either_way = name == "thinks"
    more = abs(only_mine - only_theirs) if either_way else only_mine - only_theirs
    allowed = 0.0 if name in NEVER else ALLOWED.get(name, 0.1)
    unlikely = _half_tail(max(only_mine, only_theirs), only_mine + only_theirs) * (2 if either_way else 1) <= LEVEL
    wrong = more > 0 if name in NEVER else more > allowed * n and unlikely
    can_tell = n > 0 and (name in NEVER or 0.5**n * (2 if either_way else 1) <= LEVEL)
    said = f"{mine} of {n} answers, its instruct parent {parents}"
    why = [said] if wrong else [] if can_tell else [f"{n} prompts are too few to tell; the gate has no more"]
    ok = False if wrong else True if can_tell else None
    share = mine / n if n else None
    theirs_share = parents / n if n else None
    limit = None if theirs_share is None else theirs_share + allowed
    return Examined(
        name=name, stage="server", ok=ok, value=share, parent=theirs_share, limit=limit, n=n, reasons=tuple(why)
    )


def of_language(found: Sequence[tuple[str, str]], floors: Mapping[str, float]) -> Examined:
    """Whether answers are in the language that was asked for, over all languages of the target.

    A target of several is looked at as a whole: that it lacks one of them is told by its benchmarks, on more texts.

    Args:
        found: of each answer that has letters enough to tell: the language asked for, and the one that it is in.
        floors: language to the share below which no model is let through.
    """
    n, right = len(found), sum(asked == own for asked, own in found)
    least = math.fsum(floors[asked] for asked, _ in found) / n if n else min(floors.values(), default=0.0)
    wrong = n > 0 and _tail_below(right, n, least) <= LANGUAGE_LEVEL
    can_tell = n > 0 and (1 - least) ** n <= LANGUAGE_LEVEL
    others = Counter(f"{own} for {asked}" for asked, own in found if asked != own)
    told = ", ".join(f"{count} {what}" for what, count in others.most_common())
    if wrong:
        why = [f"{right} of {n} answers are in the language asked for ({told}), at least {least:.0%} are to be"]
    else:
        why = [] if can_tell else [f"{n} answers had letters enough to tell their language: too few to tell"]
    ok = False if wrong else True if can_tell else None
    value = right / n if n else None
    return Examined(name="language", stage="server", ok=ok, value=value, limit=least, n=n, reasons=tuple(why))


def _half_tail(k: int, n: int) -> float:
    """Chance of at least ``k`` heads of ``n``."""
    return math.ldexp(math.fsum(math.comb(n, i) for i in range(k, n + 1)), -n)


def _tail_below(k: int, n: int, share: float) -> float:
    """Chance of at most ``k`` of ``n``, each with ``share``."""
    return math.fsum(math.comb(n, i) * math.pow(share, i) * math.pow(1 - share, n - i) for i in range(k + 1))
