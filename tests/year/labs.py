"""What the labs of one family do in a year, story by story, as labs have told it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

from tests.year.clock import START
from tests.year.contents import INDEX, SHARDS, Content, model
from tests.year.events import DENIED, LANGUAGES, Event, FamilyPlan, History, Kind, minutes

STORIES = {
    **{"plain": 10, "opened": 7, "in place": 3, "silent": 3, "renamed": 1, "gated": 1, "transitive": 1},
    **{"batch": 1, "race": 1},
}
"""Slots of one family in a year; a batch and a race are two releases each, so these are 30 releases."""


class Lab:
    """What the labs of one family do in a year."""

    def __init__(self, rng: Random, plan: FamilyPlan, history: History, days: int, number: int) -> None:
        self.rng, self.plan, self.history, self.days, self.number = rng, plan, history, days, number
        self.found: list[Event] = []
        self.count = 0
        self.public: list[tuple[str, str, Content, datetime]] = []
        """Key, name, content and last change of release repositories that nothing else has happened to."""

    def events(self) -> list[Event]:
        self._bases()
        stories = [story for story, times in STORIES.items() for _ in range(max(1, round(times * self.days / 365)))]
        self.rng.shuffle(stories)
        step = self.days / (len(stories) + 1)
        for place, story in enumerate(stories):
            at = START + timedelta(days=place * step + 1 + self.rng.uniform(0, 0.5) * step)
            getattr(self, "_" + story.replace(" ", "_"))(at)
        for place, story in enumerate((*["_foreign"] * 2, "_code", "_closed", "_never_done")):
            getattr(self, story)(START + timedelta(days=self.rng.uniform(5, 0.8 * self.days), hours=place))
        self._moves()
        return self.found

    # --- parts of stories --------------------------------------------------------------------------------------------
    def say(
        self, at: datetime, kind: Kind, key: str, name: str = "", content: Content | None = None, **flags: bool
    ) -> None:
        self.found.append(Event(at, kind, key, name, content, **flags))

    def new_name(self, suffix: str = "", organisation: str | None = None) -> tuple[str, str]:
        """Key and name of a new instruct repository."""
        self.count += 1
        key = f"{self.plan.name}-{self.count:03}"
        where = organisation or self.rng.choice(self.plan.organisations)
        name = f"{where}/{self.plan.label}-Instruct-{self.count:03}{suffix}"
        if not suffix:
            self.history.rule_names[name] = self.plan.name
        return key, name

    def content(self, seed: str, parents: tuple[str, ...] | None = None, **what: str) -> Content:
        named = (self.plan.base,) if parents is None else parents
        return model(seed, self.plan.base, parents=named, **what)  # type: ignore[arg-type]

    def upload(self, at: datetime, key: str, name: str, whole: Content, **flags: bool) -> datetime:
        """The commits of a staged upload from ``at`` on; when the last one is made."""
        stages = [whole.without(*SHARDS, INDEX, "tokenizer_config.json"), whole.without(SHARDS[1])]
        if self.rng.random() < 0.4:
            # Complete to look at, and its template is fixed within the hour: no release of its own.
            stages.append(self.content(f"{key} rough", template="rough"))
        self.say(at, "create", key, name, stages[0], **flags)
        for place, stage in enumerate([*stages[1:], whole]):
            slow = place == 0 and self.rng.random() < 0.1
            at += minutes(self.rng.uniform(180, 540) if slow else self.rng.uniform(4, 40))
            self.say(at, "commit", key, content=stage)
        if self.rng.random() < 0.2:
            at += minutes(self.rng.uniform(5, 40))
            self.say(at, "commit", key, content=whole.with_readme("# Fixed within the hour"))
        return at

    def out(self, at: datetime, key: str, name: str, whole: Content) -> None:
        """What follows a release: siblings by the lab, and better cards."""
        self.public.append((key, name, whole, at))
        for number in range(self.rng.randint(2, 4)):
            self.count += 1
            word = self.rng.choice(DENIED[:7])
            sibling = f"{name}-{word}"
            then = at + timedelta(days=self.rng.uniform(1, 10))
            self.say(then, "create", f"{key}-sibling-{number}", sibling, model(f"{sibling}{number}", "other"))
        for number in (1, 2):
            then = at + timedelta(days=self.rng.uniform(2, 2.8) * number)
            self.say(then, "commit", key, content=whole.with_readme(f"# Card {number} of {key}"))

    def _bases(self) -> None:
        base = model(self.plan.base, self.plan.base)
        self.say(START, "create", f"{self.plan.name}-base", self.plan.base, base)
        for language in LANGUAGES:
            name = self.plan.tuned(language)
            self.say(START, "create", f"{self.plan.name}-{language}", name, self.content(name))

    # --- releases ----------------------------------------------------------------------------------------------------
    def _plain(self, at: datetime, parents: tuple[str, ...] | None = None) -> None:
        key, name = self.new_name()
        whole = self.content(key, parents)
        self.out(self.upload(at, key, name, whole), key, name, whole)

    def _silent(self, at: datetime) -> None:
        self._plain(at, parents=())

    def _transitive(self, at: datetime) -> None:
        key, name = self.new_name("-SFT-Preview")
        self.say(at - timedelta(days=3), "create", key, name, self.content(key))
        self._plain(at, parents=(name,))

    def _opened(self, at: datetime) -> None:
        """Staged in private for weeks and opened: neither of its dates moves."""
        key, name = self.new_name()
        whole = self.content(key)
        begun = max(START + minutes(self.number), at - timedelta(days=self.rng.uniform(4, 30)))
        self.upload(begun, key, name, whole, private=True)
        self.say(max(at, begun + timedelta(days=2)), "open", key)
        self.out(max(at, begun + timedelta(days=2)), key, name, whole)

    def _batch(self, at: datetime) -> None:
        for _ in range(2):
            key, name = self.new_name()
            whole = self.content(key)
            self.upload(at - timedelta(days=3), key, name, whole, private=True)
            self.say(at, "open", key)
            self.out(at, key, name, whole)

    def _race(self, at: datetime) -> None:
        """A better one while the first is still being merged."""
        self._plain(at)
        self._plain(at + minutes(self.rng.uniform(90, 150)))

    def _in_place(self, at: datetime) -> None:
        still = [one for one in self.public if one[3] + timedelta(days=8) < at]
        if not still:
            return self._plain(at)
        key, name, _, _ = chosen = self.rng.choice(still)
        self.public.remove(chosen)
        whole = self.content(f"{key} v1.1 {at:%j}")
        self.say(at, "commit", key, content=whole)
        self.public.append((key, name, whole, at))

    def _renamed(self, at: datetime) -> None:
        """A preview becomes the release by its name alone."""
        key, name = self.new_name("-Preview")
        whole = self.content(key)
        self.upload(at - timedelta(days=6), key, name, whole)
        final = name.removesuffix("-Preview")
        self.history.rule_names[final] = self.plan.name
        self.say(at, "rename", key, final)
        self.out(at, key, final, whole)

    def _gated(self, at: datetime) -> None:
        key, name = self.new_name()
        whole = self.content(key)
        begun = at - timedelta(days=self.rng.uniform(1, 3))
        self.upload(begun, key, name, whole, gated=True)
        self.say(at + minutes(600), "grant", key)
        self.out(at + minutes(600), key, name, whole)

    # --- what is refused ---------------------------------------------------------------------------------------------
    def _foreign(self, at: datetime) -> None:
        key, name = self.new_name()
        self.upload_bad(at, key, name, self.content(key, label="lineage"))

    def _code(self, at: datetime) -> None:
        key, name = self.new_name()
        self.upload_bad(at, key, name, self.content(key, label="preflight"))

    def _closed(self, at: datetime) -> None:
        key, name = self.new_name()
        self.say(at, "create", key, name, self.content(key), gated=True)

    def _never_done(self, at: datetime) -> None:
        key, name = self.new_name()
        self.say(at, "create", key, name, self.content(key).without(SHARDS[1]))

    def upload_bad(self, at: datetime, key: str, name: str, whole: Content) -> None:
        self.say(at, "create", key, name, whole)
        if self.rng.random() < 0.3:
            self.say(at + timedelta(days=9), "delete", key)

    # --- what becomes of releases ------------------------------------------------------------------------------------
    def _moves(self) -> None:
        moves = self._move_of()
        end = START + timedelta(days=self.days)
        for key, name, whole, last in self.rng.sample(self.public, k=min(6, len(self.public))):
            at = last + timedelta(days=self.rng.uniform(8, 20))
            if at + timedelta(days=5) < end:
                next(moves)(at, key, name, whole)

    def _move_of(self) -> Iterator[object]:
        yield from (self._again, self._disabled, self._renamed_later, self._deleted, self._taken_back, self._copied)

    def _disabled(self, at: datetime, key: str, name: str, whole: Content) -> None:
        self.say(at, "disable", key)

    def _deleted(self, at: datetime, key: str, name: str, whole: Content) -> None:
        self.say(at, "delete", key)

    def _again(self, at: datetime, key: str, name: str, whole: Content) -> None:
        """Deleted, and the name registered anew: by whom nobody knows until a person has looked."""
        self.say(at, "delete", key)
        anew = f"{key}-anew"
        self.say(at + timedelta(hours=30), "create", anew, name, self.content(anew))
        if self.number % 3:
            self.say(at + timedelta(days=3), "trust", anew)

    def _renamed_later(self, at: datetime, key: str, name: str, whole: Content) -> None:
        final = f"{name}-2"
        self.history.rule_names[final] = self.plan.name
        self.say(at, "rename", key, final)

    def _taken_back(self, at: datetime, key: str, name: str, whole: Content) -> None:
        self.say(at, "commit", key, content=self.content(f"{key} regretted"))
        self.say(at + timedelta(days=3), "commit", key, content=whole)

    def _copied(self, at: datetime, key: str, name: str, whole: Content) -> None:
        other, called = self.new_name()
        self.say(at, "create", other, called, whole)
