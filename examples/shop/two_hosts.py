"""The shop on two hosts that know one another through two pilots on an etcd of three: `two_hosts.py [--for 30s]`.

While the load goes on, `kill -9` takes a pilot and a member of etcd; the pilot comes back. Not one request may fail for
that. Run as root: the hosts are network namespaces.

    one    shop, catalog             pilot   etcd
    two    orders, payments, httpbin pilot   etcd
    three                                    etcd

Exit code: 0; 1 if a failure is unexplained; 75 if it did not become ready.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import client
import hosts
import ledger
import load
import mix
import tomlkit
import trio
from hosts import Host
from mesh import BIN, HERE
from pannier.shared.duration import seconds

FOLDER = HERE.parents[1] / "build" / "run" / "hosts"
PILOT_PORT = 18800
PLACES = {"one": ("shop", "catalog"), "two": ("orders", "payments", "httpbin"), "three": ()}
READY_SECONDS = 90.0


def main() -> int:
    parser = argparse.ArgumentParser(description="The shop on two hosts; a pilot and a member of etcd are killed.")
    parser.add_argument("--for", dest="seconds", type=seconds, default=30.0, metavar="30s", help="how long to send")
    parser.add_argument("--rate", type=float, default=load.RATE / 3, help="requests a second (default: %(default)g)")
    given = parser.parse_args()
    try:
        hosts.enter()
    except PermissionError as error:
        parser.error(f"{error}: run it with sudo")
    return trio.run(run, given.seconds, given.rate)


async def run(length: float, rate: float) -> int:
    for folder in (FOLDER, ledger.FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    notes = load.Notes()
    async with AsyncExitStack() as stack:
        one, two, three = made = hosts.make_hosts(tuple(PLACES), FOLDER)
        say("three hosts; an etcd of three members, two pilots, five services: starting")
        with trio.move_on_after(READY_SECONDS) as waiting:
            members = [await stack.enter_async_context(etcd(host, made)) for host in made]
            token = secrets.token_urlsafe(32)
            pilots = [await stack.enter_async_context(pilot(host, made, token)) for host in (one, two)]
            for host in (one, two):
                await stack.enter_async_context(services(host, [one, two], token))
            await known(two, 5)
            await answers(one)
        if waiting.cancelled_caught:
            say(f"not ready after {READY_SECONDS:g} s; what they say is in {FOLDER}")
            return 75
        say(f"ready; {rate:g} requests a second for {length:g} s, from outside")
        async with trio.open_nursery() as nursery:
            until = trio.CancelScope(deadline=trio.current_time() + length)
            nursery.start_soon(send, one, two, notes, until, rate)
            await trio.sleep(length / 4)
            pilots[0].send_signal(signal.SIGKILL)
            say(f"kill -9: the pilot of {one.name} (pid {pilots[0].pid})")
            await trio.sleep(length / 4)
            members[2].send_signal(signal.SIGKILL)
            say(f"kill -9: the etcd of {three.name} (pid {members[2].pid})")
            await trio.sleep(length / 4)
            await stack.enter_async_context(pilot(one, made, token))
            say(f"the pilot of {one.name} is back")
        await known(one, 5)
        say("both pilots know all five; stopping")
    origins = {name: ledger.read(name) for placed in PLACES.values() for name in placed}
    verdict = ledger.judge(notes.failures, notes.placed, origins)
    say(
        f"{len(notes.latencies)} requests, {len(verdict.failed)} failed, {len(verdict.injected)} injected, "
        f"{len(verdict.unexplained)} unexplained"
    )
    for number, failure in sorted(verdict.unexplained.items())[:10]:
        say(f"  request {number}: {failure.reason}")
    return 1 if verdict.unexplained else 0


@asynccontextmanager
async def etcd(host: Host, members: Sequence[Host]) -> AsyncIterator[trio.Process]:
    """A member of the etcd."""
    words = ["etcd", "--name", host.name, "--data-dir", str(host.folder / "etcd"), "--logger", "zap"]
    for what, port in (("client", 2379), ("peer", 2380)):
        words += [f"--listen-{what}-urls", f"http://{host.address}:{port}"]
    words += ["--advertise-client-urls", f"http://{host.address}:2379"]
    words += ["--initial-advertise-peer-urls", f"http://{host.address}:2380"]
    words += ["--initial-cluster", ",".join(f"{one.name}=http://{one.address}:2380" for one in members)]
    async with host.running(words, log="etcd.log") as process:
        yield process


@asynccontextmanager
async def pilot(host: Host, members: Sequence[Host], token: str) -> AsyncIterator[trio.Process]:
    """A pilot that is ready. Equal pilots have one token."""
    secret = host.folder / "state" / "pilot" / "token"
    secret.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret.touch(mode=0o600)
    secret.write_text(token)
    store = "etcd://" + ",".join(f"{one.address}:2379" for one in members)
    words = [str(BIN / "pannier"), "pilot", "--store", store, "--listen", f"{host.address}:{PILOT_PORT}"]
    async with host.running(words, log="pilot.log") as process:
        await known(host, 0)
        yield process


@asynccontextmanager
async def services(host: Host, pilots: Sequence[Host], token: str) -> AsyncIterator[None]:
    """The services of a host, each with its sidecars: what the shop's project file says of them, and where the pilots
    are. A file of its own for each host, since a project knows all its apps as endpoints on its own host."""
    secret = host.folder / "token"
    secret.touch(mode=0o600)
    secret.write_text(token)
    where = {
        "addresses": [f"{one.address}:{PILOT_PORT}" for one in pilots],
        "token_file": str(secret),
        "advertise": host.address,
    }
    project = shop()
    project["apps"] = {name: project["apps"][name] for name in PLACES[host.name]}
    for one in project["apps"].values():
        one["sidecars"]["discovery"] = {"pilot": where}
        one["env"] = {**one.get("env", {}), "PYTHONPATH": str(HERE)}
    file = host.folder / "pannier.toml"
    file.write_text(tomlkit.dumps(project))
    found = {"SHOP_LEDGERS": str(ledger.FOLDER), "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"}
    async with host.running([str(BIN / "pannier"), "run", "-f", str(file)], log="services.log", environment=found):
        yield


def shop() -> dict[str, Any]:
    """The project file of the shop."""
    return tomllib.loads((HERE / "pannier.toml").read_text())


async def known(host: Host, count: int) -> None:
    """Returns once the pilot of that host answers, and knows so many services."""
    while True:
        with suppress(client.Broken):
            async with client.open_pool(host.address, PILOT_PORT) as pool:
                answer = await pool.exchange(client.Request("GET", "/v1/services"))
                if len(json.loads(answer.body)["services"]) >= count:
                    return
        await trio.sleep(0.2)


async def answers(host: Host) -> None:
    """Returns once an order has been placed, from the shop to the payments of the other host."""
    apps = shop()["apps"]
    order = client.Request(
        "POST", "/orders", (("Content-Type", "application/json"),), b'{"item": "mug", "quantity": 1}'
    )
    async with client.open_pool(host.address, apps["shop"]["port"]) as pool:
        while True:
            with suppress(client.Broken):
                if (await pool.exchange(order)).status == 201:
                    return
            await trio.sleep(0.2)


async def send(one: Host, two: Host, notes: load.Notes, until: trio.CancelScope, rate: float) -> None:
    """The load, from outside: the shop is asked on one host, httpbin on the other."""
    apps = shop()["apps"]
    async with AsyncExitStack() as stack:
        pools = {
            service: await stack.enter_async_context(client.open_pool(host.address, apps[service]["port"]))
            for host in (one, two)
            for service in PLACES[host.name]
            if service in mix.SERVICES
        }

        async def exchange(ask: mix.Ask) -> client.Response:
            return await pools[ask.service].exchange(ask.request)

        await load.drive(exchange, notes, until=until, rate=rate)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
