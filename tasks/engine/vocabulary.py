"""What each token id means, and which ids belong to the chat template.

Sizes say nothing: two tokenizers of 128,256 entries can differ in every one, and a merge of their embeddings is
noise that no check of shapes notices. So the maps id -> token are compared, added tokens included.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint import Checkpoint, read_json, read_small, read_text
from .errors import CheckpointError, MergeError, VocabularyMismatch

_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Variables by which a chat template names a token without spelling it."""


def read_vocabulary(folder: Path) -> dict[int, str]:
    """The map id -> token of ``tokenizer.json``; read once as long as the file stays as it is, so do not change it.

    Raises:
        CheckpointError: No such file, or a form that is not known.
        VocabularyMismatch: Two tokens claim one id.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path}: missing, so the meaning of the rows cannot be compared; save the tokenizer in its fast form"
        )
    return _tokenizer(path).tokens


class _Tokenizer(NamedTuple):
    """What is asked of a ``tokenizer.json``."""

    tokens: dict[int, str]
    added: list[dict[str, Any]]


_READ: dict[bytes, _Tokenizer] = {}
"""The last few by the digest of the file: a base and its children nearly always have the same, and reading 128,000
tokens takes 0.04 s."""
_READ_MOST = 4


def _tokenizer(path: Path) -> _Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; fetch the checkpoint again")
    state = path.stat()
    digest = _digest(path, state.st_mtime_ns, state.st_size)
    found = _READ.get(digest)
    if found is None:
        content = read_json(path)
        found = _Tokenizer(_vocabulary(path, content), _added_tokens(content))
        while len(_READ) >= _READ_MOST:
            _READ.pop(next(iter(_READ)), None)
        _READ[digest] = found
    return found


@functools.lru_cache(maxsize=8)
def _digest(path: Path, changed: int, size: int) -> bytes:
    return hashlib.sha256(read_small(path)).digest()


def _vocabulary(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    tokens: dict[int, str] = {}
    clashes: list[str] = []

    def claim(number: Any, token: Any) -> None:
        if type(number) is not int or number < 0 or not isinstance(token, str):
            raise CheckpointError(f"{path}: {token!r} -> {number!r} is no token with its id; fetch the tokenizer again")
        if tokens.setdefault(number, token) != token:
            clashes.append(f"id {number} is both {tokens[number]!r} and {token!r}")

    if isinstance(vocab, dict):  # BPE, WordPiece, WordLevel
        tokens = {number: token for token, number in vocab.items() if type(number) is int and number >= 0}
        if len(tokens) < len(vocab):  # something is wrong: say what
            tokens.clear()
            for token, number in vocab.items():
                claim(number, token)
    elif isinstance(vocab, list):  # Unigram: [token, score], the id is the position
        for number, entry in enumerate(vocab):
            claim(number, entry[0] if isinstance(entry, list) and entry else None)
    else:
        raise CheckpointError(f"{path}: model.vocab is {type(vocab).__name__}, expected a mapping or a list")
    for entry in _added_tokens(content):
        claim(entry.get("id"), entry.get("content"))
    if clashes:
        raise VocabularyMismatch(f"{path}: {'; '.join(clashes[:5])} ({len(clashes)} in all); expected one token per id")
    return tokens


def compare_vocabularies(label: str, theirs: Mapping[int, str], ours: Mapping[int, str]) -> VocabularyMismatch | None:
    """What separates one input's tokenizer from the instruct model's, or None.

    Args:
        label: Who ``theirs`` is: ``tuned base eu``.
        theirs: Its map id -> token.
        ours: The instruct model's.
    """
    if theirs == ours:
        return None
    differing = [number for number in sorted(theirs.keys() | ours.keys()) if theirs.get(number) != ours.get(number)]
    examples = "; ".join(
        f"id {number} is {_quote(theirs.get(number))} in {label} and {_quote(ours.get(number))} in instruct"
        for number in differing[:3]
    )
    return VocabularyMismatch(
        f"the tokenizer of {label} is not the instruct model's: {len(differing)} of {len(ours)} ids differ, first "
        f"{examples}. Rows of such models cannot be added; use a model with the instruct model's tokenizer"
    )


def chat_token_ids(folder: Path) -> list[int]:
    """Ids of the special tokens that the chat template of a model writes, sorted.

    A special token counts when the template spells it, or names it by a variable such as ``eos_token``.

    Raises:
        CheckpointError: The model has no chat template.
    """
    added = _tokenizer(folder / "tokenizer.json").added
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    template = chat_template(folder)
    if not template:
        raise CheckpointError(
            f"{folder}: has no chat template (chat_template.jinja or tokenizer_config.json: chat_template), and "
            "special_rows: instruct needs one; set special_rows: merge"
        )
    named = {_content(config.get(variable)) for variable in _NAMED_TOKENS if variable in template}
    return sorted(
        entry["id"]
        for entry in added
        if entry.get("special") and (entry["content"] in template or entry["content"] in named)
    )


def _added_tokens(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    added = content.get("added_tokens") or []
    return [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []


def chat_template(folder: Path) -> str:
    """Every template that the model ships, as one text; empty when it ships none."""
    config_path, legacy = folder / "tokenizer_config.json", folder / "chat_template.json"
    config = read_json(config_path) if config_path.is_file() else {}
    parts = [read_text(path) for path in sorted(folder.glob("chat_template*.jinja"))]
    stated = [config.get("chat_template"), read_json(legacy).get("chat_template") if legacy.is_file() else None]
    # Several templates stand as a list of {"name": ..., "template": ...}.
    return "\n".join([*parts, *(part if isinstance(part, str) else json.dumps(part) for part in stated if part)])


def _content(token: object) -> str | None:
    """A token of ``tokenizer_config.json``: a string, or an object around one; None for anything else."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _quote(token: str | None) -> str:
    return "no token" if token is None else repr(token)


