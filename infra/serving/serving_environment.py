"""The environment that every instance runs in: offline, silent, small on a CPU, and free of credentials.

The launcher puts itself into this environment with one execve before it imports anything, so that libraries which read
it at import (libgomp, huggingface_hub) see it, and so that /proc/<pid>/environ of every forked instance shows it.
"""

from __future__ import annotations

from collections.abc import Mapping

FORCED = {
    # Models are folders on this host. Nothing is fetched while serving, and nothing is told to anybody.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # A token file in the home directory must not be read either.
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    # vLLM loads every plugin that is installed beside it, LoRA resolvers that download on request included. None.
    "VLLM_PLUGINS": "",
    # tokenizers' thread pool does not live through the forks of EngineCore and Worker.
    "TOKENIZERS_PARALLELISM": "false",
    # vLLM renames its processes; without this, setproctitle writes over /proc/<pid>/environ, and with it goes the
    # EMPELT_INSTANCE by which leftovers are found.
    "SPT_NOENV": "1",
}
DEFAULTS = {
    # GiB of KV cache. Without an explicit size vLLM wants 92 % of the memory for each instance, and a second one
    # beside it is refused. Left out when the flags say --kv-cache-memory-bytes, which this variable would override.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The default binds the threads of every instance to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # One thread: several instances share few cores, and a process with a thread pool must not be forked.
    "OMP_NUM_THREADS": "1",
    # vLLM's own switch for CI: no warm-up and no inductor, which cost a compiler and minutes on two cores.
    "VLLM_CPU_CI_ENV": "1",
    # A chat template comes with the model, and one that loops holds a thread for this long (vLLM's default: 30).
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT": "5",
}
CREDENTIALS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_API_KEY", "HF_TOKEN_PATH")
DANGEROUS = (
    "VLLM_SERVER_DEV_MODE",  # mounts /collective_rpc: any method of the worker, over HTTP
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",  # pickles between processes
    "VLLM_USE_MODELSCOPE",
    "VLLM_API_KEY",  # the gateway keeps the keys
)
# Where it is set, the 5800 modules are compiled anew at each start: 24 s of CPU time for the imports instead of 11 s.
SLOW = ("PYTHONDONTWRITEBYTECODE",)
# What a start request may set. LD_PRELOAD, PYTHONPATH and the like would be another program.
REQUESTABLE = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_ENGINE_READY_TIMEOUT_S",
    "VLLM_LOGGING_LEVEL",
)
REQUESTABLE_PREFIX = "EMPELT_"


def serving_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The given environment without credentials and dangerous or slow switches, with ours added."""
    kept = {name: value for name, value in environ.items() if name not in (*CREDENTIALS, *DANGEROUS, *SLOW)}
    return DEFAULTS | kept | FORCED


def instance_environment(environ: Mapping[str, str], request: Mapping[str, str], flags: list[str]) -> dict[str, str]:
    """The environment of one instance: the launcher's, the request's, and one KV cache size, not two."""
    wanted = dict(environ) | dict(request)
    sized_by_flag = any(flag.split("=")[0].replace("_", "-") == "--kv-cache-memory-bytes" for flag in flags)
    if sized_by_flag and "VLLM_CPU_KVCACHE_SPACE" not in request:
        wanted.pop("VLLM_CPU_KVCACHE_SPACE", None)
    return wanted
