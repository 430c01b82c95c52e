"""vLLM, imported once and forked: the only module here that touches its inside. Written for and run with 0.32.0, CPU.

A plain start of vLLM takes about a minute on two cores, nearly all of it three processes (API server, EngineCore,
Worker) importing the same modules one after the other. Here the launcher imports them, and each of the three is forked
from what is there. vLLM asks for `spawn` on CPUs, through `get_mp_context`, which is replaced where it was imported to.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import time
from typing import Any

# vLLM's three processes import these late; done before the fork, each saves its time in every instance.
PRELOADED = (
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.metrics.prometheus",
    "vllm.renderers.hf",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "setproctitle",
    "uvloop",
)
PRELOADED_ON_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    # Imported by the worker for every model, quantised or not.
    "vllm.model_executor.layers.quantization.compressed_tensors.utils",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.v1.pool.flash_maxsim.flash_maxsim_rerank",
)
# Who imported get_mp_context by name. A missing one means another vLLM than the one this was written for.
PATCHED = (
    "vllm.utils.system_utils",
    "vllm.v1.engine.utils",
    "vllm.v1.engine.coordinator",
    "vllm.v1.executor.multiproc_executor",
)
# vLLM looks at a model class in a fresh process (25 s here, then cached in the home directory) unless it is registered.
ARCHITECTURES = {
    "LlamaForCausalLM": "vllm.model_executor.models.llama",
    "Qwen2ForCausalLM": "vllm.model_executor.models.qwen2",
    "Qwen3ForCausalLM": "vllm.model_executor.models.qwen3",
}
THREADS_EXPECTED = 1


class ImportedVllm:
    """What the launcher knows of the vLLM in its process, and whether it may be forked."""

    def __init__(self, plain: str = "") -> None:
        """Import vLLM; `plain` is a reason not to fork, or the empty string."""
        began = time.monotonic()
        # A plain start imports in the child; here only the parser is wanted, for the spelling of flags.
        entry = importlib.import_module("vllm.entrypoints.launchers.api_server.entry")
        import torch
        import vllm
        from vllm.platforms import current_platform

        self.version: str = vllm.__version__
        self.device: str = current_platform.device_type
        self.known_flags = _option_strings()
        self.why_plain = plain or self._prepare(torch, current_platform)
        self.main = entry.main
        self.seconds = time.monotonic() - began

    @property
    def mode(self) -> str:
        """How instances are started: fork, or plain."""
        return "plain" if self.why_plain else "fork"

    def _prepare(self, torch: Any, platform: Any) -> str:
        """Make this process ready to be forked. Returns why it must not be, or the empty string."""
        if self.device != "cpu" and os.environ.get("EMPELT_LAUNCHER") != "fork":
            return f"forking was only ever run on a CPU and the device is {self.device}; EMPELT_LAUNCHER=fork tries it"
        torch.set_num_threads(1)
        for name in (*PRELOADED, *(PRELOADED_ON_CPU if self.device == "cpu" else ())):
            try:
                importlib.import_module(name)
            except ImportError as error:
                return f"vLLM {self.version} has no {name} ({error}); vllm_fork.py is written for 0.32"
        modules = [importlib.import_module(name) for name in PATCHED]
        missing = [name for name, module in zip(PATCHED, modules, strict=True) if not hasattr(module, "get_mp_context")]
        if missing:
            return (
                f"vLLM {self.version} has no get_mp_context in {', '.join(missing)}; vllm_fork.py is written for 0.32"
            )
        if torch.cuda.is_initialized():
            return "CUDA was initialised by the imports, and does not live through a fork"
        _register_architectures()
        # It looks for argv beside the first variable of the environment, and a fork replaces its environment.
        importlib.import_module("setproctitle").getproctitle()
        threads = len(os.listdir("/proc/self/task"))
        if threads != THREADS_EXPECTED:
            return f"{threads} threads run after the imports, expected {THREADS_EXPECTED}: a lock might be forked held"
        fork = multiprocessing.get_context("fork")
        for module in modules:
            module.get_mp_context = lambda: fork
        # Objects made so far are moved out of the collector's sight, so that it does not write to their pages, which
        # all instances share.
        gc.collect()
        gc.freeze()
        return ""


def _option_strings() -> frozenset[str]:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return frozenset(make_arg_parser(FlexibleArgumentParser())._option_string_actions)


def _register_architectures() -> None:
    from vllm.model_executor.models.registry import ModelRegistry

    for name, module in ARCHITECTURES.items():
        ModelRegistry.register_model(name, getattr(importlib.import_module(module), name))


def serve(main: Any, arguments: list[str]) -> int:
    """Run vLLM's server in this process until it ends; returns the exit code."""
    sys.argv = ["vllm", *arguments]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if threads.isdigit() and int(threads) > 1:
        # libgomp read the variable in the launcher, long before the request named another number.
        import torch

        torch.set_num_threads(int(threads))
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        # vLLM turns a SIGTERM that comes before the server is up into this.
        return 143
    return 0
