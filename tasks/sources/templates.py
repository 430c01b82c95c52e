"""Does a chat template do more than lay out a conversation? Read as a syntax tree, and never rendered.

A template is a program that every prompt goes through, and scanners do not look at it: one that waits for a word of the
user and then slips in an instruction has been shown to work (arXiv 2602.04653). Sound templates ask for roles, for
types and for marks such as ``</think>`` or ``<tool_response>``. So: a condition on what a message says, with plain
words in it, is a trigger; an address and a very long text are odd. This is a tripwire and no proof: who hides a trigger
behind a mark or puts it together from letters passes.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.facts import JSON_BYTES
from tasks.sources.protocol import Source

if TYPE_CHECKING:
    from jinja2 import nodes

TEMPLATE = "chat_template.jinja"
SETTINGS = ("tokenizer_config.json", "chat_template.json")
TEMPLATE_BYTES = 1 << 20
LONG_TEXT = 4000
"""Characters of one text in a template. System prompts of a page are common; the whole Llama 3.1 template has 4,700."""
MARKS = "<>[]{}|"
"""A text with one of these is a mark of the format, and not something that a user says."""
SHOWN = 80
CONTENT = ("content", "text")
METHODS = frozenset(dir(str))


class Inspected(NamedTuple):
    """What a template does that others do not."""

    triggers: tuple[str, ...] = ()
    """Conditions on what a message says."""
    oddities: tuple[str, ...] = ()


def template_of(source: Source, ref: ModelRef) -> list[tuple[str, str]]:
    """Every chat template of a model with the file that it stands in; none if it has none.

    Raises:
        ModelRefused: a file that holds it is too large, or not sound.
        HubUnavailable: the source did not answer.
    """
    paths = {file.path for file in source.files(ref)}
    found = []
    if TEMPLATE in paths:
        content = source.read_small(ref, TEMPLATE, TEMPLATE_BYTES)
        found.append((TEMPLATE, content.decode("utf-8", errors="replace")))
    for path in SETTINGS:
        if path in paths:
            try:
                told = json.loads(source.read_small(ref, path, JSON_BYTES))
            except (ValueError, RecursionError) as error:
                raise ModelRefused(f"{path} of {ref}: not sound JSON: {error}") from error
            stated = told.get("chat_template") if isinstance(told, dict) else None
            # One template, or several with a name each.
            several = stated if isinstance(stated, list) else [{"template": stated}]
            texts = [one.get("template") for one in several if isinstance(one, dict)]
            found += [(path, text) for text in texts if isinstance(text, str)]
    return found


def inspect_templates(source: Source, ref: ModelRef) -> Inspected:
    """All that is unusual in the templates of a model; errors as of ``template_of``."""
    triggers: list[str] = []
    oddities: list[str] = []
    for path, text in template_of(source, ref):
        found = inspect_template(text)
        triggers += [f"{path} {told}" for told in found.triggers]
        oddities += [f"{path} {told}" for told in found.oddities]
    return Inspected(tuple(dict.fromkeys(triggers)), tuple(dict.fromkeys(oddities)))


def inspect_template(text: str) -> Inspected:
    """What is unusual in one template. One that is no sound Jinja is odd: whoever serves it will refuse it."""
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """``{% generation %}``, by which training code finds the assistant's part."""

        tags = {"generation"}  # noqa: RUF012 (Jinja declares it as a plain attribute)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols", Generation], autoescape=True).parse(text)
    except (TemplateSyntaxError, RecursionError) as error:
        return Inspected(oddities=(f"is no sound Jinja: {error}",))
    names = _content_names(tree)
    triggers = [_told(test, words) for test, words in _plain_conditions(tree, names)]
    texts = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    texts += [node.data for node in tree.find_all(nodes.TemplateData)]
    odd = [f"holds the address {_cut(one)!r}" for one in texts if "://" in one]
    odd += [f"holds a text of {len(one)} characters: {_cut(one)!r}" for one in texts if len(one) > LONG_TEXT]
    return Inspected(tuple(dict.fromkeys(triggers)), tuple(dict.fromkeys(odd)))


def _plain_conditions(tree: "nodes.Node", names: set[str]) -> Iterator[tuple["nodes.Node", list[str]]]:
    """Comparisons and calls between what a message says and words that are no mark of the format."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Test)):
        if not _says(node, names):
            continue
        words = [const.value for const in node.find_all(nodes.Const) if isinstance(const.value, str)]
        words = [word for word in words if _is_said(word)]
        if words and (not isinstance(node, nodes.Call) or _is_question(node)):
            yield node, words


def _is_question(call: Any) -> bool:
    """Whether a call asks about a text, as ``startswith`` does; ``split`` and ``raise_exception`` ask nothing."""
    name = getattr(call.node, "attr", "")
    return name in ("startswith", "endswith", "find", "rfind", "index", "count", "__contains__")


def _is_said(word: str) -> bool:
    """Whether a user could be meant: letters, and none of the signs of which formats make their marks."""
    return sum(map(str.isalpha, word)) >= 2 and not any(mark in word for mark in MARKS) and word not in CONTENT


def _says(node: Any, names: set[str]) -> bool:
    """Whether ``node`` is, or is made from, what a message says, and not its role or the type of one of its parts."""
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        key = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        # A method of a text, a slice or a place in a list is still what was said; any other key is structure.
        return key in CONTENT or ((not isinstance(key, str) or key in METHODS) and _says(node.node, names))
    return any(_says(child, names) for child in node.iter_child_nodes())


def _content_names(tree: "nodes.Node") -> set[str]:
    """Variables that were given what a message says, also by way of others."""
    from jinja2 import nodes

    given: list[tuple[nodes.Node, nodes.Node]] = [(node.target, node.node) for node in tree.find_all(nodes.Assign)]
    given += [(node.target, node.iter) for node in tree.find_all(nodes.For)]
    names = set(CONTENT)
    while True:
        more = {t.name for t, value in given if isinstance(t, nodes.Name) and _says(value, names)}
        if more <= names:
            return names
        names |= more


def _told(node: "nodes.Node", words: list[str]) -> str:
    shown = ", ".join(repr(_cut(word)) for word in dict.fromkeys(words))
    return f"decides by what a message says, in line {node.lineno}: {shown}"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}..."
