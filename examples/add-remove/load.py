"""The load: a few callers, each on one connection that it never opens anew, and each answer is compared.

A request has failed if its answer did not come within 2 s or is not the one to that very request. A connection that
breaks ends its caller, and the run: to hide a broken connection behind a new one would be to look away.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Self

TOO_LATE_S = 2.0
PAUSE_S = 0.01


@dataclass
class Load:
    """Asks `callers` times in parallel for each of the `targets` (port, host), until the block is left."""

    targets: list[tuple[int, str]]
    callers: int = 2
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._lock = threading.Lock()
        each = itertools.product(self.targets, range(self.callers))
        self._threads = [threading.Thread(target=self._call, args=(*target, one)) for target, one in each]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_answers(self, more: int) -> None:
        """Waits until so many more answers have come, or one has failed."""
        enough = self.answered + more
        while self.answered < enough and not self.failures:
            time.sleep(PAUSE_S)

    def _call(self, port: int, host: str, caller: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TOO_LATE_S)
        try:
            for number in itertools.count():
                if self._over.wait(PAUSE_S):
                    return
                path = f"/{host}/{caller}/{number}"
                connection.request("GET", path, headers={"Host": host})
                answer = connection.getresponse()
                body = answer.read().decode()
                with self._lock:
                    if (answer.status, body) == (200, path):
                        self.answered += 1
                    else:
                        self.failures.append(f"{path}: {answer.status} {body[:80]}")
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.failures.append(f"{host}, caller {caller}: {error!r}")
        finally:
            connection.close()
