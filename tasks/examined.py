"""What is found about a model before any benchmark: by its files beside its parents', and by what it said when asked.

Plain Python; ``tasks.examine`` has the Prefect tasks.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.child import Event, run_child
from tasks.domain.adapters import ADAPTER_CONFIG
from tasks.domain.errors import InputError, TransientError
from tasks.domain.examination import NORM, Examined, of_answers, of_file, of_language
from tasks.domain.lineage import fingerprint
from tasks.domain.models import Artifact, Digest, Evaluation, Item, Score
from tasks.doors import open_ledger
from tasks.harness.questions import Source
from tasks.harness.static import adds, compared, weighs
from tasks.heard import Heard
from tasks.settings import settings

Norms = Mapping[str, float]
"""Tensor to norm."""


def files_of(candidate: Artifact, parents: Mapping[str, Artifact]) -> tuple[Examined, ...]:
    """Tokenizer, stop tokens and template beside the instruct parent's; norms beside all parents'.

    Raises:
        InputError: a folder lacks what is compared, or the models do not have the same tensors.
    """
    found = compared(Path(candidate.folder), Path(parents["instruct"].folder))
    weights = norms_of([candidate, *parents.values()])
    own, theirs = weights[candidate.digest], {role: weights[parent.digest] for role, parent in parents.items()}
    is_adapter = (Path(candidate.folder) / ADAPTER_CONFIG).is_file()
    problems, heavy = ([], adds(own, theirs)) if is_adapter else _weighed(own, theirs)
    more = [f"and {len(heavy) - 5} tensors more"] if len(heavy) > 5 else []
    return (*(of_file(name, said) for name, said in found.items()), of_file("norms", [*problems, *heavy[:5], *more]))


def _weighed(own: Norms, theirs: Mapping[str, Norms]) -> tuple[list[str], list[str]]:
    """Whether it has the instruct parent's tensors; and which of them cannot be right."""
    # A head that is tied to the embeddings is stored by some and left out by others.
    shared = own.keys() & set.intersection(*(set(one) for one in theirs.values()))
    missing = sorted((own.keys() ^ theirs["instruct"].keys()) - {"lm_head.weight"})
    problems = [f"not the instruct parent's tensors: {', '.join(missing[:5])}"] if missing else []
    limited = {role: {name: norms[name] for name in shared} for role, norms in theirs.items()}
    heavy = weighs({name: own[name] for name in sorted(shared)}, limited)
    heavy += [
        f"{name}: its norm is {own[name]}" for name in sorted(own.keys() - shared) if not math.isfinite(own[name])
    ]
    return problems, heavy


def norms_of(artifacts: Sequence[Artifact]) -> dict[Digest, dict[str, float]]:
    """Digest to tensor to norm; what is not on record is read now, in a child process."""
    ledger, found = open_ledger(), {}
    keys = {one.digest: fingerprint(kind="norms", artifact=one.digest) for one in artifacts}
    for digest, key in keys.items():
        if (known := ledger.evaluation(key)) is not None:
            found[digest] = {item.item_id: item.value for item in known.scores[0].items}
    left = {one.folder: one.digest for one in artifacts if one.digest not in found}
    if not left:
        return found
    told = _read(list(left))
    for folder, digest in left.items():
        found[digest] = norms = {name: float(value) for name, value in told["norms"][folder].items()}
        if all(map(math.isfinite, norms.values())):  # what is broken is not a reference to anything
            items = tuple(Item(item_id=name, value=value) for name, value in norms.items())
            whole = math.hypot(*norms.values())
            score = Score(benchmark="norms", metric=NORM, value=whole, stderr=0.0, n=len(items), items=items)
            ledger.record_evaluation(Evaluation(eval_key=keys[digest], artifact_digest=digest, scores=(score,)))
    return found


def _read(folders: list[str]) -> Event:
    """Norms by folder; TransientError where one went away meanwhile, since a base was packed or unpacked."""
    try:
        return run_child(
            "tasks.engine.norms",
            folders,
            deadline_seconds=settings().evaluate_deadline_seconds,
            silence_seconds=settings().silence_seconds,
            records=settings().children,
        )
    except InputError as refusal:
        gone = [folder for folder in folders if not Path(folder).is_dir()]
        if not gone:
            raise
        raise TransientError(f"{', '.join(gone)} went away while its norms were read; try again") from refusal


def answers_of(heard: Heard, parent: Heard, sources: Sequence[Source]) -> tuple[Examined, ...]:
    """The checks on what was said."""
    found = []
    for mark in ("empty", "endless", "loops", "leaks", "thinks"):
        ours, theirs = heard.marks.get(mark, {}), parent.marks.get(mark, {})
        found.append(of_answers(mark, list(ours.values()), [theirs[prompt] for prompt in ours]))
    floors = {source.language: source.least for source in sources if source.language}
    said = [(asked, own) for asked, languages in heard.languages.items() for own in languages]
    return (*found, of_language(said, floors))
