"""The search for a recipe: which ones are tried, what is heard of them without labels, and which one is judged. Pure.

Where a target states ``search`` and its own recipe is rejected, a small grid of recipes is merged from one reading of
the models (``linear``, which reads no base, from another). A candidate is heard on the ``dev`` split, which no gate
asks: how well it predicts texts of the target's languages, and what the instruct parent itself answers to chat
questions. Nobody's right answers enter. By halves, those that are worse go, and the others are heard on more; what is
left goes to the gate once, on the ``test`` split.

    score = kept - closeness * drift

``kept`` is the share of what the tuned parent gains on the instruct parent in bits per byte of text, on the mean over
the languages: 0 is the instruct parent, 1 the tuned one. ``drift`` is how many more bits per byte the instruct parent's
own greedy answers take. On the demo's family, ``closeness`` 1 with 30 texts and 60 questions found, of nine weights
from .25 to 2, those that its labelled dev items had found: 1.0 for `eu`, 1.0 for `gl`, .85 for `ca`.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.domain.lineage import fingerprint
from tasks.domain.models import Digest, Noun
from tasks.engine.recipe import Recipe

COLLAPSES_FROM = 1.5
"""Merges of a plain sum may collapse from this tuned weight on; below 1 they are usually robust (arXiv 2603.28263)."""
PLAIN_SUMS = ("linear", "task_arithmetic")
PER_REQUEST = 64
"""Prompts in one request to the completions endpoint; the chat endpoint takes one question at a time."""
TEXT, ANSWERS = "text ", "answers "
"""How the names of the sets begin."""
Weights = tuple[Annotated[float, Field(gt=0, le=4)], ...]


class Grid(Noun):
    """Recipes that differ in these keys: every combination. A key that is left out is that of the target's recipe."""

    method: tuple[str, ...] = ()
    instruct_weight: Weights = ()
    tuned_weight: Weights = ()
    tuned_depth: tuple[tuple[Annotated[float, Field(ge=0, le=4)], ...], ...] = ()
    """Profiles over the depth, as the recipe's key: ``[1, 0.7, 1]`` has less of the language in the middle layers."""


class Search(Noun):
    """What a target states under ``search``."""

    grid: tuple[Grid, ...] = Field(min_length=1)
    answers: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages of the chat questions that the instruct parent answers, and that it must speak."""
    items: tuple[Annotated[int, Field(ge=5)], ...] = Field(default=(15, 30, 60), min_length=1)
    """Texts of each language, and questions of each, that a candidate has been heard on after each round."""
    closeness: float = Field(default=1.0, ge=0, le=100)
    """What one further bit per byte of the instruct parent's answers costs, in shares of the language's gain."""
    most_recipes: int = Field(default=12, ge=1, le=32)
    """Each is a whole model on the disk until it is collected."""
    max_requests: int = Field(default=400, ge=1)
    """HTTP requests of one search; more are refused when the catalog is read."""

    @field_validator("items")
    @classmethod
    def _grow(cls, items: tuple[int, ...]) -> tuple[int, ...]:
        if list(items) != sorted(set(items)):
            raise ValueError(f"the items of a search's rounds must grow, and these do not: {list(items)}")
        return items

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.answers)) < len(self.answers):
            raise ValueError(f"answers names a language twice: {list(self.answers)}")
        return self

    def digest(self) -> Digest:
        """Of what was stated: a changed search makes a new job of a rejected one."""
        return fingerprint(kind="search", **self.model_dump(mode="json", exclude_defaults=True))


class Sum(Noun):
    """Bits that a model needs for some texts, and the bytes of those."""

    bits: float = 0.0
    size: int = 0

    @property
    def rate(self) -> float:
        """Bits per byte.

        Raises:
            ValueError: nothing was heard.
        """
        if not self.size:
            raise ValueError("nothing was heard: 0 bytes")
        return self.bits / self.size


class Asked(Noun):
    """What a model is heard on: a text as it is, or a question and an answer to it as token ids."""

    text: str
    """The text, or the answer: its bytes are counted."""
    tokens: tuple[int, ...] = ()
    """Question and answer; empty for a text."""
    start: int = 1
    """Place of the first token that counts: nothing is before a text's first one, and a question is not answered."""


Sets = Mapping[str, tuple[Asked, ...]]
"""``text eu``, ``answers en`` -> what is asked, the same for every model; a round's items are the first ones."""


class Heard(Noun):
    """What was heard of one model: by language its texts, and the instruct parent's answers."""

    texts: Mapping[str, Sum] = {}
    answers: Sum = Sum()


