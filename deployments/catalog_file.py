"""One family's YAML, edited as a person would: the lines that are added, and not one other byte.

The parser says where things stand, and the new text is put there; no other line is written anew, so comments, order and
layout are what they were. Before it takes the place of the old file, the new text is read as a catalog by the same code
as the watch's.
"""

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tasks.domain.catalog import Catalog, load_catalog
from tasks.domain.errors import CatalogError, InputError
from tasks.domain.yaml_lines import Document
from tasks.harness.selection import dev_sets
from tasks.harness.suite import known_benchmarks, requests_of

_PLAIN = re.compile(r"[\w./@+-]+( [\w./@+-]+)*")
"""What is written without quotes, unless it reads as something else than a text."""


class CatalogFile:
    """The file of one family, in the making. Nothing is written before ``save``."""

    def __init__(self, catalog: Path, family: str) -> None:
        """Read ``catalog``/``family``.yaml.

        Raises:
            CatalogError: if there is no such file, or it is not YAML with a mapping at its top.
        """
        self.catalog = catalog
        self.path = catalog / f"{family}.yaml"
        if not self.path.is_file():
            known = sorted(path.stem for path in catalog.glob("*.yaml"))
            raise CatalogError(f"no family {family!r}: {self.path} does not exist; {catalog} has {known}")
        self.data: dict[str, Any] = Document(self.path).data
        self.before = self.text = self.path.read_bytes().decode("utf-8")
        self._wanted = deepcopy(self.data)

    @property
    def changes(self) -> str:
        """What is not as it was, as a unified diff; "" if nothing is."""
        lines = self.before.splitlines(), self.text.splitlines()
        return "\n".join(difflib.unified_diff(*lines, str(self.path), f"{self.path} (new)", lineterm="", n=1))

    def pin(self, language: str, repo: str, revision: str) -> None:
        """State the revision of a tuned base; its entry is made if there is none."""
        entry = self._find("tuned_bases", language)
        if entry is None:
            self._append(("tuned_bases",), language, {"repo": repo, "revision": revision})
        elif (stated := self._find("tuned_bases", language, "revision")) is not None:
            start, end = stated.start_mark.index, stated.end_mark.index
            self.text = f'{self.text[:start]}"{revision}"{self.text[end:]}'
        else:
            self._append(("tuned_bases", language), "revision", revision)
        self._wanted["tuned_bases"].setdefault(language, {"repo": repo})["revision"] = revision

    def state(self, language: str, **values: str) -> None:
        """Set keys of a tuned base's entry, which is there; no other line changes."""
        entry = self._wanted["tuned_bases"][language]
        for key, value in values.items():
            stated = self._find("tuned_bases", language, key)
            if stated is None:
                self._append(("tuned_bases", language), key, value)
            else:
                start, end = stated.start_mark.index, stated.end_mark.index
                self.text = self.text[:start] + _on_one_line(value) + self.text[end:]
            entry[key] = value

    def add_target(self, name: str, target: Mapping[str, Any]) -> None:
        """Add a target below the others; what is a list or a mapping in it stands on one line."""
        self._append(("targets",), name, target, block=True)
        self._wanted["targets"][name] = dict(target)

    def check(self, running: Iterable[str]) -> Catalog:
        """The catalog as it would be with this text: this family, and those that run beside it.

        Args:
            running: names of families; two targets on one channel are an error across families.

        Raises:
            CatalogError: with every problem, as the watch would find it.
        """
        names = [self.path.stem, *(name for name in running if name != self.path.stem)]
        with TemporaryDirectory(prefix="empelt-catalog-") as scratch:
            beside = Path(scratch)
            shutil.copytree(self.catalog, beside, dirs_exist_ok=True)
            (beside / self.path.name).write_text(self.text, encoding="utf-8")
            if Document(beside / self.path.name).data != self._wanted:  # aliases: what is read is not where it stands
                raise CatalogError(f"{self.path} is laid out in a way that is not edited here; add the lines by hand")
            try:
                return load_catalog(beside, names, known=known_benchmarks(), requests_of=requests_of, dev=dev_sets())
            except CatalogError as error:
                raise _renamed(error, scratch, str(self.catalog)) from error

    def save(self) -> bool:
        """Put the new text in the place of the old one, by one rename; False if they are the same.

        Raises:
            InputError: if somebody else changed the file meanwhile, or it cannot be written. It is as it was then.
        """
        if self.text == self.before:
            return False
        place = self.path.resolve()  # a rename must not put a file where a link was
        half = place.with_name(f".{place.name}.{os.getpid()}.half")
        try:
            with half.open("wb") as file:
                file.write(self.text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(place, half)
            if place.read_bytes().decode("utf-8") != self.before:
                raise InputError(f"{self.path} was changed by somebody else just now; nothing was written, start again")
            half.replace(place)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}); make it writable, or name a catalog folder of your "
                "own with EMPELT_CATALOG"
            ) from error
        finally:
            half.unlink(missing_ok=True)
        return True

    def _find(self, *keys: str) -> yaml.Node | None:
        """The node at this path in the text as it is now."""
        node = yaml.compose(self.text, Loader=yaml.SafeLoader)
        for key in keys:
            if not isinstance(node, yaml.MappingNode):
                return None
            node = next((value for name, value in node.value if name.value == key), None)
        return node

    def _append(self, at: tuple[str, ...], key: str, value: Any, *, block: bool = False) -> None:
        """Add ``key`` as the last one of the mapping at ``at``."""
        section = self._find(*at)
        if not isinstance(section, yaml.MappingNode) or not section.value:
            raise CatalogError(f"{self.path}: {'.'.join(at)} must be a mapping with at least one entry to add to")
        if section.flow_style:
            end = section.end_mark.index - 1  # of the closing brace
            kept = self.text[:end].rstrip().rstrip(",")
            self.text = f"{kept}, {key}: {_on_one_line(value)}{self.text[end:]}"
            return
        indent = " " * section.value[0][0].start_mark.column
        lines = [f"{indent}{key}: {_on_one_line(value)}"]
        if block:
            lines = [f"{indent}{key}:", *(f"{indent}  {name}: {_on_one_line(v)}" for name, v in value.items())]
        # A block ends where the next key begins, below the comments about that key: go by its last leaf instead.
        last = section
        while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
            last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
        newline = "\r\n" if "\r\n" in self.text else "\n"
        end = self.text.find("\n", last.end_mark.index)
        end = len(self.text) if end < 0 else end + 1
        kept = self.text[:end] if self.text[:end].endswith("\n") else self.text[:end] + newline
        self.text = kept + "".join(f"{line}{newline}" for line in lines) + self.text[end:]


def _on_one_line(value: Any) -> str:
    """YAML for one value; JSON's quotes wherever plain words could mean something else (a revision of digits only)."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_on_one_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_on_one_line, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(f"[{value}]") == [value]:
        return value if len(value) != 40 else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _renamed(error: CatalogError, scratch: str, folder: str) -> CatalogError:
    """The same refusal, naming the files that people know."""
    first = str(error).split("\n  - ", 1)[0].replace(scratch, folder)
    return CatalogError(first, problems=[problem.replace(scratch, folder) for problem in error.problems])
