"""vLLM's parser, as far as the launcher asks for it."""

from argparse import ArgumentParser as FlexibleArgumentParser

__all__ = ["FlexibleArgumentParser"]
