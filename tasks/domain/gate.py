"""A gate is a target's limits; ``judge`` turns an evaluation into a verdict. Pure: no files, no network, no clock.

Three outcomes, never a silent pass: a check that fails rejects; else a check that cannot be decided (too few items, or
an interval that straddles the limit) leaves the verdict undecided; else it passed. An unscored benchmark fails.

Floors and ceilings compare the point value: they guard against wreckage, and their stderr is shown beside them. A drop
against a parent is judged by the gate's ``rule``:

    confident  passes if the one-sided 95 % lower bound of (candidate - parent) is above -max_drop, fails if the upper
               bound is below it, else undecided. Paired item by item where both sides stored items.
    point      passes if the point value fell by no more than max_drop. For fixtures whose n is too small for the above.

On right/wrong items the bounds are those of ``tasks.domain.statistics_paired``: exact below 300 items. ``min_gain``
asks for superiority, that the candidate is better than a parent by more than so much, by the same rule.

``keep_gain`` asks that a share of what the tuned parent gained on the instruct parent is kept, by the same rule, on
``candidate - (instruct + share * (tuned - instruct))``. Where the parents do not differ by 3 standard errors there is
no gain to keep: the limit is not gated, and the verdict says so.

All checks pass or nothing does (an intersection-union test), so a truly worse model passes with at most 5 % and no
correction for the number of checks is due. ``critical`` decides nothing here: it names the slices on which a candidate
is compared with the live model (``tasks.domain.verdict``).

``tier`` says what a check is for: ``critical`` and ``supporting`` ones decide, an ``advisory`` one is shown and decides
nothing. With ``sequential`` the candidate is judged after a part of its items (``tasks.domain.looks``). ``slices``
limit several benchmarks together (``tasks.domain.slices``).

A gate file serves many targets: ``{language}`` in a benchmark's name stands for each language of the target
(``tasks.domain.fitting``).
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from tasks.domain.errors import CatalogError, UnknownBenchmark
from tasks.domain.lineage import fingerprint
from tasks.domain.looks import Sequential
from tasks.domain.models import Digest, Noun
from tasks.domain.slices import Slice, checks_of, expanded_slices, wrong_slices

Metric = Literal["acc", "strict", "bits_per_byte", "in_language"]
Rule = Literal["confident", "point"]
Tier = Literal["critical", "supporting", "advisory"]
CONTROL = "control"
"""theta_0 + a tau_I, the merge without its languages (``tasks.domain.control``)."""
ROLES = ("instruct", "tuned", CONTROL)
"""The references that a gate may name, ``tuned:<language>`` beside them; the live model is compared by itself."""
LOWER_IS_BETTER: frozenset[str] = frozenset({"bits_per_byte"})
PLACEHOLDER = "{language}"


class Check(Noun):
    """The limits on one benchmark. Drops and tolerances are absolute, in the metric's units, and worse is positive."""

    benchmark: str = Field(min_length=1)
    metric: Metric
    floor: float | None = None
    """Lowest value let through; for metrics where higher is better."""
    ceiling: float | None = None
    """Highest value let through; for bits per byte."""
    max_drop: Mapping[str, float] = Field(default_factory=dict)
    """Parent's role (``instruct``, ``tuned``) to how much worse than it the candidate may be."""
    min_gain: Mapping[str, float] = Field(default_factory=dict)
    """Parent's role to how much better than it the candidate must be."""
    keep_gain: float | None = Field(default=None, gt=0, le=1)
    """Share of the tuned parent's gain on the instruct parent that the candidate must keep."""
    language: str | None = None
    """Whose tuned base ``tuned`` means where the target has several; ``{language}`` fills it in."""
    critical: bool = False
    """Whether the slice counts in the comparison with the live model."""
    capability: str | None = None
    """What the slice is about, for people and for linting: ``knowledge``, ``reading``, ``instruct``."""
    tier: Tier | None = None
    """``critical`` is the same as ``critical: true``; ``supporting`` if neither is given."""
    min_items: int = Field(default=1, ge=1)
    """With fewer scored items the check is undecided."""
    live_tolerance: float | None = Field(default=None, ge=0)
    """How much worse than the live model still counts as not worse; 0.03, and 0.02 for bits per byte, if not given."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.metric not in LOWER_IS_BETTER

    @property
    def decides(self) -> bool:
        """Whether the check can reject or hold a candidate."""
        return self.tier != "advisory"

    @property
    def slice(self) -> str:
        """Language and capability: ``eu.knowledge``; the benchmark's name where no capability is stated."""
        return f"{self.language or 'all'}.{self.capability}" if self.capability else self.benchmark

    @property
    def tolerance(self) -> float:
        """``live_tolerance`` with its default filled in."""
        if self.live_tolerance is not None:
            return self.live_tolerance
        return 0.03 if self.higher_is_better else 0.02

    @property
    def limit(self) -> str:
        """The limits in words, for the table of a verdict."""
        parts = []
        if self.floor is not None:
            parts.append(f">= {self.floor:g}")
        if self.ceiling is not None:
            parts.append(f"<= {self.ceiling:g}")
        parts.extend(f"{role}: at most {drop:g} worse" for role, drop in sorted(self.max_drop.items()))
        parts.extend(f"{role}: more than {gain:g} better" for role, gain in sorted(self.min_gain.items()))
        if self.keep_gain is not None:
            parts.append(f"keeps {self.keep_gain:.0%} of tuned's gain on instruct")
        return "; ".join(parts)

    @property
    def roles(self) -> frozenset[str]:
        """The parents that the check compares with, as the gate file names them."""
        return (
            frozenset(self.max_drop)
            | frozenset(self.min_gain)
            | ({"instruct", "tuned"} if self.keep_gain is not None else set())
        )

    def parent(self, role: str, roles: Collection[str]) -> str:
        """Which of ``roles`` is meant by ``role``: ``tuned`` is ``tuned:eu`` where there are several."""
        return role if role in roles or role != "tuned" or self.language is None else f"tuned:{self.language}"

    def concerns(self, role: str) -> bool:
        """Whether a parent has to be measured for this check: ``instruct`` always, as what everything starts from."""
        language = role.removeprefix("tuned:") if role.startswith("tuned:") else None
        ours = self.language is not None and language in (None, self.language)
        return role == "instruct" or role in self.roles or ours

    @model_validator(mode="after")
    def _limits_fit_the_metric(self) -> "Check":
        if self.tier is not None and self.critical != (self.tier == "critical"):
            if self.critical:
                raise ValueError(f"critical: true and tier: {self.tier} contradict each other; give one of them")
            object.__setattr__(self, "critical", True)
        wrong, right = ("floor", "ceiling") if self.metric in LOWER_IS_BETTER else ("ceiling", "floor")
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} with metric {self.metric}: it would never block. Use {right}")
        limit = self.ceiling if self.floor is None else self.floor
        if limit is None and not self.roles:
            raise ValueError(
                f"no limit at all: it would never block. Give {right}, max_drop, min_gain or keep_gain,"
                " or drop the check"
            )
        strange = [found for found in re.findall(r"{.*?}", self.benchmark) if found != PLACEHOLDER]
        if strange:
            raise ValueError(f"unknown placeholder {', '.join(strange)} in benchmark; known here: {PLACEHOLDER}")
        if PLACEHOLDER in self.benchmark and self.language is not None:
            raise ValueError(f"language is filled in by {PLACEHOLDER}; leave it out")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise ValueError(f"floor {self.floor:g} is not a share between 0 and 1")
        if self.ceiling is not None and not 0 < self.ceiling < math.inf:
            raise ValueError(f"ceiling {self.ceiling:g} is not a positive number of bits per byte")
        strangers = sorted(r for r in self.roles if r not in ROLES and not re.fullmatch(r"tuned:[a-z]{2,3}", r))
        if strangers:
            known = ", ".join(ROLES)
            raise ValueError(f"unknown reference {', '.join(strangers)}; known: {known}, tuned:<language>")
        for role, gain in self.min_gain.items():
            if not 0 <= gain < math.inf:
                raise ValueError(f"min_gain.{role} is {gain:g}: give how much better is asked for, as a number >= 0")
            if role in self.max_drop:
                raise ValueError(f"max_drop.{role} and min_gain.{role}: the second says more; drop the first")
        for role, drop in self.max_drop.items():
            if not 0 <= drop < math.inf:
                raise ValueError(f"max_drop.{role} is {drop:g}: give how much worse is allowed, as a number >= 0")
        return self


