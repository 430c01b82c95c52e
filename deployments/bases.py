"""`empelt base add`: a tuned base is looked over, proven, pinned and written into its family's YAML. One command.

A person may have added the entry by hand: then it is checked and pinned. Whatever is wrong is told at once, and nothing
is written then. A running watch needs no word: each of its runs reads the catalog anew.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from deployments.catalog_file import CatalogFile
from deployments.proving import Proven, prove_parent
from deployments.showing import human_bytes
from tasks.domain.catalog import Family, Name, Repository, Target, TunedBase
from tasks.domain.errors import CatalogError, InputError, ModelRefused
from tasks.domain.gate import Gate
from tasks.domain.models import ModelRef, RepoId
from tasks.doors import open_source
from tasks.settings import Settings
from tasks.sources.detection import name_problem
from tasks.sources.preflight import PreflightReport, preflight
from tasks.sources.stated import licence_problem

HINT_GATE = "name another gate with --gate, or add the benchmarks to tasks/harness/suites"


class Wish(NamedTuple):
    """What was asked for."""

    family: str
    language: str
    repo: str | None
    """``owner/name``; None to take the one that the catalog states."""
    revision: str | None
    like: str | None
    """Target whose recipe and gate are copied, where the language has no target yet."""
    gate: str | None


class Found(NamedTuple):
    """What is to be written, and what speaks for it."""

    file: CatalogFile
    ref: ModelRef
    report: PreflightReport
    proven: Proven
    target_name: str
    target: Target
    notes: list[str]


def read_wish(family: str, language: str, repository: str, like: str, gate: str) -> Wish:
    """The command's arguments; InputError for what cannot be meant."""
    repo, _, revision = repository.partition("@")
    problems = []
    if not _fits(Name, language):
        problems.append(f"LANGUAGE {language!r}: expected a code such as pt (lower case, digits, . and -)")
    if repository and not _fits(RepoId, repo):
        problems.append(f"REPO {repository!r}: expected owner/name, or owner/name@<revision, branch or tag>")
    if repository.endswith("@"):
        problems.append(f"REPO {repository!r}: nothing after the @; leave it out for the head of the repository")
    if problems:
        raise InputError("this base cannot be added", problems=problems)
    return Wish(family, language, repo or None, revision or None, like or None, gate or None)


def examine(settings: Settings, wish: Wish) -> Found:
    """Look everything over; nothing is written.

    Raises:
        InputError: with every problem found.
        HubUnavailable: the Hub does not answer, so nothing is known.
    """
    file = CatalogFile(settings.catalog, wish.family)
    family = file.check(settings.family_names).family(wish.family)
    entry = family.tuned_bases.get(wish.language)
    repo = _repository(file, family, entry, wish)
    source = open_source()
    notes: list[str] = []
    problems: list[str] = []
    ref = source.resolve(repo, wish.revision or (entry.revision if entry else None))
    if entry is not None and entry.revision not in (None, ref.revision):
        notes.append(f"it was pinned to {entry.revision}; with another revision every target that uses it is due again")
    report, proven = look_over(family, wish.language, ref, entry.parent if entry else None, problems)
    name, target = "", None
    try:
        name, target = _write_into(file, family, ref, wish, notes, settings)
    except CatalogError as refusal:
        problems += refusal.problems or [str(refusal)]
    if problems or report is None or proven is None or target is None:
        raise InputError(
            f"{ref} was not added as the tuned base {wish.language!r} of {wish.family}; nothing was written",
            problems=dict.fromkeys(problems),
        )
    return Found(file, ref, report, proven, name, target, notes)


def look_over(
    family: Family, language: str, ref: ModelRef, parent: Repository | None, problems: list[str]
) -> tuple[PreflightReport | None, Proven | None]:
    """Pre-flight, licence and parent of what is to be a tuned base; what is wrong is added to ``problems``."""
    source = open_source()
    base = source.resolve(family.base.repo, family.base.revision)
    report = proven = None
    try:
        report = preflight(source, ref, base, allowed_architectures=family.architectures)
    except ModelRefused as refusal:
        problems += refusal.problems or [str(refusal)]
    if problem := licence_problem(source, [ref, base], family.licences):
        problems.append(f"licence: {ref}: {problem}")
    if report is not None:  # weights of another shape have no distance
        try:
            proven = prove_parent(family, language, ref, base, parent)
        except InputError as refusal:
            problems += refusal.problems or [str(refusal)]
    return report, proven


def name_is_of_a_base(family: Family, language: str, repo: str) -> None:
    """InputError if a repository is something else in this family by its name."""
    if repo == family.base.repo:
        raise InputError(f"{repo} is the base of {family.family} itself: it has no language of its own")
    if name_problem(repo, family.instruct.pattern, family.instruct.deny) is None:
        raise InputError(f"{repo} is an instruct release of {family.family} by its name, and no base of a language")
    others = [code for code, tuned in family.tuned_bases.items() if tuned.repo == repo and code != language]
    if others:
        raise InputError(f"{repo} is the tuned base {others[0]!r} of {family.family} already")


