"""What an item asked, and its right answer: from the suites that are here, for pages that show single items."""

from collections.abc import Mapping
from functools import cache

from tasks.domain.errors import PipelineError
from tasks.domain.evidence import Evidence
from tasks.domain.insight import Ask
from tasks.harness.suite import benchmark_digest, chosen

LONGEST = 200
"""Characters of a question, or of an answer, that are shown."""


def asker(evidence: Evidence) -> Ask:
    """Question and right answer of an item, where the suite that is here is the one that was asked."""

    @cache
    def items(benchmark: str) -> Mapping[str, tuple[str, str]]:
        try:
            if evidence.candidate.facts.get(f"benchmark:{benchmark}") != benchmark_digest(benchmark):
                return {}
            return {str(item["id"]): _told(item) for item in chosen(benchmark)}
        except (PipelineError, OSError):  # data of others that were never brought to this host
            return {}

    return lambda benchmark, item: items(benchmark).get(item, ("", ""))


def _told(item: Mapping[str, object]) -> tuple[str, str]:
    choices, answer = item.get("choices"), item.get("answer", "")
    if isinstance(choices, list) and isinstance(answer, int):
        answer = choices[answer]
    question = item.get("question") or item.get("prompt") or ""
    return str(question)[:LONGEST], str(answer)[:LONGEST]
