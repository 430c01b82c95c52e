"""Prefect tasks that hear the models of a search: what they need for dev texts and the instruct parent's answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.candidates import search_stated
from tasks.domain.errors import LogprobsMissing, ModelRefused
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.outputs import measured_facts
from tasks.domain.search import (
    ANSWERS,
    TEXT,
    Asked,
    Heard,
    NoGain,
    Sets,
    Sum,
    Tried,
    gains,
    heard_key,
    heard_of,
    worth,
)
from tasks.doors import open_ledger
from tasks.endpoints.likelihood import ask_answers, ask_bits
from tasks.endpoints.protocol import Ready
from tasks.harness.selection import asked
from tasks.runs import is_transient
from tasks.settings import settings
from tasks.stage import REFERENCE, staged

Serving = dict[str, str]


class Parents(NamedTuple):
    """What candidates are held against."""

    sets: Sets
    bits: Mapping[str, tuple[float, ...]]
    """Of the instruct parent, by set."""
    tuned: Mapping[str, tuple[float, ...]]
    """Language -> of its tuned parent, on that language's texts."""

    def heard(self, upto: int) -> tuple[Heard, dict[str, Sum]]:
        """Both, on the first items of each set."""
        tuned = {code: heard_of({TEXT + code: bits}, self.sets, upto).texts[code] for code, bits in self.tuned.items()}
        return heard_of(self.bits, self.sets, upto), tuned


HEARD: dict[str, Any] = {"cache_policy": NO_CACHE, "retries": 1, "retry_condition_fn": is_transient}


def hear_parents(job: Job, serving: Serving) -> Parents:
    """The instruct parent's answers, and what the parents need for everything that candidates are heard on."""
    search = search_stated(job)
    most, languages = search.items[-1], list(_tuned(job))
    sets: dict[str, tuple[Asked, ...]] = {
        TEXT + code: tuple(Asked(text=text) for text in asked("texts", code)[:most]) for code in languages
    }
    instruct = job.lineage.digest_of("instruct")
    questions = {ANSWERS + code: asked("questions", code)[:most] for code in search.answers}
    found = hear(f"{job.name} (instruct parent)", job, instruct, REFERENCE, sets, serving, questions=questions)
    sets |= {name: tuple(map(Asked.model_validate, found[name])) for name in questions}
    bits = hear(f"{job.name} (instruct parent)", job, instruct, REFERENCE, sets, serving)
    tuned = {}
    for code, digest in _tuned(job).items():
        own = {TEXT + code: sets[TEXT + code]}
        tuned[code] = hear(f"{job.name} (tuned parent {code})", job, digest, REFERENCE, own, serving)[TEXT + code]
    return Parents(sets, bits, tuned)


@task(name="hear", task_run_name="hear {label}", **HEARD)
def hear(
    label: str,
    job: Job,
    digest: Digest,
    channel: str,
    sets: Sets,
    serving: Serving,
    questions: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """Bits of each item of each set, or the model's answers to ``questions``; what is on record is not asked again.

    The model is put up only if something is missing.
    """
    facts, ledger, wanted = measured_facts(serving), open_ledger(), questions or sets
    asking = {name: list(map(_plain, items)) for name, items in wanted.items()}
    keys = {name: heard_key(artifact=digest, serving=facts, asked=items) for name, items in asking.items()}
    found = {name: ledger.hearing(key) for name, key in keys.items()}
    missing = [name for name, known in found.items() if known is None]
    if missing:
        with staged(job.family, digest, channel, None) as ready:
            for name in missing:
                heard = _answers(ready, questions[name]) if questions else _bits(ready, sets[name])
                ledger.record_hearing(keys[name], digest, heard)
                found[name] = ledger.hearing(keys[name])
    get_run_logger().info("%s: heard on %d sets, %d of them now", label, len(found), len(missing))
    return {name: tuple(known or ()) for name, known in found.items()}


def hear_round(
    job: Job, candidates: Mapping[Digest, tuple[Job, Digest]], parents: Parents, number: int, serving: Serving
) -> dict[Digest, Tried]:
    """What each candidate is worth after this round; one that cannot be heard is worth nothing, and says why."""
    search = search_stated(job)
    upto, found = search.items[number - 1], {}
    instruct, tuned = parents.heard(upto)
    for key, (one, digest) in candidates.items():
        label, stated = f"{job.name} (candidate {key[:8]}, round {number})", {"merge_key": key, "round": number}
        stated |= {"recipe": dict(one.lineage.recipe)}
        try:
            gains(instruct, tuned)  # without one no model is put up: it would be worth nothing, whatever it says
            bits: dict[str, tuple[float, ...]] = {}
            for before, after in zip((0, *search.items), search.items[:number], strict=False):
                part = {name: items[before:after] for name, items in parents.sets.items() if items[before:after]}
                for name, values in hear(label, job, digest, job.channel, part, serving).items():
                    bits[name] = (*bits.get(name, ()), *values)
            value = worth(heard_of(bits, parents.sets, upto), instruct, tuned, search.closeness)
            found[key] = Tried(**stated, **value._asdict())
        except (ModelRefused, LogprobsMissing, NoGain) as refused:
            found[key] = Tried(**stated, why=" ".join(str(refused).split())[:500])
    return found


def _plain(item: Asked | str) -> Any:
    return item if isinstance(item, str) else item.model_dump(mode="json")


def _tuned(job: Job) -> dict[str, Digest]:
    """Language -> digest of its tuned base."""
    roles = {part.role: part.digest for part in job.lineage.ingredients}
    return {role.removeprefix("tuned:"): digest for role, digest in roles.items() if role.startswith("tuned:")}


def _answers(ready: Ready, questions: Sequence[str]) -> list[dict[str, Any]]:
    found = ask_answers(ready.base_url, ready.model, questions, key=settings().own_key)
    if not found:
        raise ModelRefused(f"{ready.model} answers none of {len(questions)} questions: nothing can be kept of it")
    return [one.model_dump(mode="json") for one in found]


def _bits(ready: Ready, items: Sequence[Asked]) -> list[float]:
    return list(ask_bits(ready.base_url, ready.model, items, key=settings().own_key))
