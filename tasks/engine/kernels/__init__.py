"""The inner loops, compiled by numba: one pass over a block that lies in the cache, without the interpreter's lock.

They know numbers only: no files, no names of tensors, no parameters by name. Each is compiled at its first call and
kept on disk, so the second merge of an installation starts at once. Nothing here reorders floating point sums or
contracts a product and a sum into one rounding, so the bytes of a merge are the same on every processor.

Why numba: a block passes through torch or numpy once per operation and through these once. `tests/bench/engine.py`
measures it, BENCHMARKS.md says what else was tried.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import numba


def _cache_folder() -> Path:
    """Where compiled kernels are kept: by the digest of all of them.

    numba looks at the file of a kernel only, and would go on with an old one when a function that it calls from another
    file has changed.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    stated = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    for parent in (Path(stated) if stated else Path.home() / ".cache", Path(tempfile.gettempdir())):
        folder = parent / f"empelt-{os.getuid()}" / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if folder.stat().st_uid == os.getuid():  # compiled code of somebody else is not run
            return folder
    return Path(tempfile.mkdtemp(prefix="empelt-kernels-"))


numba.config.CACHE_DIR = str(_cache_folder())
