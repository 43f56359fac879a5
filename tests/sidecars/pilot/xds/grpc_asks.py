"""Asks by gRPC's own client of xDS, for a test: a JSON list of calls is a line of standard input, one of answers a line
of its output. It follows the pilot until its input ends.

A call is `{"target", "path", "metadata", "times"}`; its answer is how often who has answered, or which status came.
Run as a program, with GRPC_XDS_BOOTSTRAP in the environment.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import grpc

PATIENCE_S = 20.0


def main() -> None:
    """Every call is made on the channel of its target, which is kept until the end."""
    channels: dict[str, grpc.Channel] = {}
    answers = []
    for call in json.loads(sys.stdin.readline()):
        channel = channels.setdefault(call["target"], grpc.insecure_channel(call["target"]))
        ask = channel.unary_unary(call["path"])
        seen: Counter[str] = Counter()
        for _ in range(call.get("times", 1)):
            try:
                metadata = [(key, value) for key, value in call.get("metadata", {}).items()]
                seen[ask(b"", timeout=PATIENCE_S, metadata=metadata, wait_for_ready=True).decode()] += 1
            except grpc.RpcError as error:
                seen[error.code().name] += 1
        answers.append(seen)
    print(json.dumps(answers), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
