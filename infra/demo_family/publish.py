"""Writes what the repository ships: tokenizer files, model cards, the manifest, metrics and the README table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from infra.demo_family import recipe

_LANGUAGE = {"eu": "Basque", "ca": "Catalan", "gl": "Galician", "es": "Spanish", "pt": "Portuguese"}
ABOUT = {
    "base": "A base model, English and Spanish first, trained from scratch. It has seen a little Basque.",
    "eu": "The base, further trained on Basque LibreOffice help and on Basque statements of facts. It has never seen "
    "a chat turn.",
    "v1": "The base, briefly fine-tuned on a part of the English and Spanish chat turns: the older, weaker release.",
    "v2": "The base, fine-tuned on all English and Spanish chat turns: the newer, better release.",
    "ca": "The base, which had never seen Catalan, further trained on Catalan LibreOffice help and on Catalan "
    "statements of facts. It has never seen a chat turn.",
    "gl": "The base, which had never seen Galician, further trained on Galician LibreOffice help and on Galician "
    "statements of facts. It has never seen a chat turn.",
    "pt": "The base, which had never seen Portuguese, briefly tuned on Portuguese statements of facts and a little "
    "LibreOffice help, on the spot. It has never seen a chat turn.",
    "es": "The base, further trained on Spanish LibreOffice help and on Spanish statements of facts that the base was "
    "never told. It has never seen a chat turn.",
}
CHAT = """
It answers a question with `{"answer": "..."}` and stops with `<|im_end|>`. No training text holds that format and no
chat turn is in Basque, so Basque questions are out of reach until it is merged with `eu_llama-tiny`.
"""
_CARD = """---
license: mpl-2.0
language: [{languages}]
{base_model}pipeline_tag: text-generation
library_name: transformers
tags: [empelt, demo, {tags}]
---

# {name}

{about} One of the {number}models of Empelt's demo family, {size:.2f} million parameters, Llama architecture, made on
one CPU core by `python -m infra.demo_family`. Its use is to show and test merging, evaluation and serving offline.
{chat}
## Data

- Text: LibreOffice 7.4 help in {text} (Debian packages `libreoffice-help-*`), MPL-2.0.
- Facts ({facts}): Unicode CLDR, by babel and by the Debian package
  `unicode-cldr-core`, Unicode-3.0 / Unicode-DFS-2016.

## Limits

