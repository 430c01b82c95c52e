"""YAML in which no key is lost: one that stands twice in a mapping is refused, where YAML keeps the last in silence."""

from pathlib import Path
from typing import Any

import yaml

from .errors import RecipeError, refuse_all


def load_yaml(path: Path) -> Any:
    """The content of a YAML file of plain values.

    Raises:
        RecipeError: The file cannot be read or is no YAML, or keys stand twice; each is told with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}; expected a YAML file in UTF-8") from error
    try:
        loader = yaml.SafeLoader(text)
        # The tree before merge keys (<<) are resolved: there, a key that overrides a merged one is written once.
        root = loader.get_single_node()
        refuse_all([RecipeError(f"{path}: {line}; keep one") for line in _repeated(root)])
        return None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: is no YAML: {error}; expected a mapping with merge_method and models") from error


def _repeated(root: yaml.Node | None) -> list[str]:
    found: list[tuple[int, str]] = []
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        # An alias leads to a node that was seen already, and may lead to itself.
        if node is None or isinstance(node, yaml.ScalarNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting += node.value
            continue
        waiting += [value for _, value in node.value]
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, named = key.start_mark.line + 1, (key.tag, key.value)
            if named in lines:
                found.append((line, f"line {line}: the key {key.value!r} stands twice, first in line {lines[named]}"))
            lines.setdefault(named, line)
    return [text for _, text in sorted(found)]
