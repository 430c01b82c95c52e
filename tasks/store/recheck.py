"""Hashes one stored artifact again, in a process of its own that needs nothing but the store, which it only reads.

    python -m tasks.store.recheck STORE DIGEST

Exit codes: 0 it is what was stored, 3 it is not (every file that differs stands on standard output), 1 it cannot be
read at this moment. A pod runs this before its server; its last lines become the reason that a person reads.
"""

import sys
from pathlib import Path

from tasks.domain.errors import ModelRefused
from tasks.store.artifacts import ArtifactStore

REFUSED_CODE = 3


def main(arguments: list[str]) -> int:
    """Check; returns the exit code."""
    store, digest = arguments
    try:
        artifact = ArtifactStore(Path(store), read_only=True).verify(digest)
    except ModelRefused as error:
        print(error)  # noqa: T201
        return REFUSED_CODE
    except OSError as error:
        print(f"{digest} cannot be read in {store}: {error}")  # noqa: T201
        return 1
    print(f"{digest}: {len(artifact.files)} files are what was stored")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