def heard_of(bits: Mapping[str, Sequence[float]], sets: Sets, upto: int) -> Heard:
    """What a model needs for the first ``upto`` of each set that it was heard on, from the bits of each item."""
    sums = {}
    for name, values in bits.items():
        size = sum(len(one.text.encode()) for one in sets[name][:upto])
        sums[name] = Sum(bits=sum(values[:upto]), size=size)
    answers = [own for name, own in sums.items() if name.startswith(ANSWERS)]
    texts = {name.removeprefix(TEXT): own for name, own in sums.items() if name.startswith(TEXT)}
    return Heard(texts=texts, answers=Sum(bits=sum(o.bits for o in answers), size=sum(o.size for o in answers)))


class NoGain(ValueError):
    """No candidate can be worth anything by what the parents need for the texts."""


class Worth(NamedTuple):
    """One candidate against its parents; see the module's docstring."""

    kept: float
    drift: float
    score: float


class Tried(Noun):
    """A recipe and how far it came."""

    merge_key: Digest
    recipe: Mapping[str, Any]
    round: int
    """The last one that it was heard in, from 1."""
    kept: float | None = None
    drift: float | None = None
    score: float | None = None
    """None where it could not be heard."""
    why: str = ""
    """Why it could not."""


class SearchFact(Noun):
    """What a search of one job has found."""

    key: Digest
    job_key: Digest
    chosen: Digest | None
    """merge_key of the recipe that goes to the gate; None: there is none."""
    tried: tuple[Tried, ...]
    """The best first."""
    said: str


