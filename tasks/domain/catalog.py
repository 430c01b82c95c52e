"""The catalog: one YAML per family, gates beside it. What to watch, to graft, to ask of it, and where to serve it.

A newcomer adds a language with a few lines here: a tuned base and a target. Unknown keys are refused with file, key and
line, since a misspelt limit that is ignored is a gate that never blocks.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from tasks.domain.adapters import AdapterRule, ServedAs, recipe_problems
from tasks.domain.control import control_weight
from tasks.domain.errors import CatalogError, InputError, UnknownBenchmark
from tasks.domain.fitting import fit_gate
from tasks.domain.gate import CONTROL, Gate, parse_gate
from tasks.domain.models import Noun, RepoId, Revision
from tasks.domain.promotion import PromotionPolicy
from tasks.domain.search import Search, fit_search, recipes_of
from tasks.domain.yaml_lines import Document
from tasks.engine.recipe import Recipe

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class Repository(Noun):
    """A repository at the source. Without a revision its head is followed: resolved to a sha and recorded."""

    repo: RepoId
    revision: Revision | None = None


class TunedBase(Repository):
    """A base continued on one language."""

    parent: Repository | None = None
    """What it was trained from; the family's base if not stated. Its delta is taken against this."""
    retired: str = ""
    """Why no new merge is made of it; empty while it is in use. The entry stays: what was made of it is on record."""
    pack: Literal["auto", "never"] = "never"
    """``auto``: kept as a lossless delta to its parent, from the first nightly collection of garbage on."""


class InstructRule(Noun):
    """How an instruct release of the family is recognised."""

    organizations: tuple[str, ...] = Field(min_length=1)
    """Only these are listed; a model elsewhere with a fitting name is never considered."""
    pattern: str
    """Regular expression that the whole repository id must match."""
    deny: tuple[str, ...] = ()
    """Words that exclude an id although it matches, ignoring case: GGUF, AWQ, Preview."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class PublishTo(Noun):
    """Where what a target's channel serves is published, for people elsewhere."""

    repo: RepoId
    """On the Hub of EMPELT_PUBLISH_ENDPOINT; of this target alone, made if it is not there."""
    private: bool = True
    """Of a repository that is made; one that is there stays what it is."""
    accept: tuple[str, ...] = ()
    """Licences that would hold a publication and that a person has read and accepts, as the hold names them."""


class Target(Noun):
    """What one merge is for: a language, or a named set of languages."""

    languages: tuple[str, ...] = Field(min_length=1)
    channel: Name
    """The served name. Two targets on one channel is an error."""
    recipe: Recipe
    gate: Name
    """Name of a file in ``gates/``, without its ending."""
    publish_to: PublishTo | None = None
    """Nothing is published if it is not stated."""
    promotion: PromotionPolicy = PromotionPolicy()
    """How its channel is moved to what has passed the gate."""
    endpoint: ServedAs | None = None
    """As what it is served; as the family says if it is not stated."""
    adapter: AdapterRule | None = None
    """Of ``endpoint: adapters``; the family's if it is not stated."""
    search: Search | None = None
    """Which recipes are tried where the gate has rejected this one; none if it is not stated."""


