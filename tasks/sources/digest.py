"""The content digest of a model that has not been downloaded.

Large files have their sha256 in the listing; the small ones are read and hashed. The result is the digest that the
downloaded folder will have, so a README-only commit is known for what it is at the price of a few kilobytes.
"""

import hashlib

from tasks.domain.errors import ModelRefused
from tasks.domain.lineage import content_digest, matters
from tasks.domain.models import Digest, FileDigest, ModelRef
from tasks.sources.download import git_blob_sha1, is_allowed
from tasks.sources.protocol import Source

SMALL_BYTES = 32 * 1024 * 1024
"""The largest file that is read whole; the Hub itself puts files over 10 MB in LFS."""


def remote_digest(source: Source, ref: ModelRef) -> tuple[Digest, tuple[FileDigest, ...]]:
    """Content digest of ``ref``, and the files that it is made of.

    Raises:
        ModelRefused: weights without a sha256, no weights at all, or a small file that is not as listed.
        HubUnavailable: the source did not answer.
    """
    found: list[FileDigest] = []
    problems: list[str] = []
    for file in source.files(ref):
        # is_allowed as well, so that this digest is over the files that a download would have.
        if not matters(file.path) or not is_allowed(file.path):
            continue
        if file.sha256 is not None:
            found.append(FileDigest(path=file.path, sha256=file.sha256, size=file.size))
        elif file.path.endswith(".safetensors"):
            problems.append(f"{file.path}: weights without a sha256 in the listing; they must be LFS files")
        else:
            content = source.read_small(ref, file.path, SMALL_BYTES)
            blob = git_blob_sha1(len(content))
            blob.update(content)
            if blob.hexdigest() != file.blob_id:
                problems.append(f"{file.path}: git sha1 is {blob.hexdigest()}, but the source lists {file.blob_id}")
            sha256 = hashlib.sha256(content).hexdigest()
            found.append(FileDigest(path=file.path, sha256=sha256, size=len(content)))
    if not problems and not any(file.path.endswith(".safetensors") for file in found):
        problems.append("no *.safetensors at its top: there is nothing to identify")
    if problems:
        raise ModelRefused(f"{ref} has no content digest", problems=problems)
    return content_digest(found), tuple(found)
