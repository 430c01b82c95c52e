"""Stands for what a cluster does with a Deployment: makes its pod, runs its containers, says how they are.

The init container is run for real. For vLLM a ``fake_vllm.py`` is started, after our own entry point of the serving
image has read the pod's arguments; the Service's address is a port on loopback that leads to it.
"""

import copy
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "infra" / "serving"))
from pod import read_request  # noqa: E402

from tests.endpoints.cluster.fake_api import FOREGROUND, FakeApi, now  # noqa: E402

BACK_OFF_SECONDS = 0.3


class Forward(socketserver.ThreadingTCPServer):
    """A Service's address: passes bytes on to the socket of the pod behind it."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, address: str, port: int, uds: Path) -> None:
        class Pass(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as there:
                    try:
                        there.connect(str(uds))
                    except OSError:
                        return
                    back = threading.Thread(target=pump, args=(there, self.request), daemon=True)
                    back.start()
                    pump(self.request, there)
                    back.join()

        super().__init__((address, port), Pass)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


class FakeNodes:
    def __init__(self, api: FakeApi, folder: Path) -> None:
        self.api, self.folder = api, folder
        self.missing_images: set[str] = set()
        self.is_full = False
        self.slots: int | None = None
        """So many pods have room."""
        self.seated: set[str] = set()
        self.quota = ""
        self.slow: set[str] = set()
        """Digests whose server loads for ever."""
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.forwards: dict[str, Forward] = {}
        self.again: dict[str, float] = {}
        self.checked: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        for process in self.running.values():
            process.kill()
            process.wait(10)
        for forward in self.forwards.values():
            forward.shutdown()
            forward.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def evict(self, instance: str) -> None:
        """As a node that is drained does it: the pod is to end, another one is made when it has."""
        with self.api.lock:
            for (plural, _), pod in self.api.objects.items():
                if plural == "pods" and pod["metadata"]["labels"]["empelt.dev/instance"] == instance:
                    pod["metadata"]["deletionTimestamp"] = now()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with self.api.lock:
                deployments = [(n, d) for (k, n), d in list(self.api.objects.items()) if k == "deployments"]
                pods = [(n, p) for (k, n), p in list(self.api.objects.items()) if k == "pods"]
            for name, pod in pods:
                owner = self.api.objects.get(("deployments", pod["metadata"]["labels"]["empelt.dev/instance"]))
                if owner is None or owner["metadata"].get("deletionTimestamp"):
                    pod["metadata"].setdefault("deletionTimestamp", now())
                self._end(name, pod) if pod["metadata"].get("deletionTimestamp") else self._advance(name, pod)
            for name, deployment in deployments:
                self._control(name, deployment)

    def _control(self, name: str, deployment: dict[str, Any]) -> None:
        """The Deployment's controller."""
        with self.api.lock:
            pods = [
                p
                for (k, _), p in self.api.objects.items()
                if k == "pods" and p["metadata"]["labels"]["empelt.dev/instance"] == name
            ]
            if deployment["metadata"].get("deletionTimestamp"):
                if not pods:
                    self.api.release("deployments", name, FOREGROUND)
                return
            conditions = []
            if self.quota and not pods:
                conditions = [
                    {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.quota}
                ]
            elif not pods and deployment["spec"]["replicas"]:
                self.api.version += 1
                pod_name = f"{name}-{self.api.version}"
                template = copy.deepcopy(deployment["spec"]["template"])
                pod = {"apiVersion": "v1", "kind": "Pod", **template, "status": {"phase": "Pending"}}
                pod["metadata"] |= {"name": pod_name, "uid": pod_name, "creationTimestamp": now()}
                self.api.store("pods", pod_name, pod)
            deployment["status"] = {
                "observedGeneration": deployment["metadata"]["generation"],
                "conditions": conditions,
            }

    def _end(self, name: str, pod: dict[str, Any]) -> None:
        process = self.running.get(name)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            return
        with self.api.lock:
            self.api.objects.pop(("pods", name), None)
            self.seated.discard(name)

    def _advance(self, name: str, pod: dict[str, Any]) -> None:
        """The scheduler and the kubelet."""
        spec, status = pod["spec"], pod["status"]
        if self.slots is not None and name not in self.seated and len(self.seated) < self.slots:
            self.seated.add(name)
            status.pop("conditions", None)
        if self.is_full or (self.slots is not None and name not in self.seated):
            told = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            status["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": told}
            ]
            return
        check, server = spec["initContainers"][0], spec["containers"][0]
        for key, container in (("initContainerStatuses", check), ("containerStatuses", server)):
            if container["image"] in self.missing_images:
                told = f'Back-off pulling image "{container["image"]}": manifest unknown'
                status[key] = [
                    {
                        "name": container["name"],
                        "restartCount": 0,
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": told}},
                    }
                ]
                return
        if time.monotonic() < self.again.get(name, 0.0):
            return
        if name not in self.checked:
            done = subprocess.run(
                [sys.executable, *check["args"][1:]],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            ended = {"exitCode": done.returncode, "message": (done.stdout + done.stderr)[-2048:]}
            one = {"name": check["name"], "state": {"terminated": ended}}
            if done.returncode:
                one = {
                    "name": check["name"],
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": ended},
                }
                self.again[name] = time.monotonic() + BACK_OFF_SECONDS
            else:
                self.checked.add(name)
            with self.api.lock:
                status["initContainerStatuses"] = [one]
            return
        self._serve(name, pod, server)

    def _serve(self, name: str, pod: dict[str, Any], server: dict[str, Any]) -> None:
        status, digest = pod["status"], pod["metadata"]["annotations"]["empelt.dev/digest"]
        uds = self.folder / f"{name[-24:]}.{os.getpid()}.sock"
        process = self.running.get(name)
        one = (status.get("containerStatuses") or [{"name": server["name"], "restartCount": 0}])[0]
        log = self.folder / f"{name[-24:]}.log"
        if process is None or process.poll() is not None:
            if process is not None and "running" in one.get("state", {}):
                ended = {"exitCode": process.returncode, "message": log.read_text()[-2048:]}
                one |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
                status["conditions"] = []
                self.again[name] = time.monotonic() + BACK_OFF_SECONDS
                return
            _, wrong = read_request(server["args"])
            # A pod has its ports to itself, this machine has not.
            assert not [one for one in wrong if not one.startswith("port ")], wrong
            model = server["args"][server["args"].index("--model") + 1]
            uds.unlink(missing_ok=True)
            with log.open("wb") as out:
                command = [sys.executable, ROOT / "tests/endpoints/fake_vllm.py", "--uds", uds, "--model", model]
                slow = ["--seconds-to-load", "3600"] if digest in self.slow else []
                self.running[name] = subprocess.Popen([*command, *slow], stdout=out, stderr=out)
            restarts = one["restartCount"] + (process is not None)
            status |= {
                "phase": "Running",
                "containerStatuses": [{**one, "state": {"running": {"startedAt": now()}}, "restartCount": restarts}],
            }
            return
        if self._answers(uds) and not status.get("conditions"):
            instance = pod["metadata"]["labels"]["empelt.dev/instance"]
            self._forward(instance, uds, server["ports"][0]["containerPort"])
            status["conditions"] = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]

    def _answers(self, uds: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(uds))
                probe.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                return b" 200 " in probe.recv(64)
            except OSError:
                return False

    def _forward(self, instance: str, uds: Path, port: int) -> None:
        if old := self.forwards.pop(instance, None):
            old.shutdown()
            old.server_close()
        service = self.api.objects.get(("services", instance))
        if service is not None:
            self.forwards[instance] = Forward(service["spec"]["clusterIP"], port, uds)
