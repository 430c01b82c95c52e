"""A signature over every file of a publication, by OpenSSF model-signing with a key of one's own. No service is asked.

The package is an extra (``empelt[signing]``): it brings sigstore and some forty others, which nobody needs who signs
nothing.
"""

from pathlib import Path

from tasks.domain.errors import InputError

SIGNATURE = "model.sig"


def sign(folder: Path, key: Path) -> None:
    """Write ``model.sig`` into ``folder``: digests of all its files, signed.

    Args:
        folder: the files as they will stand there.
        key: an EC private key in PEM, without a password.

    Raises:
        InputError: the package is not installed, or the key cannot be used. Nothing was written.
    """
    try:
        from model_signing import hashing, signing  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise InputError(
            f"EMPELT_PUBLISH_SIGNING_KEY is set, and the package model-signing is not whole ({error}): install "
            "empelt[signing], or unset it"
        ) from error
    target = folder / SIGNATURE
    if target.exists():  # a second try in the same process
        return
    hashed = hashing.Config().set_ignored_paths(paths=[target])
    try:
        signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(hashed).sign(folder, target)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{key} does not sign: {error}. Expected an EC private key in PEM without a password"
        ) from error
