"""What models' cards state, at the revision that is used, and who their ancestors are. A real local Hub."""

from pathlib import Path

import pytest

from tasks.domain.licences import Ancestor, Stated
from tasks.domain.models import ModelRef
from tasks.sources import failures
from tasks.sources.cards import MOST_FURTHER, ancestry, parse_card
from tasks.sources.hub import HubSource
from tests.local_hub.hub_fixtures import Push, TinyModel, free_port


def card(licence: str, *made_from: str) -> TinyModel:
    return TinyModel(
        card=f"---\nlicense: {licence}\nbase_model: [{', '.join(made_from)}]\nlanguage: eu\n---\n# A model\n"
    )


def by_name(found: list[Ancestor]) -> dict[str, Ancestor]:
    names = [one.name for one in found]
    assert len(names) == len(set(names))
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize(
    ("text", "licence", "languages", "made_from"),
    [
        (
            "---\nlicense: apache-2.0\nlanguage: [en, eu]\nbase_model: lab/b\n---\n#",
            "apache-2.0",
            ("en", "eu"),
            ("lab/b",),
        ),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n# A model\r\n", "mit", (), ()),
        (
            "---\nlicense:\n- gemma\nlanguage: no\nbase_model:\n- a/b\n- c/d\n- a/b\n---",
            "gemma",
            ("no",),
            ("a/b", "c/d"),
        ),
        ("---\nlicense: 2.0\nlanguage: {en: 1}\n---\n", "2.0", (), ()),
        ("---\nlicense: 'a\n  b'\n---\n", "a b", (), ()),
        (f"---\nlicense: {'x' * 5000}\n---\n", "x" * 200, (), ()),
    ],
)
def test_a_card_states_licence_languages_and_origin(
    text: str, licence: str, languages: tuple[str, ...], made_from: tuple[str, ...]
) -> None:
    found = parse_card(text)
    assert (found.stated, found.languages, found.made_from) == (Stated(licence=licence), languages, made_from)
    assert found.problem == ""


def test_a_card_with_a_licence_of_its_own_names_and_links_it() -> None:
    found = parse_card("---\nlicense: other\nlicense_name: qwen\nlicense_link: https://lab/LICENSE\n---\n")
    assert found.stated == Stated(licence="other", name="qwen", link="https://lab/LICENSE")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# A model\n---\nlicense: mit\n---\n", "it states nothing at its head"),
        ("", "it states nothing at its head"),
        ("---\nlicense: mit\n", "it states nothing at its head"),
        ("---\nlicense: [mit\n---\n", "its head is not sound YAML"),
        ("---\n- license\n---\n", "its head is not a mapping"),
        (f"---\nlicense: {'[' * 5000}\n---\n", "its head is not sound YAML"),
        ("---\nlicense: !!python/name:os.system\n---\n", ""),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "it states 2 licences: mit, apache-2.0"),
    ],
)
def test_a_card_that_is_not_sound_states_nothing(text: str, problem: str) -> None:
    found = parse_card(text)
    assert found.stated.licence == ""
    assert found.problem.startswith(problem)


def test_the_card_of_each_model_is_read_at_its_revision(source: HubSource, push: Push, tmp_path: Path) -> None:
    old, new = push("eu", card("apache-2.0")), push("eu", card("cc-by-nc-4.0"), when="2026-11-21T00:00:00Z")
    source.fetch(old, tmp_path / "eu")  # the files are those of both revisions, and the card is not
    for ref, licence in ((old, "apache-2.0"), (new, "cc-by-nc-4.0")):
        assert ancestry(source, [(ref, tmp_path / "eu")]) == [
            Ancestor(
                name=ref.repo_id,
                stated=Stated(licence=licence),
                read=f"its card at {ref.revision}",
                languages=("eu",),
            )
        ]


def test_two_states_of_one_repository_are_two_ancestors_and_one_state_is_one(
    source: HubSource, push: Push, tmp_path: Path
) -> None:
    old, new = push("base", card("cc-by-nc-4.0")), push("base", card("mit"), when="2026-11-21T00:00:00Z")
    found = ancestry(source, [(old, tmp_path), (new, tmp_path), (old, tmp_path)])
    assert [(one.name, one.stated.key) for one in found] == [(old.repo_id, "cc-by-nc-4.0"), (str(new), "mit")]