def recipes_of(search: Search, own: Recipe) -> tuple[Recipe, ...]:
    """Every recipe that the grid means, in its order, each once and without the target's own, which comes before.

    Raises:
        ValueError: naming every one that is no recipe, or weighs a language so that it collapses; there are none, or
            too many.
    """
    found: dict[Digest, Recipe] = {}
    problems: list[str] = []
    stated = own.model_dump(mode="json", exclude_defaults=True)
    for grid in search.grid:
        lists = {key: values for key, values in grid.model_dump(mode="json").items() if values}
        for values in product(*lists.values()):
            changed = dict(zip(lists, values, strict=True))
            try:
                recipe = Recipe.model_validate(stated | changed)
            except ValidationError as error:
                problems += [f"{changed}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
                continue
            problems += [f"{changed}: {said}" for said in _beyond(recipe)]
            found.setdefault(recipe.digest(), recipe)
    found.pop(own.digest(), None)
    if not found and not problems:
        problems.append("the grid has no recipe but the target's own")
    if len(found) > search.most_recipes:
        problems.append(f"the grid has {len(found)} recipes, most_recipes is {search.most_recipes}")
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    return tuple(found.values())


def _beyond(recipe: Recipe) -> list[str]:
    if recipe.method not in PLAIN_SUMS:
        return []
    tuned = recipe.tuned_weight
    heaviest = max(tuned.values()) if isinstance(tuned, dict) else tuned
    if heaviest < COLLAPSES_FROM:
        return []
    return [f"tuned_weight {heaviest:g} of {recipe.method}: merges may collapse from {COLLAPSES_FROM:g} on"]


def fit_search(
    search: Search, own: Recipe, languages: Sequence[str], dev: Mapping[str, Mapping[str, int]] | None
) -> list[str]:
    """Why a search cannot serve a target; nothing if it can.

    Args:
        search: as the target states it.
        own: the target's recipe.
        languages: the target's.
        dev: ``texts`` and ``questions``: language -> how many there are on the dev split; None leaves them unchecked.
    """
    try:
        count = len(recipes_of(search, own))
    except ValueError as error:
        return [f"grid: {said}" for said in str(error).splitlines()]
    problems = []
    for kind, codes in (("texts", languages), ("questions", search.answers)):
        if dev is None:
            break
        there, most = dev[kind], search.items[-1]
        problems += [f"no dev {kind} in {code!r}; there are {sorted(there)}" for code in codes if code not in there]
        problems += [
            f"items: {most} {kind} in {code!r} are asked for, the dev split has {there[code]}"
            for code in codes
            if there.get(code, most) < most
        ]
    total = requests_of(search, count, len(languages))
    if total > search.max_requests:
        problems.append(
            f"{count} recipes in {len(search.items)} rounds need {total} requests, {search.max_requests} are allowed; "
            "state fewer recipes or items, or max_requests"
        )
    return problems


def requests_of(search: Search, recipes: int, languages: int) -> int:
    """HTTP requests of a whole search, if nothing has to be sent twice and nothing is on record."""

    def hearing(new: int) -> int:
        return (languages + len(search.answers)) * -(-new // PER_REQUEST)

    most = search.items[-1]
    # Parents are heard at once on everything: the instruct parent answers first, tuned ones read their own texts.
    total = most * len(search.answers) + hearing(most) + languages * -(-most // PER_REQUEST)
    heard, left = 0, recipes
    for upto in search.items:
        total += left * hearing(upto - heard)
        heard, left = upto, halved(left)
    return total


def halved(count: int) -> int:
    """How many of so many candidates are heard further: the better half, and at least one."""
    return max(1, (count + 1) // 2)


def worth(heard: Heard, instruct: Heard, tuned: Mapping[str, Sum], closeness: float) -> Worth:
    """A candidate against its parents, all heard on the same items.

    Args:
        heard: of the candidate.
        instruct: of the instruct parent: the languages' texts, and its own answers.
        tuned: language -> what its tuned parent needs for that language's texts.
        closeness: as the search states it.

    Raises:
        NoGain: as ``gains``.
    """
    shares = [
        (instruct.texts[language].rate - heard.texts[language].rate) / gain
        for language, gain in gains(instruct, tuned).items()
    ]
    kept, drift = sum(shares) / len(shares), heard.answers.rate - instruct.answers.rate
    return Worth(kept, drift, kept - closeness * drift)


def gains(instruct: Heard, tuned: Mapping[str, Sum]) -> dict[str, float]:
    """Language -> bits per byte that its tuned parent gains on the instruct parent.

    Raises:
        NoGain: a tuned parent is not better than the instruct parent on its own texts: nothing can be kept.
    """
    found = {language: instruct.texts[language].rate - own.rate for language, own in tuned.items()}
    for language, gain in found.items():
        if gain <= 0:
            raise NoGain(
                f"the tuned base of {language} needs {tuned[language].rate:.4f} bits per byte of its texts, the "
                f"instruct parent {instruct.texts[language].rate:.4f}: there is no gain to keep"
            )
    return found


def ranked(worths: Mapping[Digest, Worth | None]) -> list[Digest]:
    """The best first; equal ones in the grid's order, and last those that could not be heard."""
    order = list(worths)

    def place(key: Digest) -> tuple[float, int]:
        found = worths[key]
        return (float("inf") if found is None else -found.score, order.index(key))

    return sorted(order, key=place)


def survivors(worths: Mapping[Digest, Worth | None]) -> list[Digest]:
    """Those that are heard further: the better half of those that could be heard."""
    heard = [key for key in ranked(worths) if worths[key] is not None]
    return heard[: halved(len(worths))]


def search_key(*, job: Digest, serving: Mapping[str, str]) -> Digest:
    """One search: of one job, which has the search and every ingredient in its key, under these serving facts."""
    return fingerprint(kind="searched", job=job, serving=dict(serving))


def heard_key(*, artifact: Digest, serving: Mapping[str, str], asked: Any) -> Digest:
    """What one hearing depends on: the model, how it is served, and everything that it is asked."""
    return fingerprint(kind="heard", artifact=artifact, serving=dict(serving), asked=asked)


def about_candidate(count: int) -> str:
    """What the card of a candidate says, which is written before anything is heard of it."""
    return (
        f"This is one of the recipes of a search among {count}, made together after the target's own recipe had been "
        "rejected. None of them had been heard or scored when this card was written."
    )


def about_search(fact: SearchFact) -> list[str]:
    """Lines of markdown about a search: what was tried, what was heard of each, and why this one went to the gate."""
    keys = list(dict.fromkeys(key for one in fact.tried for key in one.recipe if key in Grid.model_fields))
    lines = [
        "## How the recipe was found",
        "",
        f"By a search, after the target's own recipe had been rejected: {fact.said}.",
    ]
    lines += ["No labels entered; texts and questions are of a split that no gate asks.", ""]
    lines += [f"| {' | '.join([*keys, 'rounds', 'kept', 'drift', 'score'])} |", "|---" * (len(keys) + 4) + "|"]
    for one in fact.tried:
        stated = [f"`{one.recipe.get(key)}`" for key in keys]
        told = ["–" if value is None else f"{value:.3f}" for value in (one.kept, one.drift, one.score)]
        lines.append(f"| {' | '.join([*stated, str(one.round), *told])} |")
    return [*lines, ""]
