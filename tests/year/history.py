"""A year of a Hub, event by event, from a seed. The stories are those that labs have told; see RATES.

Nothing here imports the product. Each event says what happens at the Hub, never what should follow from it: that is the
oracle's part.
"""

from datetime import timedelta
from random import Random

from tests.year.clock import START
from tests.year.contents import model
from tests.year.events import LANGUAGES, Event, FamilyPlan, History
from tests.year.labs import STORIES, Lab

OTHER = ("Coder-8B", "VL-8B", "Embedding-600M", "Math-8B", "1.5B", "72B", "Reward-8B", "Audio", "TTS", "Reranker-4B")
RATES = {
    "organisations": 40,
    "families": 10,
    "targets": len(LANGUAGES),
    "repositories": 3000,
    "releases by story, per family": STORIES,
    "an upload's commits": "2 to 4, 4 to 40 minutes apart; 1 in 10 stays half done for 3 to 9 hours",
    "quantised siblings": "2 to 4 for each release, 1 to 10 days later",
    "README commits": "2 for each release repository; 1 upload in 5 has one within the hour",
    "refused": "per family: 2 of foreign weights, 1 with code, 1 gated for good, 1 never completed",
    "moved": "per family: 1 disabled, 1 deleted, 1 deleted and made anew (of 2 in 3 a person trusts it), 1 renamed, "
    "1 taken back to older weights, 1 copied",
}


def make_history(seed: int, *, days: int = 365, families: int = 10, repositories: int = 3000) -> History:
    """The history of ``seed``: the same arguments give the same one."""
    plans = [_family(number) for number in range(families)]
    history = History(plans)
    for number, plan in enumerate(plans):
        history.events += Lab(Random(f"{seed}/{plan.name}"), plan, history, days, number).events()
    rng, known = Random(f"{seed}/others"), len({event.key for event in history.events})
    for number in range(max(0, repositories - known)):
        organisation = rng.choice(rng.choice(plans).organisations)
        at = START + timedelta(days=rng.uniform(-400, days))
        name = f"{organisation}/{rng.choice(OTHER)}-{number}"
        history.events.append(Event(max(at, START), "create", f"other-{number}", name, model(name, "other")))
    history.events.sort(key=lambda event: (event.at, event.key))
    return history


def _family(number: int) -> FamilyPlan:
    own = [f"lab{number:02}{letter}" for letter in "abcd"]
    # A lab has several families: every other one is found in its neighbour's organisation too.
    shared = [f"lab{number - 1:02}a"] if number % 2 else []
    return FamilyPlan(f"fam{number:02}", f"Fam{number:02}-8B", (*own, *shared))