class Serving(Noun):
    """How models of the family are served: part of what a measurement depends on."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: int = Field(default=512, ge=64)
    max_num_seqs: int = Field(default=64, ge=1)
    kv_mib: int = Field(default=1024, ge=32)
    """Memory for the KV cache; explicit, since vLLM would take 92 % of all there is, and two never fit side by side."""
    enforce_eager: bool = True


class Family(Noun):
    """A base, the rule that recognises its instruct releases, and its targets."""

    family: Name
    description: str = ""
    architectures: tuple[str, ...] = Field(min_length=1)
    """Of config.json; any other is refused before a download."""
    base: Repository
    instruct: InstructRule
    tuned_bases: Mapping[str, TunedBase] = Field(min_length=1)
    targets: Mapping[Name, Target] = Field(min_length=1)
    serving: Serving = Serving()
    endpoint: ServedAs = "models"
    """As what its targets are served: each as a model of its own, or as adapters over one."""
    adapter: AdapterRule | None = None
    """Of ``endpoint: adapters``: the rank, and what is carried."""
    licences: tuple[str, ...] = ()
    """Ids as cards state them, such as ``apache-2.0``. A release is held if it, the base, or a model that either was
    made from states another, or none. Any will do if this is empty; what they ask is in the card of each merge."""
    publish: Literal["auto", "ask", "never"] = "auto"
    """``ask``: what passes waits until a person approves it. ``never``: judge and report, leave the channel alone."""

    @model_validator(mode="after")
    def _targets_name_tuned_bases(self) -> "Family":
        for name, target in self.targets.items():
            missing = [code for code in target.languages if code not in self.tuned_bases]
            if missing:
                raise ValueError(
                    f"target {name!r} asks for {missing}, but tuned_bases has only {sorted(self.tuned_bases)}"
                )
        return self

    @model_validator(mode="after")
    def _adapters_can_be_made_and_served(self) -> "Family":
        problems = [f"target {name!r}: {told}" for name in self.targets for told in self._adapter_problems(name)]
        if self.adapter and not any(self.adapter_of(name) for name in self.targets):
            problems.append("adapter is stated, and no target has endpoint: adapters; state that, or leave it out")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def adapter_of(self, target: str) -> AdapterRule | None:
        """How a target becomes an adapter; None where it is served as a model of its own."""
        one = self.targets[target]
        return one.adapter or self.adapter if (one.endpoint or self.endpoint) == "adapters" else None

    def _adapter_problems(self, name: str) -> list[str]:
        target = self.targets[name]
        if (target.endpoint or self.endpoint) == "models":
            return ["adapter has no effect with endpoint: models; leave it out"] if target.adapter else []
        problems = recipe_problems(target.recipe)
        if self.adapter_of(name) is None:
            problems.append("endpoint: adapters needs a rank; state adapter: {rank: 64}, say")
        if target.publish_to is not None:
            problems.append("publish_to: an adapter is not published to a Hub; leave it out, or use endpoint: models")
        return problems


class Catalog(Noun):
    """All families that run here, with their gates."""

    families: Mapping[str, Family]
    gates: Mapping[str, Gate]
    """As their files say; ``gate_of`` fits them to a target."""

    def family(self, name: str) -> Family:
        """The family called ``name``; CatalogError lists the known ones."""
        if name not in self.families:
            raise CatalogError(f"unknown family {name!r}; the catalog has {sorted(self.families)}")
        return self.families[name]

    def target(self, family: str, name: str) -> Target:
        """A target of a family; CatalogError lists the known ones."""
        targets = self.family(family).targets
        if name not in targets:
            raise CatalogError(f"unknown target {name!r} of family {family!r}; it has {sorted(targets)}")
        return targets[name]

    def require_servable(self, endpoint: str, serve_adapters: Collection[str]) -> "Catalog":
        """The same catalog, if this endpoint can serve it.

        Args:
            endpoint: EMPELT_ENDPOINT.
            serve_adapters: endpoints that serve adapters.

        Raises:
            CatalogError: naming every target that it cannot serve.
        """
        asking = [(f, name) for f in self.families.values() for name in f.targets if f.adapter_of(name)]
        if asking and endpoint not in serve_adapters:
            raise CatalogError(
                f"adapters are not served at endpoint {endpoint!r} (EMPELT_ENDPOINT), only at {sorted(serve_adapters)}",
                problems=[f"{f.family}: target {name!r} has endpoint: adapters; use models" for f, name in asking],
            )
        return self

    def only(self, targets: Collection[str]) -> "Catalog":
        """The same families with none but these targets; all of them if none is named.

        Raises:
            CatalogError: if a name is no target of any family, or a family has none of them.
        """
        if not targets:
            return self
        known = {name for family in self.families.values() for name in family.targets}
        problems = [
            f"no family has a target {name!r}; there are {sorted(known)}" for name in targets if name not in known
        ]
        families = {}
        for name, family in self.families.items():
            chosen = {key: target for key, target in family.targets.items() if key in targets}
            if not chosen:
                problems.append(f"family {name!r} has none of {sorted(targets)}; it has {sorted(family.targets)}")
            families[name] = family.model_copy(update={"targets": chosen})
        if problems:
            raise CatalogError("the targets asked for were refused (EMPELT_TARGETS)", problems=problems)
        return self.model_copy(update={"families": families})

    def gate_of(self, target: Target) -> Gate:
        """The gate that ``target`` must pass: its file, with ``{language}`` filled in."""
        return self.gates[target.gate].expanded(target.languages)


def load_catalog(
    folder: Path,
    names: Iterable[str] = (),
    *,
    known: Collection[str] | None = None,
    requests_of: Callable[[str], int] | None = None,
    dev: Mapping[str, Mapping[str, int]] | None = None,
) -> Catalog:
    """Read the families called ``names`` (all of them if empty) and the gates that they use.

    Args:
        folder: holds one YAML per family, and ``gates/``.
        names: of the families to read.
        known: the benchmarks that there are; None leaves those of the gates unchecked.
        requests_of: HTTP requests that a benchmark costs; None leaves the gates' budgets unchecked.
        dev: what searches may ask, as ``fit_search`` takes it; None leaves that unchecked.

    Raises:
        CatalogError: listing every problem of every file: unknown keys, missing gates, gates that do not fit a target,
            two targets on one channel.
    """
    wanted = list(names)
    there = sorted(path.stem for path in folder.glob("*.yaml"))
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise CatalogError(f"{folder}: no family file for {unknown}; there are {there}")
    families: dict[str, Family] = {}
    gates: dict[str, Gate] = {}
    problems: list[str] = []
    for name in wanted or there:
        try:
            document = Document(folder / f"{name}.yaml")
            family = document.parse(Family)
        except CatalogError as error:
            problems.extend(error.problems or [str(error)])
            continue
        if family.family != name:
            problems.append(f"{document.where(('family',))}: {family.family!r} must equal the file's name {name!r}")
        families[name] = family
        for target_name, target in family.targets.items():
            if target.search is not None:
                said = fit_search(target.search, target.recipe, target.languages, dev)
                if family.adapter_of(target_name):
                    said.append(
                        "its candidates are merged as models of their own; leave it out, or use endpoint: models"
                    )
                problems += [f"{document.where(('targets', target_name, 'search'))}: {one}" for one in said]
            try:
                gate, place = _load_gate(folder, document, target_name, target.gate, known)
                fit_gate(gate, place.where, target.languages, known=known, requests_of=requests_of)
                gates[target.gate] = gate
                if CONTROL in gate.roles:
                    problems += [
                        f"{document.where(('targets', target_name, key))}: {one}" for key, one in _no_control(target)
                    ]
            except UnknownBenchmark as error:
                problems.append(str(error))
            except CatalogError as error:
                problems.extend(error.problems or [str(error)])
    problems.extend(_channels_taken_twice(families))
    problems.extend(_repositories_taken_twice(families))
    if problems:
        # Targets may share a gate, and then find the same fault in it.
        raise CatalogError(f"the catalog in {folder} was refused", problems=dict.fromkeys(problems))
    return Catalog(families=families, gates=gates)


def _no_control(target: Target) -> list[tuple[str, str]]:
    """Key and reason of each recipe that may go to the gate and has no control, the search's among them."""
    recipes = [("recipe", target.recipe)]
    with suppress(ValueError):  # a grid that means no recipes, or wrong ones, is told by itself
        recipes += [("search", one) for one in recipes_of(target.search, target.recipe)] if target.search else []
    found = []
    for key, recipe in recipes:
        try:
            control_weight(recipe, list(target.languages))
        except InputError as error:
            found.append((key, str(error)))
    return list(dict.fromkeys(found))


def _load_gate(
    folder: Path, family: Document, target: str, name: str, benchmarks: Collection[str] | None
) -> tuple[Gate, Document]:
    path = folder / "gates" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise CatalogError(f"{family.where(('targets', target, 'gate'))}: no file {path}; there are {known}")
    document = Document(path)
    return parse_gate(document.data, document.where, known=benchmarks), document


def _channels_taken_twice(families: Mapping[str, Family]) -> list[str]:
    owner: dict[str, str] = {}
    problems = []
    for family in families.values():
        for name, target in family.targets.items():
            place = f"{family.family}.targets.{name}"
            if target.channel in owner:
                problems.append(f"{place}: channel {target.channel!r} is taken by {owner[target.channel]}")
            owner.setdefault(target.channel, place)
    return problems


def _repositories_taken_twice(families: Mapping[str, Family]) -> list[str]:
    owner: dict[str, str] = {}
    problems = []
    for family in families.values():
        for name, target in family.targets.items():
            if target.publish_to is None:
                continue
            place, repo = f"{family.family}.targets.{name}", target.publish_to.repo.lower()
            if repo in owner:
                problems.append(f"{place}: {target.publish_to.repo!r} is where {owner[repo]} publishes to")
            owner.setdefault(repo, place)
    return problems
