"""``python -m tasks.publishing REQUEST``: one publication in a process of its own. The token comes by the environment.

REQUEST is JSON: ``{"endpoint": URL, "repo_id": "owner/name", "private": true, "folder": PATH, "xet": false,
"signing_key": PATH or null}``; the folder holds the files as they will stand there, but for the signature. Prints one
JSON object: ``report``, or ``error`` with a kind and a message. Exit code 0: done. 2: refused. 3: may pass if tried
again.
"""

import json
import logging
import os
import sys
from pathlib import Path

TOKEN = "EMPELT_PUBLISH_TOKEN"


def main(arguments: list[str]) -> int:
    """Carry out the request; returns the exit code."""
    asked = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    token = os.environ.pop(TOKEN, "")
    # The client reads it at import. Xet is the real Hub's own way: it fails on every other server, so it is asked for.
    os.environ["HF_HUB_DISABLE_XET"] = "0" if asked.get("xet") else "1"
    # Only now, for the switches above.
    from tasks.domain.errors import InputError, ModelRefused, PipelineError
    from tasks.domain.publication import MARKER, read_marker
    from tasks.publishing.publish import publish
    from tasks.publishing.remote import Repository, set_time_outs
    from tasks.publishing.signing import sign

    logging.basicConfig(level=logging.WARNING)
    set_time_outs()
    folder, key = Path(asked["folder"]), asked.get("signing_key")

    def complete(place: Path) -> None:
        if key:
            sign(place, Path(key))

    try:
        marker = read_marker((folder / MARKER).read_bytes())
        if marker is None:
            raise ModelRefused(f"{folder / MARKER} is not a marker; make the folder anew")
        remote = Repository(asked["endpoint"], asked["repo_id"], token)
        done = publish(remote, folder, marker, private=asked["private"], complete=complete)
    except PipelineError as error:
        print(json.dumps({"event": "error", "kind": type(error).__name__, "message": str(error)}), flush=True)
        return 2 if isinstance(error, InputError) else 3
    print(json.dumps({"event": "report", **done._asdict()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
