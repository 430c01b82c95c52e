"""What a served model says to the questions of an examination, each answer marked; in the ledger, so that a parent is
asked once and an attempt that was cut off asks nothing again. Plain Python.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.domain.examination import SHARE
from tasks.domain.keys import eval_key
from tasks.domain.models import Artifact, Digest, Evaluation, Item, Score
from tasks.domain.outputs import measured_facts
from tasks.doors import open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.endpoints.questions import ask_questions
from tasks.harness.behaviour import Answer, Marks, marks_of
from tasks.harness.facts import describe
from tasks.harness.questions import CHAT_TOKENS, TEXT_TOKENS, Source
from tasks.scores import record, template_digest
from tasks.settings import settings

logger = logging.getLogger(__name__)
WINDOW_SHARE = 4
"""A chat may take so many times less than the model's longest context; the demo's models have 512 tokens."""


class Heard(NamedTuple):
    """What is on record, or was asked now."""

    marks: dict[str, dict[str, bool]]
    """Mark to prompt to whether it is so, of chats."""
    languages: dict[str, list[str]]
    """Language asked for to those found, of answers that are long enough."""
    requests: int
    """Sent now."""


def hear(ready: Ready, sources: Sequence[Source]) -> Heard:
    """What the model at ``ready`` says to ``sources``: from the ledger where it is, and what is missing asked now.

    Raises:
        InputError: the server refused a question.
        EndpointUnavailable: it did not answer, or broke off.
    """
    heard, artifact = Heard({}, {}, 0), open_store().get(ready.digest)
    for source in sources:
        known = on_record(artifact, ready.serving, source)
        if known is None:
            known = record(ready.model, _ask(ready, artifact, source))
            heard = heard._replace(requests=heard.requests + source.requests)
        for score in known.scores:
            mark = score.benchmark.partition(":")[2]
            if mark == "language":
                heard.languages.setdefault(source.language, []).extend(i.answer for i in score.items if i.answer)
            else:
                own = heard.marks.setdefault(mark, {})
                own |= {f"{source.name} {item.item_id}": bool(item.value) for item in score.items}
    if heard.requests:
        logger.info("%s: examined in %d requests", ready.model, heard.requests)
    return heard


def on_record(artifact: Artifact, serving: Mapping[str, str], source: Source) -> Evaluation | None:
    """What the ledger has of a model's answers to ``source``, served so."""
    return open_ledger().evaluation(key_of_answers(artifact, serving, source))


def key_of_answers(artifact: Artifact, serving: Mapping[str, str], source: Source) -> Digest:
    """Names what the model, served so, says to ``source``."""
    facts, template = measured_facts(serving), template_digest(Path(artifact.folder))
    return eval_key(artifact=artifact.digest, template=template, serving=facts, suite=source.digest, lm_eval="")


def _ask(ready: Ready, artifact: Artifact, source: Source) -> Evaluation:
    folder = Path(artifact.folder)
    longest = describe(folder).max_length // WINDOW_SHARE
    tokens = min(CHAT_TOKENS, longest) if source.kind == "chat" else min(TEXT_TOKENS, longest)
    prompts = [text for _, text in source.prompts]
    said = ask_questions(ready.base_url, ready.model, prompts, kind=source.kind, tokens=tokens, key=settings().own_key)
    special = _special(folder)
    marks = [marks_of(Answer(source.language, one.text, one.finish_reason), special) for one in said]
    kept = [one.text[:200] for one in said]
    scores = [_score(source, mark, marks, kept) for mark in Marks._fields[:-1]] if source.kind == "chat" else []
    if source.language:
        rows = [(one.language == source.language, one.language) for one in marks]
        scores.append(_shares(source, "language", [float(right) for right, _ in rows], [code for _, code in rows]))
    facts = {**measured_facts(ready.serving), f"requests:examined_{source.name}": str(source.requests)}
    key = key_of_answers(artifact, ready.serving, source)
    return Evaluation(eval_key=key, artifact_digest=ready.digest, scores=tuple(scores), facts=facts)


def _score(source: Source, mark: str, marks: Sequence[Marks], kept: Sequence[str]) -> Score:
    return _shares(source, mark, [float(getattr(one, mark)) for one in marks], kept if mark == "empty" else [])


def _shares(source: Source, mark: str, values: Sequence[float], texts: Sequence[str]) -> Score:
    said = list(texts) or [""] * len(values)
    ids = [name for name, _ in source.prompts]
    items = tuple(Item(item_id=i, value=v, answer=t) for i, v, t in zip(ids, values, said, strict=True))
    share = sum(values) / len(values)
    name = f"examined_{source.name}:{mark}"
    return Score(
        benchmark=name, metric=SHARE, value=share, stderr=0.0, n=len(items), higher_is_better=False, items=items
    )


def _special(folder: Path) -> tuple[str, ...]:
    tokens = json.loads((folder / "tokenizer.json").read_text("utf-8")).get("added_tokens") or []
    return tuple(token["content"] for token in tokens if token.get("special"))
