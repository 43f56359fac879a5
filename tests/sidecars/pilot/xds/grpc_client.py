"""A client of gRPC's own, which finds a service by xDS. Run as a program: `grpc_client.py TARGET RATE CONCURRENCY`,
with GRPC_XDS_BOOTSTRAP in the environment. It calls so many times a second until its standard input ends; each line of
its output is a call, as JSON: when it began and ended (epoch seconds), who answered, or which status."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

ECHO = "/test.Echo/Who"
PATIENCE_S = 10.0


def main(target: str, rate: float, concurrency: int) -> None:
    """Calls until standard input ends."""
    over, one_at_a_time = threading.Event(), threading.Lock()

    def end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=end, daemon=True).start()
    with grpc.insecure_channel(target) as channel, ThreadPoolExecutor(concurrency) as pool:
        who = channel.unary_unary(ECHO)

        def call() -> None:
            begun = time.time()
            said = {"answer": "", "status": "OK", "details": ""}
            try:
                said["answer"] = who(b"", timeout=PATIENCE_S, wait_for_ready=False).decode()
            except grpc.RpcError as error:
                said["status"], said["details"] = error.code().name, error.details() or ""
            line = json.dumps({"begun": begun, "ended": time.time(), **said}) + "\n"
            with one_at_a_time:
                sys.stdout.write(line)
                sys.stdout.flush()

        due = time.monotonic()
        while not over.is_set():
            pool.submit(call)
            due += 1 / rate
            over.wait(max(due - time.monotonic(), 0))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
