"""The card of a merged folder: what it is, from what, how to make it again, and under which licence. Pure text.

It is written beside the files and counts for nothing in their content digest. Whatever is not known is said to be so.
When the model is published, its scores and the digests of its files are put into it.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from tasks.domain.card_adapter import about_adapter, energy_kept
from tasks.domain.licences import LICENCE_FILE, Ancestor, Inherited, inherit, titled
from tasks.domain.lineage import Ingredient, Lineage, content_digest
from tasks.domain.models import Digest, FileDigest
from tasks.domain.report_text import plain

CARD = "README.md"
RANDOM_METHODS = ("dare", "della")
"""How the names of methods begin that draw at random, and so have a seed."""
UNMEASURED = "This card was written with the files, before anything was measured: it has no scores."
Report = Mapping[str, Any]
"""The engine's last event; every key of it may be missing."""


def merge_config(recipe: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
    """What ``empelt merge`` and the engine are given.

    Args:
        recipe: as the lineage has it.
        folders: role -> folder of every ingredient: ``base``, ``instruct``, ``tuned:eu``, and ``parent:eu`` if stated.
    """
    tuned = {role.partition(":")[2]: folder for role, folder in folders.items() if role.startswith("tuned:")}
    return {
        "recipe": dict(recipe),
        "base": folders["base"],
        "instruct": folders["instruct"],
        "tuned": {code: {"path": path, "parent": folders.get(f"parent:{code}")} for code, path in tuned.items()},
    }


def card_files(
    lineage: Lineage, ancestors: Sequence[Ancestor], report: Report, *, licence_file: str = "", search: str = ""
) -> dict[str, str]:
    """The files that describe a merged folder, by name: its card, and its licence where that is none of the Hub's.

    Args:
        lineage: of the merge.
        ancestors: every model that went into it, and theirs, with the licences that their cards state.
        report: of the engine.
        licence_file: what stands in the folder's LICENSE.md, from the instruct parent; it is kept below ours.
        search: how the recipe came to be tried; "" where the catalog states it.
    """
    found = inherit(ancestors)
    name = titled(f"{lineage.ref_of('instruct').slug}-{lineage.target}", found.begins)
    licence = _licence(found, ancestors)
    head = yaml.safe_dump(_head(lineage, ancestors, found), sort_keys=False, allow_unicode=True, width=1000)
    body = [f"# {name}", "", *(line for words in found.shows for line in (f"**{words}**", ""))]
    body += _about(lineage)
    if found.warnings:
        body += ["## Before it is passed on", "", *(f"- {plain(told)}" for told in found.warnings), ""]
    body += [*_recipe(lineage, report), *([plain(search), ""] if search else []), *_parents(lineage)]
    body += [*_deltas(report), *energy_kept(report), *_again(lineage, report)]
    files = {CARD: f"---\n{head}---\n\n" + "\n".join([*body, "## Licence", "", *licence])}
    if found.link == LICENCE_FILE:
        kept = ["---", "", f"The instruct model's own {LICENCE_FILE}:", "", licence_file] if licence_file else []
        files[LICENCE_FILE] = "\n".join([f"# Licence of {name}", "", *licence, *kept])
    return files


class Measured(NamedTuple):
    """One score of the model, as its verdict had it."""

    benchmark: str
    metric: str
    value: float
    low: float
    """Of the two-sided 95 % interval."""
    high: float
    n: int
    """Items."""
    parents: Mapping[str, float | None]
    """Role -> the parent's score."""


def published_card(
    card: str,
    *,
    measured: Sequence[Measured],
    gate: str,
    artifact: Digest,
    merge: Digest,
    files: Sequence[FileDigest],
    search: Sequence[str] = (),
) -> str:
    """``card`` with what is known when the model is published: scores, their intervals, and the digests of its files.

    Args:
        card: as ``card_files`` wrote it.
        measured: in the order of the gate's checks; empty where no scores are on record.
        gate: name of the gate that it passed.
        artifact: its content digest.
        merge: its merge key.
        files: of the artifact.
        search: lines about the search that found its recipe; none where the catalog states it.

    Raises:
        ValueError: if ``card`` is none of ``card_files``.
    """
    start, head, body = (card.split("---\n", 2) if card.startswith("---\n") else ["", "", ""])[:3]
    found = yaml.safe_load(head) if head else None
    if start or not isinstance(found, dict) or UNMEASURED not in body or "\n## Licence\n" not in body:
        raise ValueError(
            "this is no card of a merge: it lacks its head, its licence, or the word that it has no scores"
        )
    name = next(line.removeprefix("# ") for line in body.splitlines() if line.startswith("# "))
    found["pipeline_tag"] = "text-generation"
    if measured:
        found["model-index"] = [{"name": name, "results": [_result(one) for one in measured]}]
    told = "It passed the gate below before it was published." if measured else "No scores of it are on record."
    before, after = body.replace(UNMEASURED, told).split("\n## Licence\n", 1)
    more = "\n".join([*_scores(measured, gate), *search, *_digests(artifact, merge, files)])
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n{before}\n{more}\n## Licence\n{after}"


def _result(one: Measured) -> dict[str, Any]:
    """An entry of ``model-index``, as the Hub reads it."""
    metric = {"type": one.metric, "name": f"{one.metric}, n = {one.n}", "value": round(one.value, 6)}
    dataset = {"type": one.benchmark, "name": one.benchmark}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}


