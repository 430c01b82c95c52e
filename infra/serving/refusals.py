"""What a start request may ask for. Everything that is wrong with a request is listed at once; nothing is corrected.

vLLM runs what strangers uploaded. So: weights as safetensors only (a *.bin is a pickle), no Python file and no
`auto_map` in the folder, and no flag that loads code, opens the network or answers under another identity.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters import CODE_OR_PICKLES, NAME, Adapter, adapter_arguments, check_adapters
from serving_environment import REQUESTABLE, REQUESTABLE_PREFIX

# sun_path holds 108 bytes with its closing zero; a longer path fails inside vLLM with a message that names no file.
LONGEST_SOCKET_PATH = 107
FIELDS = ("name", "model", "served_names", "uds", "port", "flags", "env", "adapters")

_OURS = "the launcher sets it from the request"
_CODE = "it loads code"
_OTHER_MODEL = "it serves something else than the folder that was named"
_NETWORK = "it opens or uses the network"
_INPUT = "it lets requests bring their own tensors, files or templates"
_SHAPE = "an instance is one API process on one host"
REFUSED_FLAGS = {
    **dict.fromkeys(
        (
            *("--model", "--model-tag", "--served-model-name", "--host", "--port", "--uds", "--load-format"),
            *("--enable-lora", "--lora-modules", "--max-lora-rank", "--max-loras", "--max-cpu-loras"),
            "--lora-target-modules",
        ),
        _OURS,
    ),
    **dict.fromkeys(
        (
            "--trust-remote-code",
            "--middleware",
            "--logits-processors",
            "--tool-parser-plugin",
            "--reasoning-parser-plugin",
            "--worker-cls",
            "--worker-extension-cls",
            "--scheduler-cls",
            "--compilation-config",
            "-cc",
            "--distributed-executor-backend",
            "--model-loader-extra-config",
            "--model-impl",
            "--io-processor-plugin",
            "--additional-config",
            "--structured-outputs-config",
        ),
        _CODE,
    ),
    **dict.fromkeys(
        (
            "--config",
            "--tokenizer",
            "--hf-overrides",
            "--hf-config-path",
            "--model-weights",
            "--revision",
            "--code-revision",
            "--tokenizer-revision",
            "--download-dir",
            "--speculative-config",
            "-sc",
            "--default-mm-loras",
            "--enable-sleep-mode",
            "--weight-transfer-config",
        ),
        _OTHER_MODEL,
    ),
    **dict.fromkeys(
        (
            "--hf-token",
            "--otlp-traces-endpoint",
            "--kv-transfer-config",
            "--kv-events-config",
            "--ec-transfer-config",
            "--api-key",
            "--ssl-keyfile",
            "--ssl-certfile",
            "--grpc",
        ),
        _NETWORK,
    ),
    **dict.fromkeys(
        (
            "--enable-prompt-embeds",
            "--enable-mm-embeds",
            "--trust-request-chat-template",
            "--allowed-local-media-path",
            "--allowed-media-domains",
            "--enable-scale-out",
        ),
        _INPUT,
    ),
    **dict.fromkeys(
        (
            "--api-server-count",
            "-asc",
            "--headless",
            "--data-parallel-size",
            "-dp",
            "--data-parallel-address",
            "--data-parallel-backend",
            "--nnodes",
            "--node-rank",
            "--master-addr",
            "--master-port",
        ),
        _SHAPE,
    ),
}


@dataclass(frozen=True)
class StartRequest:
    """A start request that passed `check_start`."""

    name: str
    model: Path
    served_names: list[str]
    uds: str | None
    port: int | None
    flags: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)

    def arguments(self, host: str = "127.0.0.1") -> list[str]:
        """The command line of vLLM. --host is given with --uds too: its default is every interface."""
        place = ["--uds", self.uds] if self.uds else ["--port", str(self.port)]
        ours = ["--model", str(self.model), "--served-model-name", *self.served_names, "--host", host, *place]
        return [*ours, "--load-format", "safetensors", *adapter_arguments(self.adapters), *self.flags]


def check_start(request: dict[str, Any], known_flags: Collection[str] = ()) -> tuple[StartRequest | None, list[str]]:
    """The request as a StartRequest, or None and every reason why not.

    Args:
        request: what came over the socket.
        known_flags: the option strings of vLLM's own parser. Empty (in tests without vLLM): spelling is not checked.
    """
    problems = [
        f"unknown field {key!r}: expected name, model, served_names, uds or port, flags, env, adapters"
        for key in sorted(set(request) - {"op", *FIELDS})
    ]
    name, model, uds, port = request.get("name"), request.get("model"), request.get("uds"), request.get("port")
    served, flags, env = request.get("served_names"), request.get("flags", []), request.get("env", {})
    if not isinstance(name, str) or not NAME.fullmatch(name):
        problems.append(f"name {name!r} was refused: expected 1 to 100 letters, digits and . _ @ -, as eu-abcdef123456")
    if not _strings(served) or not served or not all(NAME.fullmatch(item) for item in served):
        problems.append(
            f"served_names {served!r} was refused: expected a list of at least one name, as eu@abcdef123456"
        )
    if isinstance(model, str) and Path(model).is_absolute():
        problems += model_problems(Path(model))
    else:
        problems.append(f"model {model!r} was refused: expected the absolute path of a model folder")
    if (uds is None) == (port is None):
        problems.append(f"uds {uds!r} and port {port!r}: expected exactly one of the two")
    elif uds is not None:
        problems += uds_problems(uds)
    else:
        problems += port_problems(port)
    problems += (
        flag_problems(flags, known_flags) if _strings(flags) else [f"flags {flags!r}: expected a list of strings"]
    )
    problems += list(_env_problems(env))
    adapters, wrong = check_adapters(request.get("adapters", []), served if _strings(served) else [])
    problems += wrong
    if problems:
        return None, problems
    return StartRequest(name, Path(model), list(served), uds, port, list(flags), dict(env), adapters), []


def model_problems(model: Path) -> list[str]:
    """Why a folder is not served: every reason, by file."""
    if not model.is_dir():
        return [f"model {model} was refused: there is no such folder on this host"]
    problems = []
    if not (model / "config.json").is_file():
        problems.append(f"model {model} was refused: it has no config.json")
    files = sorted(path for path in model.rglob("*") if not path.is_dir())
    if not any(path.suffix == ".safetensors" and path.parent == model for path in files):
        problems.append(f"model {model} was refused: it holds no *.safetensors")
    problems += [
        f"model {model} was refused: it contains {path.relative_to(model)}, and {path.suffix} can run code when "
        "loaded; expected weights as safetensors and no Python files"
        for path in files
        if path.suffix.lower() in CODE_OR_PICKLES
    ]
    for name in ("config.json", "tokenizer_config.json"):
        if (model / name).is_file():
            problems += _json_problems(model / name, "auto_map", "names Python code to be loaded with the model")
    return problems


def _json_problems(path: Path, key: str, why: str) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return [f"model {path.parent} was refused: {path.name} cannot be read as JSON ({error})"]
    if not isinstance(content, dict):
        return [f"model {path.parent} was refused: {path.name} holds a {type(content).__name__}, expected an object"]
    return (
        [f"model {path.parent} was refused: {path.name} has {key!r}, which {why}; take it out"]
        if key in content
        else []
    )


def flag_problems(flags: list[str], known_flags: Collection[str] = ()) -> list[str]:
    """Why flags are refused. argparse takes abbreviations and vLLM takes _ for -, so both are looked through."""
    problems = []
    for given in flags:
        if not given.startswith("-") or _is_number(given):
            continue
        bare = given.split("=")[0]
        flag = (bare if bare in known_flags else bare.split(".")[0]).replace("_", "-")
        hit = next((name for name in REFUSED_FLAGS if flag in (name, f"--no-{name[2:]}")), None)
        if hit is None and flag not in known_flags:
            hit = next((name for name in REFUSED_FLAGS if name.startswith(flag)), None)
        if hit is not None:
            problems.append(f"flag {given} was refused: {hit}: {REFUSED_FLAGS[hit]}; take it out")
        elif known_flags and flag not in known_flags:
            problems.append(
                f"flag {given} was refused: vLLM has no such option (abbreviations are not taken); write it in full"
            )
    return problems


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-[0-9.]+", text) is not None


def uds_problems(uds: object) -> list[str]:
    """Why a socket path cannot be served at."""
    if not isinstance(uds, str) or not os.path.isabs(uds) or "\0" in uds:
        return [f"uds {uds!r} was refused: expected the absolute path of a socket that does not exist yet"]
    if len(os.fsencode(uds)) > LONGEST_SOCKET_PATH:
        return [
            f"uds {uds} was refused: {len(os.fsencode(uds))} bytes, and a socket's path holds {LONGEST_SOCKET_PATH}"
        ]
    if not os.path.isdir(os.path.dirname(uds)):
        return [f"uds {uds} was refused: its folder does not exist; make it first"]
    if os.path.lexists(uds):
        return [f"uds {uds} was refused: the path is occupied; choose another, or remove it when nothing listens there"]
    return []


def port_problems(port: object) -> list[str]:
    """Why a port cannot be served at; a busy one is found by binding it."""
    if not isinstance(port, int) or isinstance(port, bool) or not 1024 <= port <= 65535:
        return [f"port {port!r} was refused: expected a number from 1024 to 65535"]
    with socket.socket() as probe:
        # As vLLM will bind it: a connection that lingers in TIME_WAIT is no hindrance, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return [f"port {port} was refused: 127.0.0.1:{port} is busy ({error.strerror}); choose another"]
    return []


def _env_problems(env: object) -> Iterator[str]:
    if not isinstance(env, dict) or not _strings(list(env.values())):
        yield f"env {env!r} was refused: expected an object of strings"
        return
    for name in sorted(env):
        if name not in REQUESTABLE and not re.fullmatch(REQUESTABLE_PREFIX + "[A-Z0-9_]+", name):
            yield f"env {name} was refused: expected {REQUESTABLE_PREFIX}* or one of {', '.join(REQUESTABLE)}"


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)
