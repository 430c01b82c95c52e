"""Stands for the launcher in vLLM's environment: the same JSON lines, but its instances are fake_vllm.py.

python fake_launcher.py --socket PATH --logs FOLDER
"""

import argparse
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--socket", required=True)
parser.add_argument("--logs", required=True)
options = parser.parse_args()
instances: dict[str, dict] = {}
lock = threading.Lock()


def start(asked):
    old = instances.get(asked["name"])
    if old and old["process"].poll() is None:
        return {"ok": False, "error": f"name {asked['name']} was refused: it runs"}
    log = Path(options.logs) / f"{asked['name']}.log"
    script = Path(__file__).with_name("fake_vllm.py")
    command = [sys.executable, str(script), "--uds", asked["uds"], "--model", asked["model"]]
    command += ["--adapters", json.dumps(asked.get("adapters", []))]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    entry = {"name": asked["name"], "process": process, "model": asked["model"], "uds": asked["uds"], "log": str(log)}
    entry |= {
        "served_names": asked["served_names"],
        "flags": asked["flags"],
        "adapters": asked.get("adapters", []),
        "start_time": time.time(),
    }
    instances[asked["name"]] = entry
    return {"ok": True, "name": asked["name"], "pid": process.pid, "start_time": entry["start_time"], "log": str(log)}


def stop(asked):
    entry = instances.get(asked["name"])
    if entry is None:
        return {"ok": False, "error": f"no instance {asked['name']}"}
    entry["process"].terminate()
    try:
        entry["process"].wait(asked["grace_seconds"])
    except subprocess.TimeoutExpired:
        entry["process"].kill()
        entry["process"].wait()
    return {"ok": True}


def listing(asked):
    told = []
    for entry in instances.values():
        code = entry["process"].poll()
        seen = {key: value for key, value in entry.items() if key != "process"}
        told.append({**seen, "pid": entry["process"].pid, "alive": code is None, "exit_code": code})
    return {"ok": True, "instances": told}


def ping(asked):
    return {"ok": True, "mode": "fork", "why": "", "pid": os.getpid(), "vllm": "0.32.0", "device": "cpu"}


OPERATIONS = {"start": start, "stop": stop, "list": listing, "ping": ping}


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            asked = json.loads(line)
            self.wfile.write(json.dumps(OPERATIONS[asked["op"]](asked)).encode() + b"\n")


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def end(*_):
    for entry in instances.values():
        entry["process"].kill()
    os._exit(0)


signal.signal(signal.SIGTERM, end)
Path(options.socket).unlink(missing_ok=True)
Server(options.socket, Handler).serve_forever()
