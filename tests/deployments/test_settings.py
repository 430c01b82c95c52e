"""Settings: from where, in which order, what is refused, and that no secret is ever shown."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments import settled
from deployments.up import ours, prefects, remember, withheld
from tasks.doors import forget
from tasks.settings import REMEMBERED, Settings, settings
from tasks.settings_layers import origins, refusal
from tasks.settings_sources import OTHERS, SECRETS

CANARY = "canary-9f3b"


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    forget()
    yield
    forget()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def secret_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def refused() -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert CANARY not in str(caught.value)
    return refusal(caught.value)


def test_a_file_in_the_home_is_read_and_the_environment_goes_before_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "empelt.toml").write_text('families = "llama-tiny"\nwindow = 3\ndevice = "gpu"\n')
    monkeypatch.setenv("EMPELT_WINDOW", "5")
    found = Settings()
    assert (found.families, found.window, found.device, found.lease_seconds) == ("llama-tiny", 5, "gpu", 45)
    origin = origins(Settings, None)
    assert origin["families"] == origin["device"] == str(home / "empelt.toml")
    assert (origin["window"], origin["lease_seconds"]) == ("environment", "default")


def test_another_file_may_be_named_and_its_paths_are_meant_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "etc" / "lab.toml"
    named.parent.mkdir()
    named.write_text('home = "../data"\ncatalog = "catalog"\n')
    monkeypatch.delenv("EMPELT_HOME")
    monkeypatch.setenv("EMPELT_SETTINGS", str(named))
    found = Settings()
    assert found.home.resolve() == tmp_path / "data"
    assert found.catalog == named.parent / "catalog"


def test_a_named_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMPELT_SETTINGS", str(tmp_path / "no.toml"))
    (told,) = refused()
    assert str(tmp_path / "no.toml") in told


def test_everything_that_is_wrong_is_refused_at_once_with_the_nearest_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "empelt.toml").write_text(f'lease_second = 9\nhub_token = "{CANARY}"\nhome = "/x"\ndevice = "tpu"\n')
    monkeypatch.setenv("EMPELT_HUB_TOKE", CANARY)
    monkeypatch.setenv("EMPELT_WINDOW", "many")
    monkeypatch.setenv("EMPELT_PREFECT_AUTH", f"{CANARY} without a colon")
    told = refused()
    assert len(told) == 7
    text, file = "\n".join(told), home / "empelt.toml"
    assert CANARY not in text
    assert f"{file}: lease_second: no setting has this name; did you mean lease_seconds (EMPELT_LEASE_SECONDS)?" in told
    assert "EMPELT_HUB_TOKE: no setting has this name; did you mean hub_token (EMPELT_HUB_TOKEN)?" in told
    assert f"{file}: hub_token: no place for a secret" in text
    assert f"{file}: home: this file lies in the home" in text
    assert "EMPELT_WINDOW=many: " in text
    assert "EMPELT_DEVICE=tpu: " in text
    assert "EMPELT_PREFECT_AUTH: expected user:password" in told


def test_a_file_that_is_no_toml_is_named(home: Path) -> None:
    (home / "empelt.toml").write_text("window: 3\n")
    (told,) = refused()
    assert told.startswith(f"{home / 'empelt.toml'}: cannot be read as TOML")


@pytest.mark.parametrize("name", sorted(OTHERS - {"SETTINGS"}))
def test_variables_of_our_other_programs_are_no_mistake(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"EMPELT_{name}", "x")
    assert Settings().window == 1


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_lie_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"ledger_url": f"postgresql://u:{CANARY}@h/db"}.get(name, f"user:{CANARY}")
    monkeypatch.setenv(f"EMPELT_{name.upper()}_FILE", str(secret_file(tmp_path, "secret", text)))
    found = Settings()
    assert getattr(found, name).get_secret_value() == text
    assert CANARY not in repr(found)
    assert CANARY not in "".join(ours(found).values())
    assert ours(found)[f"EMPELT_{name.upper()}_FILE"] == str(tmp_path / "secret")


@pytest.mark.parametrize(("text", "what"), [("", "holds 0 lines"), ("a\nb", "holds 2 lines")])
def test_a_file_without_one_secret_is_refused(
    text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPELT_HUB_TOKEN_FILE", str(secret_file(tmp_path, "secret", text)))
    (told,) = refused()
    assert str(tmp_path / "secret") in told
    assert what in told


def test_a_missing_file_and_a_doubled_secret_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_HUB_TOKEN", CANARY)
    monkeypatch.setenv("EMPELT_HUB_TOKEN_FILE", str(secret_file(tmp_path, "secret", "x")))
    monkeypatch.setenv("EMPELT_WEBHOOK_SECRET_FILE", str(tmp_path / "none"))
    told = refused()
    assert "EMPELT_HUB_TOKEN and EMPELT_HUB_TOKEN_FILE are both set; unset one of them" in told
    assert any(str(tmp_path / "none") in line for line in told)


def test_a_secret_in_the_environment_goes_before_a_file_that_the_settings_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path, "secret", "of the file")
    (home / "empelt.toml").write_text(f'hub_token_file = "{path}"\n')
    assert Settings().hub_token is not None
    assert Settings().hub_token.get_secret_value() == "of the file"
    monkeypatch.setenv("EMPELT_HUB_TOKEN", "of the environment")
    assert Settings().hub_token.get_secret_value() == "of the environment"
    assert Settings().hub_token_file is None


def test_a_child_from_which_a_secret_is_withheld_finds_it_nowhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path, "secret", f"user:{CANARY}")
    monkeypatch.setenv("EMPELT_HUB_TOKEN_FILE", str(path))
    monkeypatch.setenv("EMPELT_PREFECT_AUTH_FILE", str(path))
    remember(Settings())  # which a child would fall back to
    before = {**ours(Settings()), **prefects(Settings())}
    assert before["PREFECT_API_AUTH_STRING"] == before["PREFECT_SERVER_API_AUTH_STRING"] == f"user:{CANARY}"
    for name, value in withheld(before, "hub_token", "prefect_auth").items():
        assert CANARY not in value
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    assert settings().hub_token is None
    assert settings().prefect_auth is None


def test_what_was_remembered_counts_until_the_next_start(home: Path) -> None:
    (home / "empelt.toml").write_text("window = 2\n")
    remember(Settings())
    (home / "empelt.toml").write_text("window = 7\nnonsense = 1\n")
    assert settings().window == 2  # what is up goes on as it was, whatever is written now
    with pytest.raises(ValidationError):
        Settings()


def test_an_unknown_name_in_what_was_remembered_is_of_another_version(home: Path) -> None:
    remember(Settings())
    with (home / REMEMBERED).open("a") as file:
        file.write("EMPELT_OF_TOMORROW='1'\n")
    assert settings().window == 1


def test_the_doctor_tells_value_and_origin_of_each_setting_and_no_secret(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPELT_LEDGER_URL", f"postgresql://me:{CANARY}@db/empelt?password={CANARY}")
    monkeypatch.setenv("EMPELT_WEBHOOK_SECRET_FILE", str(secret_file(tmp_path, "secret", CANARY)))
    (home / "empelt.toml").write_text("window = 2\n")
    rows = settled.rows(settings())
    text = settled.as_text(rows)
    assert CANARY not in text
    found = {row["name"]: (row["value"], row["from"]) for row in rows}
    assert found.keys() == Settings.model_fields.keys()
    assert found["ledger_url"] == ("postgresql://me:***@db/empelt", "environment")
    assert found["webhook_secret"] == ("set", "environment")
    assert found["hub_token"] == ("not set", "default")
    assert found["window"] == ("2", str(home / "empelt.toml"))
    assert str(home / "empelt.toml") in settled.check(settings())


def test_the_doctor_says_what_takes_hold_at_the_next_start(home: Path) -> None:
    remember(Settings())
    (home / "empelt.toml").write_text("window = 2\n")
    assert "at the next one change: window" in settled.check(settings())


def test_the_doctor_minds_a_secret_that_everybody_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.domain.errors import PipelineError

    path = secret_file(tmp_path, "secret", "x")
    path.chmod(0o644)
    monkeypatch.setenv("EMPELT_HUB_TOKEN_FILE", str(path))
    with pytest.raises(PipelineError, match=r"secret has mode 0644"):
        settled.check(settings())
