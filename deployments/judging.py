"""`empelt gate MODEL`: any checkpoint, judged by a target's gate beside its parents. Nothing is promoted.

What is asked and how it is decided is the pipeline's own: the examination, the benchmarks, the looks, the verdict.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from deployments.gate_models import bring, parents_of
from deployments.gate_serving import Serving, is_up, own_home
from tasks.domain.catalog import Family, load_catalog
from tasks.domain.errors import InputError
from tasks.domain.examination import refused
from tasks.domain.gate import CONTROL, Gate
from tasks.domain.models import Artifact, Evaluation
from tasks.domain.repeats import of_repeats
from tasks.domain.replay import joined_for
from tasks.domain.verdict import Verdict, judge_at, not_asked, with_examined
from tasks.doors import open_ledger
from tasks.endpoints.protocol import Ready
from tasks.examined import answers_of, files_of
from tasks.harness.questions import sources_of
from tasks.harness.suite import known_benchmarks, requests_of
from tasks.heard import Heard, hear, on_record
from tasks.measuring import measured
from tasks.repeats import items_of, repeated
from tasks.scores import stored
from tasks.settings import settings
from tasks.store.ledger import Ledger
from tasks.taking_looks import looked

Say = Callable[[str], None]


class Asked(NamedTuple):
    """What the command was told."""

    model: str
    family: str
    """Name in the catalog, or path of a family's YAML."""
    target: str
    gate: Path | None = None
    parents: Mapping[str, str] = {}
    """Role to model."""
    url: str = ""
    """Where the candidate answers already; "" where it is to be started."""
    name: str = ""
    """Its name there."""
    served: Mapping[str, str] = {}
    """Role to the name that the parent has at ``url``."""
    live: str = ""
    """The model that is live, which a candidate is compared with as in the pipeline; "" for none."""


class Judged(NamedTuple):
    """What came of it."""

    model: str
    """The candidate's digest."""
    family: str
    target: str
    verdict: Verdict
    requests: Mapping[str, int]
    """HTTP requests to the candidate: ``examination``, ``benchmarks``, and ``planned`` for all items of the gate."""
    seconds: float


def judge_model(asked: Asked, say: Say) -> Judged:
    """Judge a checkpoint.

    Raises:
        InputError: what was asked cannot be done as asked, or the run cannot be judged: broken weights, a server that
            gives no log-likelihoods, constant answers.
        TransientError: a server or the source did not answer.
    """
    began = time.monotonic()
    catalog, family = _family(asked.family)
    gate = _gate(catalog, family, asked)
    if bool(asked.url) != bool(asked.name) or (asked.served and not asked.url):
        raise InputError("--url and --name belong together, and --served to them: where it answers, and as what")
    up = is_up(settings())
    with own_home(catalog, family.family) as installation, Serving(family.family, say, up=up) as serving:
        candidate = bring(asked.model)
        target, ledger = family.targets[asked.target], installation or open_ledger()
        named = {"with_control": CONTROL in gate.roles}
        parents = parents_of(candidate.digest, family, target, asked.parents, ledger, **named)
        live = [bring(asked.live)] if asked.live else []
        if installation is not None:
            _take_over(installation, [candidate, *parents.values(), *live])
        judge = _Judge(asked, family, gate, candidate, parents, live, serving, say)
        verdict = judge.verdict()
    return Judged(candidate.digest, family.family, asked.target, verdict, judge.requests, time.monotonic() - began)


def _family(told: str) -> tuple[Path, Family]:
    """The catalog's folder and the family."""
    path = Path(told)
    is_file = path.suffix in (".yaml", ".yml")
    if is_file and not path.is_file():
        raise InputError(f"{path} is no file; expected a family's YAML, or a family's name in {settings().catalog}")
    folder, name = (path.absolute().parent, path.stem) if is_file else (settings().catalog, told)
    found = load_catalog(folder, [name], known=known_benchmarks(), requests_of=requests_of)
    return folder, found.family(name)


def _gate(folder: Path, family: Family, asked: Asked) -> Gate:
    catalog = load_catalog(folder, [family.family], known=known_benchmarks(), requests_of=requests_of)
    target = catalog.target(family.family, asked.target)
    if asked.gate is None:
        return catalog.gate_of(target)
    from tasks.domain.fitting import fit_gate
    from tasks.domain.gate import parse_gate
    from tasks.domain.yaml_lines import Document

    if not asked.gate.is_file():
        raise InputError(f"{asked.gate} is no file; expected a gate's YAML")
    document = Document(asked.gate)
    gate = parse_gate(document.data, document.where, known=known_benchmarks())
    return fit_gate(gate, document.where, target.languages, known=known_benchmarks(), requests_of=requests_of)