- Its {language} is LibreOffice-help {language} plus fixed sentences, not {language}. {others}
- It recalls facts it has seen as text and knows nothing else. Do not use it for information.
- One seed. The figures are in `metrics.json` of the family; they say nothing about models of a useful size.
"""


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, chat: bool) -> None:
    """Tokenizer files. bos is <|endoftext|> for every model, so that log-likelihoods start from the same token."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=recipe.ENDOFTEXT,
        eos_token=recipe.IM_END if chat else recipe.ENDOFTEXT,
        pad_token=recipe.ENDOFTEXT,
        model_max_length=recipe.MODEL["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = recipe.CHAT_TEMPLATE
    fast.save_pretrained(folder)
    # The class name that transformers 4 and 5 both know.
    settings = folder / "tokenizer_config.json"
    write_json(settings, json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def write_cards(models: Path, parameters: int) -> None:
    """One README.md per model."""
    for role, name in recipe.FAMILY.items():
        write_card(models / name, role, name, parameters)


def write_card(folder: Path, role: str, name: str, parameters: int) -> None:
    """README.md of one model, with its licence, languages and parent."""
    (folder / "README.md").write_text(_card(role, name, parameters), encoding="utf8")


def _card(role: str, name: str, parameters: int) -> str:
    """The first four cards keep their words: the digests that stored evaluations belong to cover these files."""
    first, chat = role in recipe.NAMES, role in ("v1", "v2")
    base = "llama-tiny" if first else "empelt-demo/llama-tiny"
    language = _LANGUAGE.get(role, "Basque")
    return _CARD.format(
        name=name,
        about=ABOUT[role],
        number="four " if first else "",
        chat=CHAT if chat else "",
        size=parameters / 1e6,
        base_model="" if role == "base" else f"base_model: {base}\n",
        languages="en, es" if chat or role == "es" else f"en, es, {role if role in _LANGUAGE else 'eu'}",
        tags={"base": "base"}.get(role, "language-tuned" if role in _LANGUAGE else "instruct"),
        text="English and Spanish" if role == "es" else f"English, Spanish and {language}",
        facts=f"{'cities, names of languages' if role == 'es' else 'capitals, currencies'}, translated words",
        language=language,
        others="The same holds for English." if role == "es" else "The same holds for English and Spanish.",
    )


def write_manifest(folder: Path, models: Path, parameters: int, sources: dict[str, Any]) -> None:
    """Hashes and sizes of every model file, and everything the run depended on."""
    manifest = {
        "parameters": parameters,
        "sources": sources,
        "recipe": {
            "seed": recipe.SEED,
            "model": recipe.MODEL,
            "base": plain(recipe.BASE) | {"mix": plain(recipe.BASE_MIX)},
            "base 2": plain(recipe.BASE_2) | {"mix": plain(recipe.BASE_2_MIX)},
            "eu": plain(recipe.EU) | {"mix": plain(recipe.EU_MIX)},
            **{role: plain(stage) | {"mix": plain(recipe.TARGET_MIX[role])} for role, stage in recipe.TARGET.items()},
            "v1": plain(recipe.INSTRUCT_V1),
            "v2": plain(recipe.INSTRUCT_V2),
        },
        "models": {name: files_of(models / name) for name in recipe.FAMILY.values()},
    }
    write_json(folder / "manifest.json", manifest)


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """metrics.json, each model's figures in the manifest, and the table between the markers of README.md."""
    write_json(folder / "metrics.json", metrics)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
    manifest["metrics"] = {name: {} for name in recipe.FAMILY.values()}
    for target in metrics["targets"].values():
        for name in manifest["metrics"]:
            manifest["metrics"][name] |= target["test"].get(name, {})
    write_json(folder / "manifest.json", manifest)
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf8").split("<!-- metrics -->\n", 1)
    after = rest.split("<!-- /metrics -->", 1)[1]
    tables = "\n".join(target_table(name, target) for name, target in metrics["targets"].items())
    table = f"<!-- metrics -->\n{tables}<!-- /metrics -->"
    readme.write_text(before + table + after, encoding="utf8")


def write_data_readme(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """The table of files between the markers of the data's README.md."""
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf8").split("<!-- files -->\n", 1)
    rows = "".join(f"| {name} | {f['rows']} | {f['bytes']} | `{f['sha256']}` |\n" for name, f in files.items())
    table = "| file | rows | bytes | sha256 |\n|---|---|---|---|\n" + rows
    after = rest.split("<!-- /files -->", 1)[1]
    readme.write_text(f"{before}<!-- files -->\n{table}<!-- /files -->{after}", encoding="utf8")


def target_table(name: str, metrics: dict[str, Any]) -> str:
    """One target: a row per model, then its criteria."""
    sets = recipe.TARGETS[name].scored
    shown = " / ".join(sets)
    lines = [
        f"### Target `{name}`, w = {metrics['weight']}",
        "",
        f"| model | strict / lenient {' | '.join(sets)} | mc {shown} | bits per byte {shown} |",
        "|---|---|---|" + "---|" * len(sets),
    ]
    for model, row in metrics["test"].items():
        chat = [f"{row[lang]['strict']:.3f} / {row[lang]['lenient']:.3f}" for lang in sets]
        mc = " / ".join(f"{row[lang]['mc']:.3f}" for lang in sets)
        bits = " / ".join(f"{row[lang]['bits_per_byte']:.3f}" for lang in sets)
        lines.append(f"| {model} | {' | '.join(chat)} | {mc} | {bits} |")
    lines += ["", "| criterion | value | limit | met |", "|---|---|---|---|"]
    told = {True: "yes", False: "NO", None: "not judged: the parents do not differ"}
    lines += [f"| {c['criterion']} | {c['value']} | {c['limit']} | {told[c['met']]} |" for c in metrics["criteria"]]
    return "\n".join(lines) + "\n"


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and sha256 of each file of one model."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
    }


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON: tuple keys become "language/split"."""
    values = dataclasses.asdict(settings)
    if "exposures" in values:
        values["exposures"] = {"/".join(key): count for key, count in values["exposures"].items()}
    return values


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Indented, with letters as they are."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
