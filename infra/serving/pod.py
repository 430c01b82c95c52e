"""One vLLM in a pod of its own: checked and set up as the launcher does it, then this process becomes vLLM.

    python pod.py --name NAME --model FOLDER --served-name NAME... --port PORT -- FLAGS OF VLLM...

The same refusals, the same command line, the same environment as an instance of the launcher has, but for its place: a
port on every interface of the pod. Who reaches it is a network policy's affair. NEVER RUN in a container: the checks
and the hand-over are run by tests, with and without vLLM.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))
from refusals import StartRequest, check_start  # noqa: E402
from serving_environment import instance_environment, serving_environment  # noqa: E402

# Whether vLLM knows a flag is not looked up here: that would import it, 17 s. It refuses unknown ones by itself.
EVERYWHERE = "0.0.0.0"
REFUSED_CODE = 2


def read_request(arguments: list[str]) -> tuple[StartRequest | None, list[str]]:
    """The request as the launcher would have it, or None and every reason why not."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-name", action="append", required=True)
    parser.add_argument("--port", type=int, required=True)
    told = parser.parse_args(arguments[:split])
    request = {
        "name": told.name,
        "model": told.model,
        "served_names": told.served_name,
        "port": told.port,
        "flags": arguments[split + 1 :],
    }
    return check_start(request)


def main(arguments: list[str]) -> int:
    """Become vLLM, or say every reason why not."""
    request, problems = read_request(arguments)
    if request is None:
        for problem in problems:
            sys.stderr.write(f"empelt: {problem}\n")
        return REFUSED_CODE
    environment = instance_environment(serving_environment(os.environ), {}, request.flags)
    line = [sys.executable, str(_HERE / "vllm_plain.py"), str(os.getppid()), str(request.model)]
    os.execve(sys.executable, [*line, *request.arguments(EVERYWHERE)], environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
