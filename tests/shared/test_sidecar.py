"""The shell in a process of its own, as the keeper would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from pannier.shared import framing
from pannier.shared.errors import PannierError, Unreachable
from pannier.shared.messages import CONFIGURE, Configure, Configured, Happening

PROGRAM = """
import msgspec, os, sys, trio
from pannier.shared.errors import PannierError
from pannier.shared.messages import Happening, Nothing
from pannier.shared.sidecar import main

class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    greeting: str = "hello"
    ending: str = "never"

class Seen(msgspec.Struct, frozen=True):
    name: str
    service: str
    directory: str
    greeting: str
    fds: dict[str, int]
    token: bool

async def service(context):
    async def seen(_):
        return Seen(context.name, context.service, str(context.directory), context.config.greeting,
                    dict(context.fds), "PANNIER_TOKEN" in os.environ)
    async def take(config):
        if config.greeting == "rude":
            raise PannierError("nobody says that", hint="be kind")

    context.bus.serve("seen", Nothing, seen)
    if context.config.ending != "restart":
        context.on_config(take)
    await context.bus.ready()
    match context.config.ending:
        case "return": return
        case "refuse": raise PannierError("the port is taken", hint="use another", exit_code=65)
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await context.bus.publish("events", Happening("tap", "left", "orderly", "info", 0))

main("tap", Config, service)
"""


class Config(msgspec.Struct, frozen=True):
    greeting: str = "hello"
    ending: str = "never"


class Seen(msgspec.Struct, frozen=True):
    name: str
    service: str
    directory: str
    greeting: str
    fds: dict[str, int]
    token: bool


def configured(greeting: str, *, dry_run: bool = False) -> Configure:
    return Configure(framing.encode(Config(greeting)), dry_run)


@asynccontextmanager
async def sidecar(
    broker, config: msgspec.Struct | None = None, token: str | None = None, **environment: str
) -> AsyncIterator[trio.Process]:
    if token is None:
        token = broker.grants.issue("tap", config=framing.encode(config) if config else b"")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PANNIER_BUS": str(broker.path), "PANNIER_TOKEN": token, **environment},
        stderr=subprocess.PIPE,
    )
    async with process.stderr:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def ending(process: trio.Process) -> tuple[int, str]:
    with trio.fail_after(10):
        text = b"".join([chunk async for chunk in process.stderr])
        return await process.wait(), text.decode()


async def test_a_service_gets_its_context(broker):
    async with sidecar(broker, Config(greeting="moin"), PANNIER_FDS="metrics.0=9"), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        seen = await cli.request("tap", "seen", None, Seen)
    assert seen == Seen("tap", "orders", str(broker.path.parent), "moin", {"metrics.0": 9}, token=False)


async def test_without_configuration_the_defaults_hold(broker):
    async with sidecar(broker), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        assert (await cli.request("tap", "seen", None, Seen)).greeting == "hello"


async def test_a_new_configuration_is_taken_by_the_service_that_runs(broker):
    async with sidecar(broker, Config("moin")), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        assert await broker.broker.request("tap", CONFIGURE, configured("hej", dry_run=True), Configured) == Configured(
            live=True
        )
        assert (await cli.request("tap", "seen", None, Seen)).greeting == "moin"
        assert await broker.broker.request("tap", CONFIGURE, configured("hej"), Configured) == Configured(live=True)
        assert (await cli.request("tap", "seen", None, Seen)).greeting == "hej"


async def test_a_configuration_that_comes_again_is_taken_again(broker):
    async with sidecar(broker, Config("moin")), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        for greeting in ("a", "b", "moin", "c", "d", "e", "f", "a", "moin", "f", "f"):
            await broker.broker.request("tap", CONFIGURE, configured(greeting), Configured)
            assert (await cli.request("tap", "seen", None, Seen)).greeting == greeting


@pytest.mark.parametrize(
    ("configure", "text"),
    [
        (configured("rude"), "nobody says that"),
        (Configure(framing.encode(Happening("a", "b", "c", "d", 0))), "unknown field"),
        (Configure(b"\xc1"), "not allowed"),
    ],
)
async def test_a_configuration_that_is_refused_changes_nothing(broker, configure, text):
    async with sidecar(broker, Config("moin")), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        with pytest.raises(PannierError, match=text):
            await broker.broker.request("tap", CONFIGURE, configure, Configured)
        assert (await cli.request("tap", "seen", None, Seen)).greeting == "moin"


async def test_a_service_that_takes_none_says_so_and_goes_on(broker):
    async with sidecar(broker, Config("moin", ending="restart")), broker.join() as cli:
        await broker.wait_seen("ready", "tap")
        assert await broker.broker.request("tap", CONFIGURE, configured("hej"), Configured) == Configured(live=False)
        assert (await cli.request("tap", "seen", None, Seen)).greeting == "moin"


async def test_sigterm_ends_it_in_order_and_sigint_does_not(broker):
    async with broker.join() as cli, cli.subscribe("events", Happening) as happenings, sidecar(broker) as process:
        await broker.wait_seen("ready", "tap")
        process.send_signal(signal.SIGINT)
        await cli.request("tap", "seen", None, Seen)
        process.send_signal(signal.SIGTERM)
        assert await ending(process) == (0, "")
        with trio.fail_after(5):
            assert (await anext(happenings)).kind == "left"


async def test_a_service_that_returns(broker):
    async with sidecar(broker, Config(ending="return")) as process:
        assert await ending(process) == (0, "")


async def test_a_service_that_refuses(broker):
    async with sidecar(broker, Config(ending="refuse")) as process:
        assert await ending(process) == (65, "tap: the port is taken\n  hint: use another\n")


async def test_a_configuration_that_is_not_its_own(broker):
    async with sidecar(broker, Happening("a", "b", "c", "d", 0)) as process:
        code, text = await ending(process)
    assert code == 1
    assert "unknown field" in text


async def test_a_token_that_is_not_known(broker):
    async with sidecar(broker, token="00") as process:
        code, text = await ending(process)
    assert code == 1
    assert "token" in text


async def test_it_waits_for_a_supervisor_that_is_late_and_survives_one_that_dies(broker):
    await broker.stop()
    async with sidecar(broker) as process:
        broker.start()
        await broker.wait_seen("ready", "tap")
        await broker.stop()
        broker.start()
        await broker.wait_seen("ready", "tap", times=2)
        assert process.poll() is None
        async with broker.join() as cli:
            assert (await cli.request("tap", "seen", None, Seen)).name == "tap"


async def test_sigterm_while_it_waits_for_a_supervisor(broker):
    await broker.stop()
    async with sidecar(broker) as process:
        handled = f"/proc/{process.pid}/status"

        def catches() -> bool:
            with open(handled) as status:
                mask = next(line for line in status if line.startswith("SigCgt"))
            return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

        await broker.wait_until(catches)
        process.send_signal(signal.SIGTERM)
        assert await ending(process) == (0, "")


async def test_a_newer_process_takes_its_place(broker):
    token = broker.grants.issue("tap")
    async with sidecar(broker, token=token) as older:
        await broker.wait_seen("ready", "tap")
        async with sidecar(broker, token=token):
            code, text = await ending(older)
    assert code == Unreachable.exit_code
    assert "newer" in text


async def test_started_by_hand(broker):
    environment = {name: value for name, value in os.environ.items() if name != "PANNIER_BUS"}
    result = await trio.run_process([sys.executable, "-c", PROGRAM], env=environment, capture_stderr=True, check=False)
    assert result.returncode == 2
    assert b"pannier run" in result.stderr
