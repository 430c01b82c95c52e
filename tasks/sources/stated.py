"""What cards say of a model: from which models it comes, and under which licences. Anybody may write anything there.

A card names one stage back at most, often under a name that the parent no longer has; so the statements are followed
from card to card. Weights decide about lineage (``parentage``); what is stated goes into the notes.
"""

from collections.abc import Collection, Sequence

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.cards import ancestry
from tasks.sources.protocol import Source

RELATIONS = ("finetune", "quantized", "adapter", "merge")
MOST_STAGES = 6
"""Cards that are followed, one after the other. The longest chain of a real family seen had three (OLMo 3 Think)."""


def stated_parents(tags: Sequence[str]) -> tuple[str, ...]:
    """The repository ids that a card's ``base_model`` names, from the tags that a Hub makes of it."""
    values = [tag.removeprefix("base_model:") for tag in tags if tag.startswith("base_model:")]
    return tuple(dict.fromkeys(value for value in values if value.split(":")[0] not in RELATIONS))


def stated_way(source: Source, tags: Sequence[str], base: str) -> tuple[str, ...]:
    """The way from a model to ``base`` by what the cards say; empty if they do not lead there.

    Args:
        source: has the cards. It is asked only if ``tags`` do not name the base themselves.
        tags: of the model.
        base: repository id that it should come from.

    Returns:
        The models between, nearest first, then ``base``. A name that leads to another one, since the repository was
        renamed, stands as ``old (now new)``.

    Raises:
        HubUnavailable: the source did not answer.
    """
    ways: list[tuple[str, ...]] = [(parent,) for parent in stated_parents(tags)]
    if (base,) in ways:
        return (base,)
    seen: set[str] = set()
    for _ in range(MOST_STAGES):
        further: list[tuple[str, ...]] = []
        for way in ways:
            if way[-1] in seen:
                continue
            seen.add(way[-1])
            try:
                parent = source.state(way[-1])
            except ModelRefused:
                continue  # gone, private, or no repository at all: this way ends
            shown = way if parent.repo_id == way[-1] else (*way[:-1], f"{way[-1]} (now {parent.repo_id})")
            if parent.repo_id == base:
                return shown
            stages = [(*shown, following) for following in stated_parents(parent.tags)]
            if arrived := next((stage for stage in stages if stage[-1] == base), None):
                return arrived
            further += stages
        ways = further
    return ()


def licence_problem(source: Source, models: Sequence[ModelRef], allowed: Collection[str]) -> str:
    """Which ancestors of ``models`` state a licence that is not among ``allowed``, or none; empty if all is well.

    Args:
        source: has the cards.
        models: the release, and the base that it is merged with.
        allowed: ids as cards state them; nothing is checked if it is empty.

    Raises:
        HubUnavailable: the source did not answer, so nothing is known.
    """
    if not allowed:
        return ""
    ancestors = ancestry(source, [(ref, None) for ref in models], strict=True)
    found = [
        f"{one.name} states {one.stated.key or 'no licence that is known'} (read from {one.read})"
        for one in ancestors
        if one.stated.key not in allowed
    ]
    return f"the family allows {', '.join(sorted(allowed))}, and {'; '.join(found)}" if found else ""