class Gate(Noun):
    """A target's limits."""

    name: str = Field(min_length=1)
    rule: Rule = "confident"
    """How a drop is judged; see the module's docstring."""
    checks: tuple[Check, ...]
    max_requests: int = Field(default=1500, ge=1)
    """Budget of HTTP requests for one candidate; suites that need more are refused when the catalog is read."""
    sequential: Sequential | None = None
    """When the candidate is judged before all items are there; None: once, with all."""
    slices: Mapping[str, Slice] = Field(default_factory=dict)
    """Name to a limit on several benchmarks together."""

    def digest(self) -> Digest:
        """Changes with every limit; not with the order of checks. A changed gate makes a new verdict due.

        Defaults are left out, so that a kind of limit that is added later changes no gate on record.
        """
        stated = (c.model_dump(exclude_defaults=True) for c in self.checks)
        checks = sorted(stated, key=lambda c: (c["benchmark"], c["metric"]))
        later: dict[str, Any] = {}
        if self.sequential is not None:
            later["sequential"] = self.sequential.model_dump(mode="json")
        if self.slices:
            later["slices"] = {name: one.model_dump(exclude_defaults=True) for name, one in self.slices.items()}
        return fingerprint(kind="gate", name=self.name, rule=self.rule, checks=checks, **later)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """What has to be measured, each once, in order of the checks."""
        return tuple(dict.fromkeys(c.benchmark for c in self.checks))

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the items after which the candidate is judged; all of them at once for a gate without looks."""
        return self.sequential.looks if self.sequential else (1.0,)

    def benchmarks_of(self, role: str) -> tuple[str, ...]:
        """What a parent has to be measured on; nothing for a tuned base that no check is about."""
        pooled = {
            c.benchmark
            for one in self.slices.values()
            for c in checks_of(self, one)
            if c is not None and role in {c.parent(name, [role]) for name in one.roles}
        }
        return tuple(dict.fromkeys(c.benchmark for c in self.checks if c.concerns(role) or c.benchmark in pooled))

    @property
    def roles(self) -> tuple[str, ...]:
        """The parents that some check compares with."""
        limits: list[Check | Slice] = [*self.checks, *self.slices.values()]
        return tuple(sorted({role for one in limits for role in one.roles}))

    def expanded(self, languages: Collection[str]) -> "Gate":
        """The gate of a target: each check with ``{language}`` once for each of ``languages``.

        Raises:
            ValidationError: if two checks become the same.
        """
        checks = [one.model_dump() for check in self.checks for one in expand(check, languages)]
        slices = {name: one.model_dump() for name, one in expanded_slices(self.slices, languages).items()}
        return Gate.model_validate({**self.model_dump(), "checks": checks, "slices": slices})

    @model_validator(mode="after")
    def _checks_are_of_use(self) -> "Gate":
        if not self.checks:
            raise ValueError("checks is empty. A gate without checks would let everything through; add one")
        pairs = [(c.benchmark, c.metric) for c in self.checks]
        twice = sorted({f"{b}/{m}" for b, m in pairs if pairs.count((b, m)) > 1})
        if twice:
            raise ValueError(f"checked twice: {', '.join(twice)}. Join their limits in one check")
        if self.rule == "point" and self.sequential is not None:
            raise ValueError("sequential with rule point: point values know no uncertainty to stop by. Use confident")
        if not any(c.critical for c in self.checks) and not any(one.critical for one in self.slices.values()):
            raise ValueError("no check is critical: no candidate could ever be stronger than the live model. Mark some")
        return self


def expand(check: Check, languages: Iterable[str]) -> tuple[Check, ...]:
    """``check`` for each language if it has the placeholder, else itself."""
    if PLACEHOLDER not in check.benchmark:
        return (check,)
    return tuple(
        check.model_copy(update={"benchmark": check.benchmark.replace(PLACEHOLDER, code), "language": code})
        for code in languages
    )


def parse_gate(
    mapping: Any, where: str | Callable[[tuple[str | int, ...]], str], *, known: Collection[str] | None = None
) -> Gate:
    """A gate from the mapping that a YAML file holds.

    Args:
        mapping: ``name``, ``rule`` (optional) and ``checks``, a list of mappings with the fields of ``Check``.
        where: the file, for messages; or what names file, line and key of a place in it (``Document.where``).
        known: the benchmarks that there are (``tasks.harness.known_benchmarks()``); None leaves them unchecked.

    Raises:
        CatalogError: naming file and key of every problem: unknown key, missing key, wrong value, zero checks.
        UnknownBenchmark: if a check names a benchmark that is not in ``known``; one with ``{language}`` is let through.
    """
    file = where if isinstance(where, str) else where(()).split(":", 1)[0]
    if not isinstance(mapping, Mapping):
        raise CatalogError(f"{file}: a gate is a mapping with name and checks, this is {type(mapping).__name__}")
    try:
        gate = Gate.model_validate(mapping)
    except ValidationError as error:
        problems = [_in_words(where, e["loc"], e["type"], e["msg"], e.get("input")) for e in error.errors()]
        raise CatalogError(f"{file}: not a valid gate", problems=problems) from error
    if wrong := [f"{_place(where, loc)}: {said}" for loc, said in wrong_slices(gate, ROLES)]:
        raise CatalogError(f"{file}: not a valid gate", problems=wrong)
    unknown = [b for b in gate.benchmarks if b not in known and PLACEHOLDER not in b] if known is not None else []
    if known is not None and unknown:
        raise UnknownBenchmark(
            f"{file}: no suite defines {', '.join(unknown)}. Known: {', '.join(sorted(known))}",
            problems=[
                f"checks[{i}].benchmark: {c.benchmark}" for i, c in enumerate(gate.checks) if c.benchmark in unknown
            ],
        )
    return gate


def _in_words(
    where: str | Callable[[tuple[str | int, ...]], str], loc: tuple[int | str, ...], kind: str, message: str, value: Any
) -> str:
    place = _place(where, loc)
    if kind == "extra_forbidden":
        known = dict(Gate.model_fields if len(loc) == 1 else Check.model_fields)
        known = {"sequential": Sequential.model_fields, "slices": Slice.model_fields}.get(str(loc[0]), known)
        return f"{place}: unknown key; known here: {', '.join(known)}"
    shown = "" if kind in ("missing", "value_error") else f" (found {value!r})"
    return f"{place}: {message.removeprefix('Value error, ')}{shown}"


def _place(where: str | Callable[[tuple[str | int, ...]], str], loc: tuple[int | str, ...]) -> str:
    """File, line and key; the key alone where only the file's name is known."""
    if not isinstance(where, str):
        return where(loc)
    key = ""
    for part in loc:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key or "gate"
