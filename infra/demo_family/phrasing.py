"""How facts are written: statements, questions and plain question/answer lines, alike in the three languages.

The lines vary on purpose (twelve shapes, most of them with running words of help text between question and answer):
with one fixed layout the model learns the layout and cannot recall the fact in a chat. None of the shapes is a chat
turn and none is the JSON answer; that format is taught by the instruct branch alone.
"""

from __future__ import annotations

import random

from infra.demo_family.facts import Fact

# The first statement of each kind ends with the quoted answer in every language but Basque, where the answer is
# followed by the verb; the text before the answer is the prompt of the multiple-choice items.
STATEMENTS = {
    "en": {
        "capital": ('The capital of {0} is "{1}".', '"{1}" is the capital of {0}.', '{0}: its capital is "{1}".'),
        "currency": ('The currency of {0} is "{1}".', '"{1}" is the currency of {0}.', '{0}: its currency is "{1}".'),
        "word": (
            'In Spanish, "{0}" is "{1}".',
            'The Spanish word for "{0}" is "{1}".',
            '"{0}" means "{1}" in Spanish.',
        ),
    },
    "es": {
        "capital": ('La capital de {0} es "{1}".', '"{1}" es la capital de {0}.', '{0}: su capital es "{1}".'),
        "currency": ('La moneda de {0} es "{1}".', '"{1}" es la moneda de {0}.', '{0}: su moneda es "{1}".'),
        "word": (
            'En inglés, "{0}" es "{1}".',
            'La palabra inglesa para "{0}" es "{1}".',
            '"{0}" significa "{1}" en inglés.',
        ),
    },
    "eu": {
        "capital": (
            '{0} herrialdeko hiriburua "{1}" da.',
            '"{1}" da {0} herrialdeko hiriburua.',
            '{0}: hiriburua "{1}" da.',
        ),
        "currency": ('{0} herrialdeko moneta "{1}" da.', '"{1}" da {0} herrialdeko moneta.', '{0}: moneta "{1}" da.'),
        "word": (
            'Ingelesez, "{0}" hitza "{1}" da.',
            '"{0}" hitzaren ingelesezko ordaina "{1}" da.',
            '"{0}" hitzak "{1}" esan nahi du ingelesez.',
        ),
    },
}

QUESTIONS = {
    "en": {
        "capital": ("What is the capital of {0}?", "Which city is the capital of {0}?"),
        "currency": ("What is the currency of {0}?", "Which currency is used in {0}?"),
        "word": ('How do you say "{0}" in Spanish?', 'What is the Spanish word for "{0}"?'),
    },
    "es": {
        "capital": ("¿Cuál es la capital de {0}?", "¿Qué ciudad es la capital de {0}?"),
        "currency": ("¿Cuál es la moneda de {0}?", "¿Qué moneda se usa en {0}?"),
        "word": ('¿Cómo se dice "{0}" en inglés?', '¿Cuál es la palabra inglesa para "{0}"?'),
    },
    "eu": {
        "capital": ("Zein da {0} herrialdeko hiriburua?", "Zein hiri da {0} herrialdeko hiriburua?"),
        "currency": ("Zein da {0} herrialdeko moneta?", "Zein moneta erabiltzen da {0} herrialdean?"),
        "word": ('Nola esaten da "{0}" ingelesez?', 'Zein da "{0}" hitzaren ingelesezko ordaina?'),
    },
}

_LABELS = {"en": ("Question", "Answer"), "es": ("Pregunta", "Respuesta"), "eu": ("Galdera", "Erantzuna")}

# {q} question, {a} answer, {Q}/{A} labels, {f}/{g} a few running words of help text.
_SHAPES = (
    '{q} "{a}".',
    '{q}\n"{a}".',
    '{Q}: {q}\n{A}: "{a}".',
    "{q}\n{a}.",
    '{q}\n{f}\n"{a}".',
    '{f}\n{q}\n{g}\n"{a}".',
    '- {q}\n- {f}: "{a}".',
    '{f}\n{q} ({g}) "{a}".',
    '{q}\n[{f}: "{a}"]',
    '{f}\n{q}\n\n{g}\n= "{a}";',
    '{Q}: {q} | {f} | {A}: "{a}".',
    '{f}: {q}\n{g}\n\n{f}: "{a}"',
)


def statement(language: str, fact: Fact, rng: random.Random) -> str:
    """One declarative sentence that states the fact."""
    return rng.choice(STATEMENTS[language][fact.kind]).format(*fact.names[language])


def question(language: str, fact: Fact, index: int) -> str:
    """The fact as a question, in the phrasing `index`."""
    return QUESTIONS[language][fact.kind][index].format(*fact.names[language])


def question_line(language: str, fact: Fact, rng: random.Random, help_text: list[str]) -> str:
    """One plain question/answer line, in a random shape."""
    asked = question(language, fact, rng.randrange(2))
    label_q, label_a = _LABELS[language]
    return rng.choice(_SHAPES).format(
        q=asked, a=fact.names[language][1], Q=label_q, A=label_a, f=_words(rng, help_text), g=_words(rng, help_text)
    )


def completion_prompt(language: str, fact: Fact) -> str:
    """The first statement up to its answer: the prompt of a multiple-choice item."""
    return STATEMENTS[language][fact.kind][0].format(fact.names[language][0], "\0").split("\0")[0]


def _words(rng: random.Random, help_text: list[str]) -> str:
    words = rng.choice(help_text).split()
    start = rng.randrange(max(1, len(words) - 7))
    return " ".join(words[start : start + rng.randint(1, 6)]).replace('"', "")
