"""A server that does not give log-probabilities: the real one, with what it says of them taken out of its answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

WITHOUT = frozenset({"logprobs", "prompt_logprobs"})


def without_logprobs(told: Any) -> Any:
    """What a server said, with every log-probability null."""
    if isinstance(told, dict):
        return {key: None if key in WITHOUT else without_logprobs(value) for key, value in told.items()}
    return [without_logprobs(one) for one in told] if isinstance(told, list) else told


@contextmanager
def mute(upstream: str) -> Iterator[str]:
    """The address of a server that answers as ``upstream`` does, but for log-probabilities."""
    with httpx.Client(base_url=upstream, timeout=120, trust_env=False) as client:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._pass_on(client.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self._pass_on(client.post(self.path, content=body, headers={"content-type": "application/json"}))

            def _pass_on(self, reply: httpx.Response) -> None:
                is_json = reply.headers.get("content-type", "").startswith("application/json")
                body = json.dumps(without_logprobs(reply.json())).encode() if is_json else reply.content
                self.send_response(reply.status_code)
                self.send_header("content-type", reply.headers.get("content-type", "text/plain"))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