def vocabulary_problems(
    instruct: Checkpoint, others: Mapping[str, Checkpoint], vocabulary: str = "refuse"
) -> list[MergeError]:
    """Every input whose ids mean something else than the instruct model's, unless a policy says what to do about it.

    And tokenizers that cannot be read, and ids that have no row.
    """
    problems: list[MergeError] = []
    vocabularies: dict[str, dict[int, str]] = {}
    if not any((checkpoint.path / "tokenizer.json").is_file() for checkpoint in [instruct, *others.values()]):
        return problems  # towers without a text side, and the like: there are no ids to mean anything
    for label, checkpoint in {"instruct": instruct, **others}.items():
        try:
            vocabularies[label] = read_vocabulary(checkpoint.path)
        except CheckpointError as error:
            problems.append(type(error)(f"{label}: {error}"))
    read = {"instruct": instruct, **others} if vocabulary == "match_tokens" else {"instruct": instruct}
    problems += [problem for label in read for problem in _without_row(label, read[label], vocabularies.get(label))]
    ours = vocabularies.pop("instruct", None)
    if ours is None:
        return problems
    if vocabulary != "refuse":
        return problems
    compared = [compare_vocabularies(label, theirs, ours) for label, theirs in vocabularies.items()]
    return problems + [problem for problem in compared if problem is not None]


def _without_row(label: str, checkpoint: Checkpoint, tokens: Mapping[int, str] | None) -> list[MergeError]:
    """Ids beyond the rows that config.json states; for models whose rows are found by id."""
    rows = checkpoint.config.get("vocab_size")
    if not tokens or not isinstance(rows, int) or max(tokens) < rows:
        return []
    return [
        VocabularyMismatch(
            f"{label} ({checkpoint.path}): its tokenizer has ids up to {max(tokens)}, config.json: vocab_size {rows}; "
            "expected a row for every id"
        )
    ]