def _repository(file: CatalogFile, family: Family, entry: TunedBase | None, wish: Wish) -> str:
    """The repository that is meant."""
    if entry is None and wish.repo is None:
        raise InputError(
            f"{file.path} has no tuned base {wish.language!r} (it has {sorted(family.tuned_bases)}): name its "
            f"repository, as in `empelt base add {wish.family} {wish.language} OWNER/NAME`"
        )
    if entry is not None and wish.repo not in (None, entry.repo):
        where = f"{file.path}: tuned_bases.{wish.language}"
        raise InputError(f"{where} is {entry.repo}, not {wish.repo}; change it there, or leave the repository out")
    repo = wish.repo or (entry.repo if entry else "")
    name_is_of_a_base(family, wish.language, repo)
    if entry is not None and entry.retired:
        raise InputError(
            f"{file.path}: tuned_bases.{wish.language} was retired: {entry.retired}. Bring it, or a successor, back "
            f"into use with `empelt base update {wish.family}/{wish.language} [OWNER/NAME]`"
        )
    return repo


def _write_into(
    file: CatalogFile, family: Family, ref: ModelRef, wish: Wish, notes: list[str], settings: Settings
) -> tuple[str, Target]:
    """Pin the base and add its target in ``file`` (not on disk); the target, checked together with its gate."""
    file.pin(wish.language, ref.repo_id, ref.revision)
    own = next((n for n, t in family.targets.items() if t.languages == (wish.language,)), None)
    if own is None:
        if wish.language in family.targets:
            taken = family.targets[wish.language].languages
            raise CatalogError(
                f"{file.path}: target {wish.language!r} is for {list(taken)}; rename it, or add one by hand"
            )
        file.add_target(wish.language, _sibling(file, family, wish))
    elif wish.gate not in (None, family.targets[own].gate):
        raise CatalogError(
            f"{file.path}: target {own!r} has the gate {family.targets[own].gate!r}; change it there, or leave --gate "
            "out"
        )
    catalog = file.check(settings.family_names)
    name = own or wish.language
    target = catalog.target(wish.family, name)
    _check_language(catalog.gate_of(target), target, wish, notes)
    return name, target


def _sibling(file: CatalogFile, family: Family, wish: Wish) -> dict[str, Any]:
    """A target for the new language: like the named one, but for language and channel."""
    single = [name for name, target in family.targets.items() if len(target.languages) == 1]
    like = wish.like or (single[0] if len(single) == 1 else None)
    if like is None:
        raise CatalogError(
            f"no target for {wish.language!r} yet: say whose recipe and gate to copy, --like one of {single}"
        )
    if like not in single:
        raise CatalogError(
            f"--like {like!r}: {wish.family} has no target of one language by that name; it has {single}"
        )
    told: Mapping[str, Any] = file.data["targets"][like]
    code = family.targets[like].languages[0]
    recipe = dict(told["recipe"])
    if isinstance(weights := recipe.get("tuned_weight"), Mapping):
        recipe["tuned_weight"] = {wish.language if key == code else key: value for key, value in weights.items()}
    channel = re.sub(rf"(?<![a-z0-9]){re.escape(like)}(?![a-z0-9])", wish.language, told["channel"])
    if channel == told["channel"]:
        channel = f"{channel}-{wish.language}"
    made = {"languages": [wish.language], "channel": channel, "recipe": recipe, "gate": wish.gate or told["gate"]}
    return {**told, **made}


def _check_language(gate: Gate, target: Target, wish: Wish, notes: list[str]) -> None:
    """A gate must ask something in the language, or be one that says nothing of any."""
    asked = [b for b in gate.benchmarks if b.startswith(f"{wish.language}_")]
    if asked:
        return
    copied = f"{wish.like}_" if wish.like else None
    foreign = [b for b in gate.benchmarks if copied and b.startswith(copied)]
    if foreign and wish.gate is None:
        raise CatalogError(
            f"gate {target.gate!r} of the target {wish.like!r} asks {', '.join(foreign)}, and nothing in "
            f"{wish.language!r}: {HINT_GATE}"
        )
    notes.append(
        f"gate {target.gate!r} asks nothing in {wish.language!r} ({', '.join(gate.benchmarks)}): a pass says only that "
        "those are kept"
    )


def as_report(found: Found, wish: Wish, written: bool) -> dict[str, Any]:
    """What was found and done, as one JSON object."""
    report, proven = found.report, found.proven
    return {
        **{"family": wish.family, "language": wish.language, "repo": found.ref.repo_id},
        **{"revision": found.ref.revision, "target": found.target_name, "channel": found.target.channel},
        **{"gate": found.target.gate, "recipe": found.target.recipe.model_dump(mode="json")},
        "preflight": {
            **{"architectures": list(report.architectures), "tensors": report.tensors},
            **{"parameters": report.parameters, "download_bytes": report.download_bytes},
        },
        "parent": proven.as_json(),
        "notes": found.notes,
        "file": str(found.file.path),
        "changes": found.file.changes,
        "written": written,
    }


def as_text(told: Mapping[str, Any]) -> str:
    """The same for people."""
    looked = told["preflight"]
    size = f"{looked['tensors']} tensors, {looked['parameters']:,} parameters, {human_bytes(looked['download_bytes'])}"
    lines = [
        f"ok    {told['repo']}@{told['revision'][:12]} can be merged: {', '.join(looked['architectures'])}, {size}",
        f"ok    parent {told['parent']['says']}",
        f"ok    target {told['target']} on channel {told['channel']}, gate {told['gate']}",
        *(f"note  {note}" for note in told["notes"]),
    ]
    if told["changes"]:
        lines += ["", told["changes"], ""]
    if told["written"]:
        lines.append(f"wrote {told['file']}")
    else:
        lines.append(f"would write {told['file']}" if told["changes"] else f"nothing to change in {told['file']}")
    return "\n".join(lines)


def _fits(kind: Any, value: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True
