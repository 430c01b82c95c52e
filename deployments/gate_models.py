"""The models that `empelt gate` is about, brought into the store: a folder, an artifact's digest, or a repository."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from tasks.domain.catalog import Family, Target
from tasks.domain.errors import InputError
from tasks.domain.gate import CONTROL
from tasks.domain.jobs import parse_release
from tasks.domain.lineage import Lineage, parent_roles
from tasks.domain.models import Artifact, Digest
from tasks.doors import open_source, open_store
from tasks.packing import unpack_artifact
from tasks.sources.detection import instruct_releases
from tasks.store.ledger import Ledger

_DIGEST = re.compile(r"[0-9a-f]{6,64}")


def bring(model: str) -> Artifact:
    """The model in the store, whole.

    Args:
        model: path of a folder; an artifact's digest or at least 6 digits of its beginning; ``owner/name[@revision]``.

    Raises:
        InputError: it is none of these, or several artifacts begin so.
        ModelRefused: the folder or the repository holds no model.
        HubUnavailable: the source does not answer.
    """
    if Path(model).is_dir():
        return _copied(Path(model))
    if _DIGEST.fullmatch(model):
        found = [digest for digest in open_store().digests() if digest.startswith(model)]
        if len(found) != 1:
            raise InputError(f"{model!r} begins {len(found)} of the artifacts in {open_store().root}; expected one")
        return unpack_artifact(found[0])
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise InputError(f"{model!r} is no folder, no artifact's digest and no owner/name of a repository")
    repo_id, revision = parse_release(model)
    source, store = open_source(), open_store()
    ref = source.resolve(repo_id, revision)
    scratch = store.scratch(f"gate-{ref.slug}-{uuid4().hex[:8]}")
    source.fetch(ref, scratch / "model", room=store.root / "room")
    artifact = store.adopt(scratch / "model")
    shutil.rmtree(scratch, ignore_errors=True)
    return artifact


def _copied(folder: Path) -> Artifact:
    """A folder of somebody's stays as it is: what is judged is a copy that nothing changes any more."""
    store = open_store()
    if store.root / "artifacts" == folder.absolute().parent:
        return unpack_artifact(folder.name)
    scratch = store.scratch(f"gate-{uuid4().hex[:8]}")
    store.reserve(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    shutil.copytree(folder, scratch / "model")
    artifact = store.adopt(scratch / "model")
    shutil.rmtree(scratch, ignore_errors=True)
    return artifact


def parents_of(
    candidate: Digest,
    family: Family,
    target: Target,
    given: Mapping[str, str],
    ledger: Ledger | None,
    *,
    with_control: bool = False,
) -> dict[str, Artifact]:
    """Role to parent: those given, else those it was merged from, else those that the family's file names.

    The instruct parent of a model of unknown lineage is the newest release that the source lists. ``with_control``:
    the gate names the control, which only its caller can.

    Raises:
        InputError: a role that the target does not have, or a parent that nobody names.
    """
    tuned = {f"tuned:{code}" if len(target.languages) > 1 else "tuned": code for code in target.languages}
    known = ("instruct", *tuned, *([CONTROL] if with_control else []))
    if unknown := sorted(set(given) - {*known}):
        raise InputError(f"no parent {', '.join(unknown)} of this target; it has {', '.join(known)}")
    if with_control and CONTROL not in given:
        raise InputError(
            "the gate compares with the control, the merge without its languages, and this command makes none; name "
            f"it: --parent {CONTROL}=FOLDER, DIGEST or OWNER/NAME (the instruct parent where its delta is merged whole)"
        )
    lineage: Lineage | None = ledger.lineage(candidate) if ledger is not None else None
    made_from = parent_roles(lineage) if lineage is not None else {}
    found = {}
    for role in known:
        if role in given:
            found[role] = bring(given[role])
        elif (digest := made_from.get(role)) and open_store().has(digest):
            found[role] = unpack_artifact(digest)
        elif role == "instruct":
            found[role] = bring(_newest(family))
        else:
            entry = family.tuned_bases[tuned[role]]
            found[role] = bring(f"{entry.repo}@{entry.revision}" if entry.revision else entry.repo)
    return found


def _newest(family: Family) -> str:
    rule = family.instruct
    states = [state for org in rule.organizations for state in open_source().list_organisation(org)]
    releases = instruct_releases(states, pattern=rule.pattern, deny=rule.deny)
    if not releases:
        raise InputError(
            f"{open_source().endpoint} lists no instruct release of {family.family}; name the instruct parent:"
            " --parent instruct=FOLDER, DIGEST or OWNER/NAME"
        )
    return f"{releases[-1].repo_id}@{releases[-1].sha}"
