"""Starts a real gateway, supervisor and worker, by the set-up in a file: python start_gateway.py SETUP.json

SIGHUP reads the file again.
"""

import logging
import sys
from pathlib import Path

from tasks.endpoints.gateway_config import GatewayConfig
from tasks.endpoints.supervisor import run_gateway


def load() -> GatewayConfig:
    given = Path(sys.argv[1])
    return GatewayConfig.model_validate_json(given.read_text())


logging.basicConfig(level=logging.INFO)
run_gateway(load)