def _take_over(installation: Ledger, models: list[Artifact]) -> None:
    """A reference is measured once: what the installation has on record is not asked again here."""
    for model in models:
        for known in installation.evaluations_of(model.digest):
            open_ledger().record_evaluation(known)


class _Judge:
    """One judgement, step by step; ``requests`` counts what the candidate was asked."""

    def __init__(
        self,
        asked: Asked,
        family: Family,
        gate: Gate,
        candidate: Artifact,
        parents: Mapping[str, Artifact],
        live: Sequence[Artifact],
        serving: Serving,
        say: Say,
    ) -> None:
        self._asked, self._gate, self._say = asked, gate, say
        self._candidate, self._parents, self._live, self._serving = candidate, parents, live, serving
        self._family = family.family
        self._sources = sources_of(gate, family.targets[asked.target].languages)
        self.requests = {"examination": 0, "benchmarks": 0, "planned": sum(map(requests_of, gate.benchmarks))}

    def verdict(self) -> Verdict:
        """Files, then behaviour, then the benchmarks; what fails on the way ends it."""
        merged = {role: parent for role, parent in self._parents.items() if role != CONTROL}
        files = files_of(self._candidate, merged)
        if refused(files):
            return self._not_asked(files)
        self._say("its files are its parents'")
        with self._up("candidate", self._candidate, self._asked.name) as ready:
            heard = hear(ready, self._sources)
            self.requests["examination"] = heard.requests
            examined = (*files, *answers_of(heard, self._parent_heard(ready), self._sources))
            if refused(examined):
                return self._not_asked(examined)
            self._say(f"examined in {heard.requests} requests")
            wanted = {role: self._gate.benchmarks_of(role) for role in self._parents}
            parents = {
                role: self._scores(
                    f"{role} parent", self._parents[role], asked, ready, self._asked.served.get(role, "")
                )
                for role, asked in wanted.items()
                if asked
            }
            first = self._measured("candidate", ready, self._gate.shares[:1])
            again = repeated("candidate", self._family, ready, self._gate, first)
            examined = (*examined, *of_repeats(self._gate, again, items_of(self._gate)))
            live = [self._scores("live model", one, self._gate.benchmarks, ready) for one in self._live]
            beside = live[0] if live else None
            scores, stop = looked(
                "candidate",
                self._gate,
                lambda look: self._measured("candidate", ready, self._gate.shares[:look]),
                first,
                parents,
                beside,
            )
        judged = judge_at(self._gate, scores, parents, beside, stop)
        return with_examined(judged, examined)

    def _measured(self, what: str, ready: Ready, shares: tuple[float, ...] = (1.0,)) -> Evaluation:
        found = measured(what, ready, self._gate.benchmarks, shares)
        self.requests["benchmarks"] = sum(int(v) for k, v in found.facts.items() if k.startswith("requests:"))
        return found

    def _not_asked(self, examined: Any) -> Verdict:
        digests = {role: parent.digest for role, parent in self._parents.items()}
        live = self._live[0].digest if self._live else None
        return not_asked(self._gate, self._candidate.digest, digests, live, examined)

    @contextmanager
    def _up(self, what: str, model: Artifact, name: str) -> Iterator[Ready]:
        if not name:
            with self._serving.of(model.digest, what) as ready:
                yield ready
            return
        # Another server may have answered at this address before: nothing measured there is found again.
        facts = {"image": f"server at {self._asked.url}", "flags": f"unknown, {uuid4().hex[:12]}", "device": "unknown"}
        yield Ready(self._asked.url.rstrip("/").removesuffix("/v1"), name, model.digest, facts)

    def _parent_heard(self, ready: Ready) -> Heard:
        """What the instruct parent says: on record, else asked now."""
        parent, sources = self._parents["instruct"], [one for one in self._sources if one.kind == "chat"]
        if parent.digest == self._candidate.digest:
            return hear(ready, sources)
        name = self._asked.served.get("instruct", "")
        if not name and all(on_record(parent, ready.serving, source) for source in sources):
            return hear(ready._replace(digest=parent.digest), sources)
        with self._up("instruct parent", parent, name) as theirs:
            return hear(theirs, sources)

    def _scores(self, what: str, model: Artifact, wanted: Sequence[str], ready: Ready, name: str = "") -> Evaluation:
        """Another model's scores on what the gate compares with it: on record, else measured now."""
        if not name:
            known = list(stored(model, ready.serving, wanted).values())
            if self._asked.url and len(known) < len(wanted):
                known = open_ledger().evaluations_of(model.digest)
            found = joined_for(self._gate, known, {})
            if found is not None and {score.benchmark for score in found.scores} >= set(wanted):
                return found
        with self._up(what, model, name) as theirs:
            return measured(what, theirs, wanted, self._gate.shares)
