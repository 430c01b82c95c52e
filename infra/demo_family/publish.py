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

_ABOUT = {
    "base": "A base model, English and Spanish first, trained from scratch. It has seen a little Basque.",
    "eu": "The base, further trained on Basque LibreOffice help and on Basque statements of facts. It has never seen "
    "a chat turn.",
    "v1": "The base, briefly fine-tuned on a part of the English and Spanish chat turns: the older, weaker release.",
    "v2": "The base, fine-tuned on all English and Spanish chat turns: the newer, better release.",
}
_CHAT = """
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

{about} One of the four models of Empelt's demo family, {parameters:.2f} million parameters, Llama architecture, made on
one CPU core by `python -m infra.demo_family`. Its use is to show and test merging, evaluation and serving offline.
{chat}
## Data

- Text: LibreOffice 7.4 help in English, Spanish and Basque (Debian packages `libreoffice-help-*`), MPL-2.0.
- Facts (capitals, currencies, translated words): Unicode CLDR, by babel and by the Debian package
  `unicode-cldr-core`, Unicode-3.0 / Unicode-DFS-2016.

## Limits

- Its Basque is LibreOffice-help Basque plus fixed sentences, not Basque. The same holds for English and Spanish.
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
    _write_json(settings, json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def write_cards(models: Path, parameters: int) -> None:
    """One README.md per model."""
    for role, name in recipe.NAMES.items():
        chat = role in ("v1", "v2")
        card = _CARD.format(
            name=name,
            about=_ABOUT[role],
            chat=_CHAT if chat else "",
            parameters=parameters / 1e6,
            base_model="" if role == "base" else "base_model: llama-tiny\n",
            languages="en, es" if chat else "en, es, eu",
            tags={"base": "base", "eu": "language-tuned"}.get(role, "instruct"),
        )
        (models / name / "README.md").write_text(card, encoding="utf8")


def write_manifest(folder: Path, models: Path, parameters: int, sources: dict[str, Any]) -> None:
    """Hashes and sizes of every model file, and everything the run depended on."""
    manifest = {
        "parameters": parameters,
        "sources": sources,
        "recipe": {
            "seed": recipe.SEED,
            "model": recipe.MODEL,
            "base": _plain(recipe.BASE) | {"mix": _plain(recipe.BASE_MIX)},
            "base 2": _plain(recipe.BASE_2) | {"mix": _plain(recipe.BASE_2_MIX)},
            "eu": _plain(recipe.EU) | {"mix": _plain(recipe.EU_MIX)},
            "v1": _plain(recipe.INSTRUCT_V1),
            "v2": _plain(recipe.INSTRUCT_V2),
        },
        "models": {name: _files(models / name) for name in recipe.NAMES.values()},
    }
    _write_json(folder / "manifest.json", manifest)


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """metrics.json, each model's figures in the manifest, and the table between the markers of README.md."""
    _write_json(folder / "metrics.json", metrics)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
    manifest["metrics"] = {name: metrics["test"][name] for name in recipe.NAMES.values()}
    _write_json(folder / "manifest.json", manifest)
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf8").split("<!-- metrics -->\n", 1)
    after = rest.split("<!-- /metrics -->", 1)[1]
    table = f"<!-- metrics -->\n{_table(metrics)}<!-- /metrics -->"
    readme.write_text(before + table + after, encoding="utf8")


def write_data_readme(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """The table of files between the markers of the data's README.md."""
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf8").split("<!-- files -->\n", 1)
    rows = "".join(f"| {name} | {f['rows']} | {f['bytes']} | `{f['sha256']}` |\n" for name, f in files.items())
    table = "| file | rows | bytes | sha256 |\n|---|---|---|---|\n" + rows
    after = rest.split("<!-- /files -->", 1)[1]
    readme.write_text(f"{before}<!-- files -->\n{table}<!-- /files -->{after}", encoding="utf8")


def _table(metrics: dict[str, Any]) -> str:
    lines = [
        "| model | strict / lenient en | es | eu | format eu | mc en / es / eu | bits per byte en / es / eu |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in metrics["test"].items():
        chat = [f"{row[lang]['strict']:.3f} / {row[lang]['lenient']:.3f}" for lang in recipe.LANGUAGES]
        mc = " / ".join(f"{row[lang]['mc']:.3f}" for lang in recipe.LANGUAGES)
        bits = " / ".join(f"{row[lang]['bits_per_byte']:.3f}" for lang in recipe.LANGUAGES)
        lines.append(f"| {name} | {' | '.join(chat)} | {row['eu']['format']:.2f} | {mc} | {bits} |")
    lines += ["", "| criterion | value | limit | met |", "|---|---|---|---|"]
    for item in metrics["criteria"]:
        lines.append(f"| {item['criterion']} | {item['value']} | {item['limit']} | {'yes' if item['met'] else 'NO'} |")
    return "\n".join(lines) + "\n"


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
    }


def _plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON: tuple keys become "language/split"."""
    values = dataclasses.asdict(settings)
    if "exposures" in values:
        values["exposures"] = {"/".join(key): count for key, count in values["exposures"].items()}
    return values


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