def _scores(measured: Sequence[Measured], gate: str) -> list[str]:
    if not measured:
        return []
    roles = list(dict.fromkeys(role for one in measured for role in one.parents))
    lines = [
        "## Scores",
        "",
        f"By the gate `{gate}`, with lm-eval against the served model. n is the number of items.",
        "",
    ]
    lines += [f"| benchmark | metric | score | 95 % interval | n |{''.join(f' {role} |' for role in roles)}"]
    lines += [f"|---|---|---|---|---|{'---|' * len(roles)}"]
    for one in measured:
        theirs = "".join(f" {'–' if (v := one.parents.get(role)) is None else f'{v:.3f}'} |" for role in roles)
        span = f"{one.low:.3f} to {one.high:.3f}"
        lines.append(f"| {one.benchmark} | {one.metric} | {one.value:.3f} | {span} | {one.n} |{theirs}")
    return [*lines, ""]


def _digests(artifact: Digest, merge: Digest, files: Sequence[FileDigest]) -> list[str]:
    lines = ["## Digests", "", f"- artifact (content digest): `{artifact}`", f"- merge key: `{merge}`", ""]
    lines += ["| file | sha256 | bytes |", "|---|---|---|"]
    return [*lines, *(f"| {plain(file.path)} | `{file.sha256}` | {file.size} |" for file in files), ""]


def _head(lineage: Lineage, ancestors: Sequence[Ancestor], found: Inherited) -> dict[str, Any]:
    """The YAML that the Hub reads."""
    instruct = lineage.ref_of("instruct").repo_id
    spoken = [code for one in ancestors if one.name == instruct for code in one.languages]
    method = lineage.recipe.get("method")
    named = {"license_name": found.name, "license_link": found.link} if found.licence == "other" else {}
    parts = [instruct] if lineage.adapter else [part.ref.repo_id for part in lineage.ingredients]
    head = {
        "base_model": list(dict.fromkeys(parts)),
        "base_model_relation": "adapter" if lineage.adapter else "merge",
        "library_name": "peft" if lineage.adapter else "transformers",
        "language": list(dict.fromkeys([*spoken, *_languages(lineage)])),
        "license": found.licence,
        **named,
        "tags": ["lora" if lineage.adapter else "merge", "empelt", *([str(method)] if method else [])],
    }
    return {key: value for key, value in head.items() if value}


def _about(lineage: Lineage) -> list[str]:
    languages = _languages(lineage)
    tuned = ", ".join(f"{lineage.ref_of(f'tuned:{code}').repo_id} ({plain(code)})" for code in languages)
    if lineage.adapter:
        return [*about_adapter(lineage, tuned), "", UNMEASURED, ""]
    learnt = f"with what {tuned} learnt put into its weights" if tuned else "put together from its parts alone"
    return [
        f"The instruct model {lineage.ref_of('instruct').repo_id} {learnt}. Nothing was trained: every weight is "
        "computed from those of the parents below. Configuration, tokenizer and chat template are the instruct "
        "model's.",
        "",
        UNMEASURED,
        "",
    ]


def _recipe(lineage: Lineage, report: Report) -> list[str]:
    recipe = lineage.recipe
    seed = recipe.get("seed")
    drawn = str(recipe.get("method", "")).startswith(RANDOM_METHODS)
    untold = "not recorded, though the method draws at random" if drawn else "none, since nothing is drawn at random"
    lines = ["## Recipe", "", *_block("yaml", _yaml(dict(recipe)))]
    lines += [f"- engine version: `{lineage.engine_version}`", f"- seed: {untold if seed is None else f'`{seed}`'}"]
    coefficients = report.get("coefficients")
    if isinstance(coefficients, Mapping) and isinstance(coefficients.get("b"), Mapping):
        each = {"instruct": coefficients.get("a"), **coefficients["b"]}
        told = ", ".join(f"{plain(name)} `{value}`" for name, value in each.items())
        lines.append(f"- coefficient of each delta: {told}")
    return [*lines, ""]


