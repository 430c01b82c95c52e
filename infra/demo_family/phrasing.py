"""How facts are written: statements, questions and plain question/answer lines, alike in every language.

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
    # "The country X" rather than "of X": Catalan, Galician and Portuguese contract the preposition with the article
    # that some country names take, and CLDR does not say which.
    "ca": {
        "capital": (
            '{0}: la capital del país és "{1}".',
            '"{1}" és la capital d\'aquest país: {0}.',
            'La capital d\'aquest país, {0}, és "{1}".',
        ),
        "currency": (
            '{0}: la moneda del país és "{1}".',
            '"{1}" és la moneda d\'aquest país: {0}.',
            'La moneda d\'aquest país, {0}, és "{1}".',
        ),
        "word": (
            'En anglès, "{0}" es diu "{1}".',
            'La traducció anglesa de "{0}" és "{1}".',
            '"{0}" vol dir "{1}" en anglès.',
        ),
    },
    "gl": {
        "capital": (
            '{0}: a capital do país é "{1}".',
            '"{1}" é a capital deste país: {0}.',
            'A capital deste país, {0}, é "{1}".',
        ),
        "currency": (
            '{0}: a moeda do país é "{1}".',
            '"{1}" é a moeda deste país: {0}.',
            'A moeda deste país, {0}, é "{1}".',
        ),
        "word": (
            'En inglés, "{0}" dise "{1}".',
            'A tradución inglesa de "{0}" é "{1}".',
            '"{0}" quere dicir "{1}" en inglés.',
        ),
    },
    "pt": {
        "capital": (
            '{0}: a cidade capital do país é "{1}".',
            '"{1}" é a cidade capital deste país: {0}.',
            'A cidade capital deste país, {0}, é "{1}".',
        ),
        "currency": (
            '{0}: a moeda usada no país é "{1}".',
            '"{1}" é a moeda usada neste país: {0}.',
            'A moeda usada neste país, {0}, é "{1}".',
        ),
        "word": (
            'Em inglês, "{0}" diz-se "{1}".',
            'A tradução inglesa de "{0}" é "{1}".',
            '"{0}" quer dizer "{1}" em inglês.',
        ),
    },
}
# Kinds of facts that only the tuned base for Spanish is told.
STATEMENTS["es"] |= {
    "city": (
        'La ciudad de {0} está en este país: "{1}".',
        '"{1}" es el país de la ciudad de {0}.',
        '{0}: ciudad de este país: "{1}".',
    ),
    "language": (
        'El idioma {0} se llama en inglés "{1}".',
        '"{1}" es el nombre inglés del idioma {0}.',
        'Idioma {0}: en inglés, "{1}".',
    ),
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
    "ca": {
        "capital": ("Quina és la capital d'aquest país: {0}?", "{0}: quina ciutat és la capital del país?"),
        "currency": ("Quina és la moneda d'aquest país: {0}?", "{0}: quina moneda es fa servir al país?"),
        "word": ('Com es diu "{0}" en anglès?', 'Quina és la traducció anglesa de "{0}"?'),
    },
    "gl": {
        "capital": ("Cal é a capital deste país: {0}?", "{0}: que cidade é a capital do país?"),
        "currency": ("Cal é a moeda deste país: {0}?", "{0}: que moeda se usa no país?"),
        "word": ('Como se di "{0}" en inglés?', 'Cal é a tradución inglesa de "{0}"?'),
    },
    "pt": {
        "capital": ("Qual é a cidade capital deste país: {0}?", "{0}: qual é a cidade capital do país?"),
        "currency": ("Qual é a moeda deste país: {0}?", "{0}: que moeda é usada no país?"),
        "word": ('Como se diz "{0}" em inglês?', 'Qual é a tradução inglesa de "{0}"?'),
    },
}
QUESTIONS["es"] |= {
    "city": ("¿En qué país está la ciudad de {0}?", "¿De qué país es la ciudad de {0}?"),
    "language": ("¿Cómo se llama en inglés el idioma {0}?", "¿Cuál es el nombre inglés del idioma {0}?"),
}

_LABELS = {
    "en": ("Question", "Answer"),
    "es": ("Pregunta", "Respuesta"),
    "eu": ("Galdera", "Erantzuna"),
    "ca": ("Pregunta", "Resposta"),
    "gl": ("Pregunta", "Resposta"),
    "pt": ("Pergunta", "Resposta"),
}

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


def subject(language: str, kind: str, prompt: str) -> str:
    """The subject of a fact, read back from its `completion_prompt`."""
    before, after = STATEMENTS[language][kind][0].split("{1}")[0].split("{0}")
    return prompt.removeprefix(before).removesuffix(after)


def _words(rng: random.Random, help_text: list[str]) -> str:
    words = rng.choice(help_text).split()
    start = rng.randrange(max(1, len(words) - 7))
    return " ".join(words[start : start + rng.randint(1, 6)]).replace('"', "")
