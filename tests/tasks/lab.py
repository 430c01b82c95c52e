"""A lab and those who watch it: the real client writes to a real local Hub, and the watch's task reads from it."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.admission import examine
from tasks.domain.models import Release
from tasks.domain.records import Hold
from tasks.hub import find_releases
from tasks.sources.recognition import Recognition
from tests.local_hub.hub_fixtures import ARCHITECTURE, RunningHub, TinyModel, trained

TOKEN = "hf_the-lab-writes"
FAMILY = "tiny"
CARD = "---\nlicense: apache-2.0\nbase_model: {base}\n---\n# A model\n"
CATALOG = Path(__file__).parents[2] / "deployments" / "catalog"


@dataclass
class Lab:
    """One organisation on the Hub, with a base whose instruct models are watched."""

    hub: RunningHub
    api: HfApi
    org: str
    tmp_path: Path

    def repo(self, name: str) -> str:
        return f"{self.org}/{name}"

    def folder(self, model: TinyModel) -> Path:
        return model.write(self.tmp_path / "models" / uuid.uuid4().hex)

    def release(self, name: str, steps: int, *, card: str = "# A model\n", origin: int = 1) -> str:
        """Upload an instruct model that was trained for ``steps`` from the base; its sha."""
        folder = self.folder(TinyModel(values=trained(origin, steps), card=card))
        self.api.create_repo(self.repo(name), exist_ok=True)
        return self.api.upload_folder(repo_id=self.repo(name), folder_path=folder).oid

    def push(
        self,
        name: str,
        steps: int = 1,
        *,
        model: TinyModel | None = None,
        change: Callable[[Path], object] = lambda folder: None,
        minutes_ago: int = 120,
    ) -> str:
        """As ``release``, in one commit that was made so long ago, without the client; its sha."""
        folder = self.folder(model or TinyModel(values=trained(1, steps), card=CARD.format(base=self.repo("base"))))
        change(folder)
        when = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        return self.hub.push(self.repo(name), folder, when=when.isoformat())

    def find(self, name: str) -> Recognition:
        """What the repository is to the family now; recorded nowhere."""
        family, state = doors.open_catalog().family(FAMILY), doors.open_source().state(self.repo(name))
        return examine(family, state, datetime.now(UTC))

    def settle(self) -> dict[str, str]:
        """Two watches; what is on record then."""
        self.watch()
        return self.watch()

    def edit_catalog(self, **changes: object) -> None:
        """Set keys of the family."""
        path = self.tmp_path / "catalog" / f"{FAMILY}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
        doors.open_catalog.cache_clear()

    def add(self, name: str, path: str, content: bytes) -> str:
        """One commit with one file; its sha."""
        operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
        return self.api.create_commit(self.repo(name), [operation], commit_message=f"Add {path}").oid

    def watch(self, *, full_rescan: bool = False) -> dict[str, str]:
        """One watch; content digest -> ``name@sha`` of every release on record."""
        found: list[Release] = find_releases.fn(FAMILY, full_rescan)
        return {release.content_digest: f"{release.ref.slug}@{release.ref.revision}" for release in found}

    def holds(self) -> dict[str, str]:
        """``name@sha`` of what is held -> why."""
        held: list[Hold] = doors.open_ledger().holds()
        return {hold.key.removeprefix(f"release:{self.org}/"): hold.reason for hold in held}

    def watch_as(self, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch with a token from now on."""
        monkeypatch.setenv("EMPELT_HUB_TOKEN", token)
        doors.forget()


@contextmanager
def lab_on(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle_seconds: int = 0) -> Iterator[Lab]:
    """A new organisation with a base, and an installation that watches it without a token."""
    # As HF_HUB_DISABLE_XET=1, which the client reads when it is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    org = f"lab-{uuid.uuid4().hex[:8]}"
    lab = Lab(hub, HfApi(endpoint=hub.endpoint, token=TOKEN), org, tmp_path)
    gate = yaml.safe_load((CATALOG / "llama-tiny.yaml").read_text())["targets"]["eu"]["gate"]
    family = {
        "family": FAMILY,
        "architectures": [ARCHITECTURE],
        "base": {"repo": lab.repo("base")},
        "instruct": {"organizations": [org], "pattern": rf"{org}/instruct-v\d+.*", "deny": ["GGUF"]},
        "tuned_bases": {"eu": {"repo": lab.repo("eu")}},
        "targets": {"eu": {"languages": ["eu"], "channel": "eu", "recipe": {"method": "linear"}, "gate": gate}},
    }
    shutil.copytree(CATALOG / "gates", tmp_path / "catalog" / "gates")
    (tmp_path / "catalog" / f"{FAMILY}.yaml").write_text(yaml.safe_dump(family))
    values = {"HOME": tmp_path / "home", "CATALOG": tmp_path / "catalog", "FAMILIES": FAMILY}
    for name, value in (values | {"HUB_ENDPOINT": hub.endpoint, "SETTLE_SECONDS": settle_seconds}).items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    monkeypatch.delenv("EMPELT_HUB_TOKEN", raising=False)
    doors.forget()
    hub.push(lab.repo("base"), lab.folder(TinyModel(values=trained(1))))
    hub.push(lab.repo("eu"), lab.folder(TinyModel(values=trained(1, steps=99))))
    with disable_run_logger():
        yield lab
    doors.forget()
