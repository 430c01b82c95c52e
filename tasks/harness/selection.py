"""What a search for a recipe may ask: texts and chat questions of the ``dev`` split, which no gate asks.

Of a question its words are read, and not the right answer.

The two splits share no question and no paragraph (tests/infra/demo_family/test_data.py).
"""

from functools import cache

from tasks.harness.suite import SUITES, read_items

KINDS = {"texts": ("bpb", "text"), "questions": ("chat", "question")}
"""What is asked -> the ending of the benchmark's name, and the key of the item that is read; nothing else of it is."""


@cache
def dev_sets() -> dict[str, dict[str, int]]:
    """``texts`` and ``questions``: language -> how many there are. Sets named by more than a language are left out."""
    return {
        kind: {
            code: len(asked(kind, code))
            for path in sorted((SUITES / "data").glob(f"*_{ending}.dev.jsonl"))
            if "_" not in (code := path.name.removesuffix(f"_{ending}.dev.jsonl"))
        }
        for kind, (ending, _) in KINDS.items()
    }


@cache
def asked(kind: str, language: str) -> tuple[str, ...]:
    """The texts or questions of a language, in the order of the permutation.

    Raises:
        InputError: there are none.
    """
    ending, key = KINDS[kind]
    return tuple(str(item[key]) for item in read_items(f"{language}_{ending}", split="dev"))
