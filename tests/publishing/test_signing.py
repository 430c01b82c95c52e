"""A signature over all files, with a key of one's own: checked by the package itself, after a way over the Hub."""

import importlib.util
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from tests.publishing.conftest import TOKEN, Publisher

INSTALLED = all(importlib.util.find_spec(name) for name in ("model_signing", "OpenSSL"))
# It is an extra (empelt[signing]), and among what the tests install: it is missing only where somebody left that out.
signed = pytest.mark.skipif(not INSTALLED, reason="model-signing is not installed (pip install empelt[signing])")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return private, public


@signed
def test_a_signed_publication_is_verified_after_its_download_and_a_changed_file_is_not(
    publisher: Publisher, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from model_signing import verifying

    folder, marker = publisher.folder()
    done = publisher.run(folder, signing_key=str(keys[0]))
    assert done.code == 0, done.said
    place = {"endpoint": publisher.hub.endpoint, "token": TOKEN, "local_dir": tmp_path / "got"}
    got = Path(snapshot_download(publisher.repo_id, revision=marker.tag, **place))
    check = verifying.Config().use_elliptic_key_verifier(public_key=keys[1]).set_ignore_unsigned_files(True)
    check.verify(got, got / "model.sig")
    (got / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        check.verify(got, got / "model.sig")


@signed
def test_what_is_there_already_is_adopted_though_a_new_signature_would_be_another(
    publisher: Publisher, keys: tuple[Path, Path]
) -> None:
    folder, _ = publisher.folder()
    assert publisher.run(folder, signing_key=str(keys[0])).event["how"] == "uploaded"
    (folder / "model.sig").unlink()
    assert publisher.run(folder, signing_key=str(keys[0])).event["how"] == "adopted"
    assert not (folder / "model.sig").exists()


@signed
def test_a_key_that_is_none_is_refused_by_its_path_and_no_repository_is_made(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("no key")
    folder, _ = publisher.folder()
    done = publisher.run(folder, signing_key=str(tmp_path / "no.pem"))
    assert (done.code, done.event["kind"]) == (2, "InputError")
    assert str(tmp_path / "no.pem") in done.event["message"]
    assert not publisher.api.repo_exists(publisher.repo_id)


def test_a_key_without_the_package_is_refused_and_no_repository_is_made(publisher: Publisher) -> None:
    folder, _ = publisher.folder()
    hidden = "import sys; sys.modules['model_signing'] = None"
    done = publisher.run(folder, code=hidden, signing_key="key.pem")
    assert (done.code, done.event["kind"]) == (2, "InputError")
    assert "empelt[signing]" in done.event["message"]
    assert not (folder / "model.sig").exists()
    assert not publisher.api.repo_exists(publisher.repo_id)
