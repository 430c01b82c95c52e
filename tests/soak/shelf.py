"""Artifacts of the demo family for a soak, each with a digest and a release of its own."""

import json
import shutil
from pathlib import Path

from tasks.domain.models import Artifact, ModelRef
from tests.soak.host import ROOT, Host

MODELS = ROOT / "infra" / "demo_family" / "models"


class Shelf:
    """Makes them and knows their releases."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.refs: dict[str, ModelRef] = {}
        """By digest."""

    @property
    def releases(self) -> dict[str, str]:
        """As the gateway's header says them, by digest."""
        return {digest: str(ref) for digest, ref in self.refs.items()}

    def make(self, model: str = "llama-tiny-instruct-v1", *, breaks: bool = False) -> Artifact:
        """A new one; its number stands in generation_config.json. ``breaks``: no server can load it."""
        number = len(self.refs) + 1
        folder = self._host.home / f"made-{number}"
        shutil.copytree(MODELS / model, folder)
        path = folder / "generation_config.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**told, "transformers_version": f"5+{number}"}))
        if breaks and not self._host.is_fake:  # more layers than there are weights for
            config = json.loads((folder / "config.json").read_text())
            config["num_hidden_layers"] += 1
            (folder / "config.json").write_text(json.dumps(config))
        artifact = self._host.store.adopt(folder)
        self.refs[artifact.digest] = ModelRef(repo_id=f"lab/instruct-v{number}", revision=f"{number:040x}")
        if breaks and self._host.is_fake:
            self._host.misbehave(artifact.digest, crash="this model cannot be loaded")
        return artifact


def change_weights(artifact: Artifact) -> None:
    """One byte of its weights is another one than when it was judged."""
    weights = next(Path(artifact.folder).glob("*.safetensors"))
    weights.chmod(0o644)
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
