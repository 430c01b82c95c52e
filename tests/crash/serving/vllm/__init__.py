"""Stands for vLLM under the real launcher: a small HTTP server that scores prompts by their tokens alone."""

__version__ = "0.32.0"
