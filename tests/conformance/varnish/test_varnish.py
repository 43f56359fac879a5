"""Conversations in the language of varnishtest, whose client and server have their own idea of HTTP.

A script is a case; its first line says which rule it is about. Both of its ends talk through one proxy, on ports that
are kept for all the scripts, one after the other. What one of them leaves behind, the next one must not notice.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pannier.sidecars.resilience import config as resilience
from pannier.sidecars.traffic.config import Config, Headers, Match, Redirect, Rewrite, Route, Text

from tests.proxy.process import Proxy
from tests.proxy.wire import PATIENCE_S

SCRIPTS = sorted(Path(__file__).parent.glob("*/*.vtc"))
#: What a script may listen on: the app's port, the cluster `up`, and `spare`. On `dead` nobody ever does.
PORTS = ("app", "up", "spare", "dead")
EDITS = Headers(remove=["X-Remove"], set={"X-Set": "ours"}, add={"X-Add": "ours"})
ROUTES = [
    Route(name="moved", matches=[Match(prefix="/moved")], redirect=Redirect(status=301, prefix="/here")),
    Route(name="old", matches=[Match(prefix="/old")], rewrite=Rewrite(prefix="/new")),
    Route(name="edit", matches=[Match(prefix="/edit")], request=EDITS, response=EDITS),
    Route(name="spare", matches=[Match(headers={"X-To": Text(exact="spare")})], to={"spare": 1}),
]


@dataclass(frozen=True)
class Stage:
    """A proxy, and what the scripts call the places around it."""

    proxy: Proxy
    macros: dict[str, str]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The proxy and its ports, to end with the module."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pannier-"))
        proxy = stack.enter_context(closing(Proxy(Path(folder))))
        place = {name: stack.enter_context(closing(_kept_port())).getsockname() for name in PORTS}
        at = {name: {"address": f"127.0.0.1:{port}"} for name, (_, port) in place.items()}
        clusters = [
            *({"name": name, "endpoints": [at[name]]} for name in ("up", "spare", "dead")),
            {"name": "half", "endpoints": [at["dead"], at["up"]]},
            {"name": "empty", "endpoints": []},
        ]
        proxy.publish_base(app=at["app"]["address"], clusters=clusters)
        proxy.publish_routes(Config(routes=ROUTES))
        patient = resilience.Service(failure_policy="none")
        proxy.publish_limits(resilience.Config(services=dict.fromkeys(("up", "half", "dead"), patient)))
        proxy.start()
        listening = {"inbound": proxy.inbound, "outbound": proxy.outbound}
        yield Stage(proxy, {name: f"{host}:{port}" for name, (host, port) in (place | listening).items()})


def _kept_port() -> socket.socket:
    """A port that is bound and not listened on: only who asks for exactly this one may have it too."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def test_every_script_says_its_rule_and_is_called_by_its_name() -> None:
    assert len(SCRIPTS) >= 60
    for script in SCRIPTS:
        rule, called, *_ = script.read_text().splitlines()
        assert rule.startswith("# RFC "), script
        assert called == f'vtest "{script.stem.replace("-", " ")}"', script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_the_conversation_goes_as_the_rule_says(stage: Stage, script: Path, require_peer: Callable[[str], str]) -> None:
    macros = [f"-D{name}={value}" for name, value in stage.macros.items()]
    command = [require_peer("varnishtest"), *macros, "-t", str(int(PATIENCE_S)), str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + stage.proxy.stderr()