def _parents(lineage: Lineage) -> list[str]:
    lines = ["## Parents", ""]
    for part in lineage.ingredients:
        lines += [f"- **{plain(part.role)}** {part.ref.repo_id}", f"  - revision `{part.ref.revision}`"]
        lines += [f"  - content `{part.digest}`"]
    told = "`content` is sha256 over the sorted lines `path NUL sha256 LF` of weights, config, tokenizer and template."
    return [*lines, "", told, ""]


def _deltas(report: Report) -> list[str]:
    """What the engine found out about the deltas, and warned of."""
    norms = report.get("norms")
    told = {k: v for k, v in norms.items() if isinstance(v, int | float)} if isinstance(norms, Mapping) else {}
    warned = [one.get("message", one) if isinstance(one, Mapping) else one for one in report.get("warnings") or ()]
    lines = [f"- {plain(key)}: `{value:.4g}`" for key, value in told.items()]
    lines += [f"- **warning**: {plain(str(one))}" for one in warned]
    return ["## Deltas", "", "What the engine found out about them:", "", *lines, ""] if lines else []


def _again(lineage: Lineage, report: Report) -> list[str]:
    places = {part.role: f"parents/{part.role.replace(':', '-')}" for part in lineage.ingredients}
    config = merge_config(lineage.recipe, places)
    made = "" if lineage.adapter else _made(report)  # the command leaves out what is the instruct model's
    return [
        "## The same merge again",
        "",
        *_block("sh", "\n".join([*(_download(p, places[p.role]) for p in lineage.ingredients), _command(lineage)])),
        "with this as `merge.yaml`:",
        "",
        *_block("yaml", _yaml(config)),
        *([f"The content digest of what that makes is `{made}`, as of this folder.", ""] if made else []),
    ]


_MERGE = "empelt merge merge.yaml merged"


def _command(lineage: Lineage) -> str:
    rule = lineage.adapter
    return f"empelt adapter merge.yaml adapter --rank {rule.rank} --carry {rule.carry}" if rule else _MERGE


def _download(part: Ingredient, place: str) -> str:
    return f"hf download {part.ref.repo_id} --revision {part.ref.revision} --local-dir {shlex.quote(place)}"


def _made(report: Report) -> str:
    """Content digest of the files that the engine wrote; empty if it did not tell."""
    files = report.get("files")
    if not isinstance(files, Mapping) or not files:
        return ""
    return content_digest(FileDigest(path=path, sha256=f["sha256"], size=f["size"]) for path, f in files.items())


def _licence(found: Inherited, ancestors: Sequence[Ancestor]) -> list[str]:
    named = f" ({found.name})" if found.name else ""
    lines = [f"**{found.licence}{named}**. {plain(found.reason)}", ""]
    lines += ["Asked of whoever passes the model on, in short:", ""]
    lines += [f"- {plain(one.licence)} ({plain(one.names)}): {one.words}" for one in found.conditions]
    if found.begins:
        lines.append(f"- Its name begins with “{found.begins}”.")
    lines += [f"- “{words}” is shown beside it." for words in found.shows]
    lines += [f"- Its NOTICE file says: “{notice}”" for notice in found.notices]
    lines += ["", "What each ancestor states:", ""]
    lines += [f"- {plain(one.name)}: {_stated(one)}; read from {plain(one.read)}" for one in ancestors]
    return [
        *lines,
        "",
        "Any other LICENSE or NOTICE file in this folder is the instruct model's. This was computed by rules from what "
        "the cards state: it is a help and no legal advice.",
        "",
    ]


def _stated(one: Ancestor) -> str:
    parts = [part for part in (one.stated.licence, one.stated.name, one.stated.link) if part]
    return plain(", ".join(parts)) if parts else "no licence"


def _languages(lineage: Lineage) -> list[str]:
    return [part.role.partition(":")[2] for part in lineage.ingredients if part.role.startswith("tuned:")]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")


def _block(kind: str, text: str) -> list[str]:
    return [f"```{kind}", text, "```", ""]