def test_ancestors_are_followed_to_where_nobody_names_more(
    source: HubSource, org: str, push: Push, tmp_path: Path
) -> None:
    push("oldest", card("llama3.1", f"{org}/gone"))
    push("older", card("mit", f"{org}/oldest", f"{org}/base"))
    base, eu = push("base", card("apache-2.0")), push("eu", card("apache-2.0", "base", f"{org}/older"))
    found = by_name(ancestry(source, [(base, tmp_path), (eu, tmp_path)]))
    assert list(found) == [f"{org}/{name}" for name in ("base", "eu", "older", "oldest", "gone")]
    assert [one.stated.key for one in found.values()] == ["apache-2.0", "apache-2.0", "mit", "llama3.1", ""]
    assert found[f"{org}/oldest"].read.endswith(f"its head; the card of {org}/older names it")
    assert found[f"{org}/gone"].read.startswith(f"nowhere: {org}/gone")
    assert found[f"{org}/gone"].read.endswith(f"; the card of {org}/oldest names it")


def test_models_that_name_each_other_end_the_search(source: HubSource, org: str, push: Push, tmp_path: Path) -> None:
    push("a", card("mit", f"{org}/b"))
    push("b", card("mit", f"{org}/a"))
    child = push("child", card("mit", f"{org}/a", f"{org}/child"))
    assert list(by_name(ancestry(source, [(child, tmp_path)]))) == [f"{org}/{name}" for name in ("child", "a", "b")]


def test_a_card_that_names_no_end_of_ancestors_is_cut_and_told(
    source: HubSource, org: str, push: Push, tmp_path: Path
) -> None:
    child = push("child", card("mit", *(f"{org}/m{k}" for k in range(MOST_FURTHER + 2))))
    *others, last = ancestry(source, [(child, tmp_path)])
    assert len(others) == 1 + MOST_FURTHER
    assert last.name == f"{org}/m{MOST_FURTHER}, {org}/m{MOST_FURTHER + 1}"
    assert (last.stated.key, last.read) == ("", f"not looked up: more than {MOST_FURTHER} others are named")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/data/models/llama", "a b", "https://huggingface.co/lab/m"])
def test_what_is_no_repository_is_an_unknown_ancestor(source: HubSource, push: Push, tmp_path: Path, name: str) -> None:
    child = push("child", card("mit", f'"{name}"'))
    unknown = ancestry(source, [(child, tmp_path)])[1]
    assert (unknown.name, unknown.stated.key) == (name, "")
    assert unknown.read.startswith("nowhere: ")


def test_a_hub_that_is_silent_is_asked_once_and_the_fetched_cards_are_read(
    source: HubSource, org: str, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [push("base", card("mit")), push("eu", card("apache-2.0", f"{org}/older"))]
    models = [(ref, tmp_path / ref.slug) for ref in refs]
    for ref, folder in models:
        source.fetch(ref, folder)
    (tmp_path / "bare").mkdir()
    models.append((ModelRef(repo_id=f"{org}/bare", revision="1" * 40), tmp_path / "bare"))
    waits: list[float] = []
    monkeypatch.setattr(failures.time, "sleep", waits.append)  # how long is waited is looked at, and not waited for
    silent = HubSource(f"http://127.0.0.1:{free_port()}", timeout_seconds=2)
    found = by_name(ancestry(silent, models))
    assert [one.stated.key for one in found.values()] == ["mit", "apache-2.0", "", ""]
    assert found[f"{org}/eu"].read.startswith("the card that was fetched with its files, since: README.md of ")
    assert "no answer from" in found[f"{org}/eu"].read
    assert found[f"{org}/bare"].read.startswith("nowhere: ")
    assert found[f"{org}/older"].read.startswith("nowhere: ")
    assert len(waits) == failures.TRIES - 1
