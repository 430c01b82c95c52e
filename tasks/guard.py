"""Ends a child process in time, from a thread of its own: Prefect's time-outs cannot interrupt C or CUDA code."""

import subprocess
import threading
import time

from tasks.processes import end_marked


class Guard:
    """Watches one child from a thread of its own, and ends it with everything below it."""

    def __init__(
        self,
        process: "subprocess.Popen[str]",
        mark: str,
        deadline_seconds: float,
        silence_seconds: float | None,
        grace_seconds: float,
    ) -> None:
        self.why = ""
        """What it was ended for, as the end of a sentence; "" if it was not."""
        self._process, self._mark, self._grace_seconds = process, mark, grace_seconds
        self._deadline_seconds, self._silence_seconds = deadline_seconds, silence_seconds
        self._began = self._heard = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"guard {process.pid}", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """It said something."""
        self._heard = time.monotonic()

    def end(self) -> None:
        """Nothing of the child is left when this returns."""
        self._over.set()
        self._thread.join()
        if self._process.poll() is None:
            self._end()
        end_marked(self._mark, self._grace_seconds)

    def _watch(self) -> None:
        while not self._over.wait(self._next()):
            now = time.monotonic()
            if now - self._began >= self._deadline_seconds:
                self.why = f"did not end within {self._deadline_seconds:.0f} s"
            elif self._silence_seconds is not None and now - self._heard >= self._silence_seconds:
                self.why = f"said nothing for {self._silence_seconds:.0f} s"
            else:
                continue
            self._end()
            end_marked(self._mark, self._grace_seconds)  # whatever holds its end of the pipe open
            return

    def _next(self) -> float:
        until = [self._began + self._deadline_seconds]
        if self._silence_seconds is not None:
            until.append(self._heard + self._silence_seconds)
        return max(0.05, min(until) - time.monotonic())

    def _end(self) -> None:
        """SIGTERM, then SIGKILL: a child that is deep in C code hears only the second."""
        self._process.terminate()
        try:
            self._process.wait(self._grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
