"""A gate file made to fit one target: ``{language}`` filled in, and refused where it cannot serve that target.

One file serves every language, so what is wrong for one target shows only here: a language without a suite, a
comparison with ``tuned`` where there are several tuned bases, more requests than the budget allows.
"""

from collections.abc import Callable, Collection, Sequence

from pydantic import ValidationError

from tasks.domain.errors import CatalogError
from tasks.domain.examination import EXAMINED_REQUESTS
from tasks.domain.gate import PLACEHOLDER, Check, Gate, expand
from tasks.domain.repeats import REPEATED_REQUESTS
from tasks.domain.slices import checks_of

Where = Callable[[tuple[str | int, ...]], str]


def fit_gate(
    gate: Gate,
    where: Where,
    languages: Sequence[str],
    *,
    known: Collection[str] | None = None,
    requests_of: Callable[[str], int] | None = None,
) -> Gate:
    """The gate of a target with these ``languages``.

    Args:
        gate: as its file says.
        where: names file, line and key of a place in that file (``Document.where``).
        languages: of the target.
        known: the benchmarks that there are; None leaves names unchecked.
        requests_of: HTTP requests that a benchmark costs; None leaves the budget unchecked.

    Raises:
        CatalogError: listing file, line and key of every problem.
    """
    problems = []
    for index, check in enumerate(gate.checks):
        place = where(("checks", index))
        for one in expand(check, languages):
            if known is not None and one.benchmark not in known:
                filled = (
                    f" (that is {check.benchmark} for {one.language!r})" if one.benchmark != check.benchmark else ""
                )
                problems.append(f"{place}: no suite defines {one.benchmark}{filled}. Known: {', '.join(sorted(known))}")
            problems += [f"{place}: {said}" for said in _wrong_language(one, languages)]
    for name, pooled in gate.slices.items():
        for found in checks_of(gate, pooled):
            if found is not None and found.language is None and PLACEHOLDER not in found.benchmark:
                alike = found.model_copy(update={"max_drop": pooled.max_drop, "min_gain": pooled.min_gain})
                problems += [f"{where(('slices', name))}: {said}" for said in _wrong_language(alike, languages)]
    try:
        fitted = gate.expanded(languages)
    except ValidationError as error:
        problems += [f"{where(('checks',))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
    if not problems and requests_of is not None:
        problems += [f"{where(('checks',))}: {said}" for said in _too_many(fitted, requests_of)]
    if problems:
        raise CatalogError(f"gate {gate.name} does not fit a target of {', '.join(languages)}", problems=problems)
    return fitted


def _wrong_language(check: Check, languages: Sequence[str]) -> list[str]:
    if check.language is not None and check.language not in languages:
        return [f"language {check.language!r} is none of the target's: {', '.join(languages)}"]
    if check.language is None and "tuned" in check.roles and len(languages) > 1:
        return [
            f"{check.benchmark} is compared with the tuned base, and the target has several ({', '.join(languages)});"
            " say which by language, or write {language} in the benchmark's name"
        ]
    return []


def _too_many(gate: Gate, requests_of: Callable[[str], int]) -> list[str]:
    costs = {name: requests_of(name) for name in gate.benchmarks}
    beside = EXAMINED_REQUESTS + REPEATED_REQUESTS
    total = sum(costs.values()) + beside
    if total <= gate.max_requests:
        return []
    dearest = sorted(costs, key=lambda name: -costs[name])[:4]
    return [
        f"its suites and {beside} questions of the examination and of A/A need {total} requests for one candidate,"
        f" {gate.max_requests} are allowed; the dearest are"
        f" {', '.join(f'{name} ({costs[name]})' for name in dearest)}. Ask fewer items, or state max_requests"
    ]
