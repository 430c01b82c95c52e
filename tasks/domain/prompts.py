"""The fixed prompts of reference outputs: two texts and two chats for each language, fewer where there are many.

The first text of each language is the first sentence of the Universal Declaration of Human Rights, which exists in over
500 languages: to add one, take its sentence from there and write the three others. A language that has none here is
asked with the English ones, which tell models apart as well; only what its own words do is then not looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.domain.outputs import Prompt

ENGLISH = "en"
MANY = 3
"""So many languages, English included, get one text and one chat each."""


class Words(NamedTuple):
    """What is asked in one language."""

    texts: tuple[str, str]
    chats: tuple[str, str]


PROMPTS = {
    "en": Words(
        (
            "All human beings are born free and equal in dignity and rights.",
            "Open the file, choose a name and save.",
        ),
        ("What is the capital of Slovakia?", "Write one short sentence about the sea."),
    ),
    "eu": Words(
        (
            "Gizon-emakume guztiak aske jaiotzen dira, duintasun eta eskubide berberak dituztela.",
            "Ireki fitxategia, aukeratu izen bat eta gorde.",
        ),
        ("Zein da Eslovakia herrialdeko hiriburua?", "Idatzi esaldi labur bat itsasoari buruz."),
    ),
    "ca": Words(
        (
            "Tots els éssers humans neixen lliures i iguals en dignitat i en drets.",
            "Obriu el fitxer, trieu un nom i deseu-lo.",
        ),
        ("Quina és la capital d'Eslovàquia?", "Escriu una frase curta sobre el mar."),
    ),
    "gl": Words(
        (
            "Tódolos seres humanos nacen libres e iguais en dignidade e dereitos.",
            "Abra o ficheiro, escolla un nome e gárdeo.",
        ),
        ("Cal é a capital de Eslovaquia?", "Escribe unha frase curta sobre o mar."),
    ),
    "es": Words(
        (
            "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
            "Abra el archivo, elija un nombre y guárdelo.",
        ),
        ("¿Cuál es la capital de Eslovaquia?", "Escribe una frase corta sobre el mar."),
    ),
    "pt": Words(
        (
            "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
            "Abra o ficheiro, escolha um nome e guarde-o.",
        ),
        ("Qual é a capital da Eslováquia?", "Escreve uma frase curta sobre o mar."),
    ),
}


def prompts_for(languages: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of a channel: in each of its languages that has some, and in English."""
    asked = list(dict.fromkeys([*(code for code in languages if code in PROMPTS), ENGLISH]))
    count = 1 if len(asked) >= MANY else 2
    return tuple(
        Prompt(name=f"{code} {kind} {number}", kind=kind, text=text)
        for code in asked
        for kind, texts in (("text", PROMPTS[code].texts), ("chat", PROMPTS[code].chats))
        for number, text in enumerate(texts[:count], 1)
    )
