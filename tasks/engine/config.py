"""Reads a merge from YAML: mergekit's files as they are, and the keys that we add; strictly, and all mistakes at once.

mergekit drops unknown keys in silence: in one published experiment ``density`` stood at the top level and never
counted. Here a key that is unknown, stands at the wrong place, or is no parameter of the method is an error that names
it and where it belongs. Keys of our own: ``instruct, compat, seed, special_rows, routers, vocabulary,
allow_foreign_parent``, and ``parent`` in an entry of ``models:``.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from .config_keys import ENTRY_KEYS, TOP_KEYS, nearest, short, unknown_key
from .config_roles import role_problems
from .errors import MergeError, RecipeError, refuse_all
from .merge_config import (
    Compat,
    Dtype,
    FromInstruct,
    MergeConfig,
    ModelEntry,
    Resolved,
    VocabularyPolicy,
    names,
    resolved,
    unmatched_filters,
)
from .methods.spec import MethodSpec
from .methods.table import TABLE
from .strict_yaml import load_yaml
from .values import Setting, constant, parse_setting

__all__ = [
    "MergeConfig", "ModelEntry", "Resolved", "names", "parse_config", "read_config", "resolved", "unmatched_filters",
]  # fmt: skip

_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": get_args(Dtype),
    "out_dtype": get_args(Dtype),
    "compat": get_args(Compat),
    "special_rows": get_args(FromInstruct),
    "routers": get_args(FromInstruct),
    "vocabulary": get_args(VocabularyPolicy),
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_config(path: Path) -> MergeConfig:
    """Read a YAML file. Relative model folders are taken from the file's own folder, and every folder must exist.

    Raises:
        RecipeError: The file is no YAML, or anything in it is wrong; every mistake at once.
    """
    return _Reading(str(path), path.parent).config(load_yaml(path))


def parse_config(mapping: object, where: str) -> MergeConfig:
    """Read a merge from parsed YAML or JSON. Model folders stay as written, and are not looked for.

    Args:
        mapping: What stands at that place; a mapping is expected.
        where: The place, for messages: ``merge.yaml``.

    Raises:
        RecipeError: All that is wrong at once; each line has the place, the key, its value and what was expected.
    """
    return _Reading(where, None).config(mapping)


class _Reading:
    """One file being read, and what has been found wrong in it. What is wrong is replaced so that reading goes on."""

    def __init__(self, where: str, folder: Path | None) -> None:
        self.where = where
        self.folder = folder
        self.problems: list[MergeError] = []

    def refuse(self, text: str) -> None:
        self.problems.append(RecipeError(f"{self.where}: {text}"))

    def config(self, content: object) -> MergeConfig:
        if not isinstance(content, Mapping):
            raise RecipeError(f"{self.where}: expected a mapping with merge_method and models, found {short(content)}")
        # A key with nothing behind it is as good as none, as in mergekit.
        stated = {key: value for key, value in content.items() if value is not None}
        spec = self._method(stated.get("merge_method"))
        self._keys(content, "", TOP_KEYS, spec)
        config = MergeConfig(
            spec.name if spec else "linear",
            self._models(stated, spec),
            base_model=self._model_folder(stated.get("base_model"), "base_model"),
            parameters=self._parameters(stated.get("parameters", {}), "parameters", spec),
            instruct=self._model_folder(stated.get("instruct"), "instruct"),
            where=self.where,
            **self._options(stated),
        )
        if spec and isinstance(stated.get("models"), list):
            for text in role_problems(config):
                self.refuse(text)
        refuse_all(self.problems)
        return config

    def _method(self, name: object) -> MethodSpec | None:
        if isinstance(name, str) and name in TABLE:
            return TABLE[name]
        if name is None:
            self.refuse(f"the key merge_method is missing; write one of {', '.join(TABLE)}")
        else:
            self.refuse(f"merge_method = {short(name)}{nearest(name, TABLE)}; known methods are {', '.join(TABLE)}")
        return None

    def _keys(self, mapping: Mapping[Any, Any], place: str, known: Iterable[str], spec: MethodSpec | None) -> None:
        for key in mapping:
            if key not in known:
                self.refuse(unknown_key(key, mapping[key], place, known, spec))

    def _models(self, stated: Mapping[str, Any], spec: MethodSpec | None) -> tuple[ModelEntry, ...]:
        entries = stated.get("models")
        if entries is None and not {"slices", "modules"} & stated.keys():
            self.refuse("the key models is missing; write a list of entries - model: FOLDER")
        elif entries is not None and not isinstance(entries, list):
            self.refuse(f"models = {short(entries)}: expected a list of entries - model: FOLDER")
        if not isinstance(entries, list):
            return ()
        return tuple(self._entry(entry, f"models[{index}]", spec) for index, entry in enumerate(entries))

    def _entry(self, entry: object, place: str, spec: MethodSpec | None) -> ModelEntry:
        if not isinstance(entry, Mapping):
            self.refuse(f"{place} = {short(entry)}: expected an entry - model: FOLDER")
            return ModelEntry(place)
        stated = {key: value for key, value in entry.items() if value is not None}
        self._keys(entry, place, ENTRY_KEYS, spec)
        if "model" not in stated:
            self.refuse(f"{place}: the key model is missing; write the folder of the checkpoint")
        model = self._model_folder(stated.get("model"), f"{place}.model")
        parent = self._model_folder(stated.get("parent"), f"{place}.parent")
        return ModelEntry(
            model or place, parent, self._parameters(stated.get("parameters", {}), f"{place}.parameters", spec)
        )

    def _model_folder(self, value: object, place: str) -> str | None:
        """The folder as the merge will use it, or some text where it was refused; None where nothing stands."""
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{place} = {short(value)}: expected the folder of a checkpoint, as text")
            return place
        folder = os.path.normpath(value if self.folder is None else os.path.abspath(self.folder / value))
        if os.path.isdir(folder):
            return folder
        if "+" in value:
            self.refuse(
                f"{place} = {value!r}: adapters (MODEL+LORA) are not applied here; merge it into its model first"
            )
        elif "@" in value:
            self.refuse(
                f"{place} = {value!r}: revisions (MODEL@REVISION) are not fetched here; fetch it, write the folder"
            )
        elif self.folder is not None and _HUB_NAME.fullmatch(value):
            self.refuse(
                f"{place} = {value!r}: {folder} is no folder, and names on the Hub are not fetched here; get it with "
                f"`hf download {value} --local-dir FOLDER` and write that folder"
            )
        elif self.folder is not None:
            self.refuse(f"{place} = {value!r}: {folder} is no folder; relative ones start at the file's own folder")
        return folder

    def _parameters(self, stated: object, place: str, spec: MethodSpec | None) -> dict[str, Setting]:
        if not isinstance(stated, Mapping):
            self.refuse(f"{place} = {short(stated)}: expected a mapping of parameters")
            return {}
        if spec is None:
            return {}
        known = spec.parameters if place == "parameters" else spec.of_models
        self._keys(stated, place, known, spec)
        found = {}
        for name in (name for name in known if name in stated):
            found[name] = constant(0.0)
            try:
                setting = parse_setting(stated[name], f"{self.where}: {place}.{name}", known[name].read)
                if not known[name].gradient and any(len(rule.points) > 1 for rule in setting.rules):
                    self.refuse(f"{place}.{name} = {short(stated[name])}: expected no gradient, but one number or word")
                found[name] = setting
            except RecipeError as error:
                self.problems += error.problems
        return found

    def _options(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, choices in _CHOICES.items():
            value = stated.get(key)
            if key.endswith("dtype") and isinstance(value, str):
                value = value.removeprefix("torch.")
            if value is not None and value not in choices:
                self.refuse(f"{key} = {short(value)}: expected {' or '.join(choices)}")
            elif value is not None:
                found[key] = value
        seed, allow = stated.get("seed", 0), stated.get("allow_foreign_parent", False)
        if type(seed) is not int or not 0 <= seed < 2**63:
            self.refuse(f"seed = {short(seed)}: expected a whole number from 0 to 2^63 - 1")
        if type(allow) is not bool:
            self.refuse(f"allow_foreign_parent = {short(allow)}: expected true or false")
        return {**found, "seed": seed, "allow_foreign_parent": allow}
