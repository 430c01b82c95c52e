"""The flags that an instance may be started with."""

from argparse import ArgumentParser


def make_arg_parser(parser: ArgumentParser) -> ArgumentParser:
    """Those that the product uses."""
    for name in ("--model", "--host", "--port", "--uds", "--dtype", "--max-model-len", "--max-num-seqs"):
        parser.add_argument(name)
    for name in ("--kv-cache-memory-bytes", "--generation-config", "--shutdown-timeout", "--load-format"):
        parser.add_argument(name)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--enforce-eager", action="store_true")
    return parser
