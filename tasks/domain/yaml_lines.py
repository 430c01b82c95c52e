"""YAML files that people edit, read so that an error can name file, key and line.

pydantic says which key is wrong; PyYAML's node tree says on which line that key stands. Duplicate keys are refused
here, since YAML lets the later one win in silence.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tasks.domain.errors import CatalogError

Loc = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class Document:
    """The mapping in one YAML file, with the line of every key."""

    def __init__(self, path: Path) -> None:
        """Read ``path``.

        Raises:
            CatalogError: if the file is absent, is not YAML, repeats a key, or is not a mapping.
        """
        self.path = path
        self.lines: dict[Loc, int] = {}
        try:
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError as error:
            raise CatalogError(f"{path}: no such file") from error
        except UnicodeDecodeError as error:
            raise CatalogError(f"{path}:1: not UTF-8: {error.reason} at byte {error.start}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise CatalogError(f"{path}:{line}: not YAML: {error.problem}") from error
        except yaml.YAMLError as error:  # a control character has no mark
            raise CatalogError(f"{path}:1: not YAML: {error}") from error
        if not isinstance(root, yaml.MappingNode):
            raise CatalogError(
                f"{path}:1: expected a mapping of keys, found {'nothing' if root is None else 'something else'}"
            )
        self.data: dict[str, Any] = self._plain(root, ())

    def where(self, loc: Loc) -> str:
        """``file:line: key.path`` of the nearest key at or above ``loc``."""
        known = loc
        while known and known not in self.lines:
            known = known[:-1]
        dotted = ".".join(str(part) for part in loc)
        return f"{self.path}:{self.lines.get(known, 1)}: {dotted or 'the file'}"

    def parse(self, model: type[Model]) -> Model:
        """The file as a ``model``; every problem is listed in one CatalogError, each with its place."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise CatalogError(
                f"{self.path} was refused; {error.error_count()} problem(s)",
                problems=[self._sentence(e["loc"], e["type"], e["msg"], model) for e in error.errors()],
            ) from error

    def _sentence(self, loc: Loc, kind: str, message: str, model: type[BaseModel]) -> str:
        if kind == "extra_forbidden":
            known = sorted(fields) if (fields := _fields_at(model, loc[:-1])) else []
            hint = f"; known here: {', '.join(known)}" if known else ""
            return f"{self.where(loc)}: unknown key {str(loc[-1])!r}{hint}"
        return f"{self.where(loc)}: {message}"

    def _plain(self, node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value in node.value:
                key = str(key_node.value)
                line = key_node.start_mark.line + 1
                if key in found:
                    raise CatalogError(f"{self.path}:{line}: key {key!r} stands twice; keep one")
                self.lines[(*loc, key)] = line
                found[key] = self._plain(value, (*loc, key))
            return found
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, value in enumerate(node.value):
                self.lines[(*loc, index)] = value.start_mark.line + 1
                items.append(self._plain(value, (*loc, index)))
            return items
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as error:  # a tag of some language, or the 45th of a month
            reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            raise CatalogError(f"{self.path}:{node.start_mark.line + 1}: not YAML: {reason}") from error


def _fields_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """Keys that ``model`` knows at ``loc``; empty where the walk leaves models (a union, a free mapping)."""
    fields: type[BaseModel] | None = model
    for part in loc:
        if fields is None:
            return set()
        if isinstance(part, int) or part not in fields.model_fields:
            continue
        annotation = fields.model_fields[part].annotation
        fields = next((a for a in (annotation, *_arguments(annotation)) if _is_model(a)), None)
    return set(fields.model_fields) if fields else set()


def _arguments(annotation: Any) -> tuple[Any, ...]:
    arguments = getattr(annotation, "__args__", ())
    return tuple(arguments) + tuple(a for argument in arguments for a in _arguments(argument))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
