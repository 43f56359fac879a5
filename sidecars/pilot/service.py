"""The pilot as a process: a store, the registry over it, and the listeners of its interface.

Rules:
- A Unix socket of mode 0600 is always there, and needs no token: only its owner can open it.
- What is asked over TCP to change something needs the token, which is made at the first start and never has a default.
- What ends the store or a listener ends the pilot, loudly: who runs it starts it again, and no call depends on it.
"""

from __future__ import annotations

import os
import random
import resource
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import trio
from pannier.shared.errors import Blame, PannierError
from pannier.shared.http_server import Limits, serve_http
from pannier.shared.unix import listen_unix
from pannier.sidecars.pilot.documents.documents import Documents
from pannier.sidecars.pilot.documents.policies import Policies
from pannier.sidecars.pilot.grpc.registry import registry_handlers
from pannier.sidecars.pilot.grpc.server import serve_grpc
from pannier.sidecars.pilot.grpc.tally import Tally
from pannier.sidecars.pilot.http.api import Api
from pannier.sidecars.pilot.http.documents_api import DocumentsApi
from pannier.sidecars.pilot.http.status import Account
from pannier.sidecars.pilot.registry.fanout import Fanout
from pannier.sidecars.pilot.registry.peers import Peers
from pannier.sidecars.pilot.registry.registry import Registry
from pannier.sidecars.pilot.stores.etcd import EtcdStore
from pannier.sidecars.pilot.stores.sqlite import open_sqlite
from pannier.sidecars.pilot.stores.store import Store
from pannier.sidecars.pilot.stream.stream import Streams
from pannier.sidecars.pilot.xds.service import Xds

if TYPE_CHECKING:
    from pannier.sidecars.pilot.bridges.opening import Bridge
    from pannier.sidecars.pilot.dns.answer import Zone
    from pannier.sidecars.pilot.dns.server import DnsServer

CONNECTIONS: Final = 4096
"""Of one listener: a watcher holds one."""
DESCRIPTORS: Final = 65_536
"""Asked for at the start, as far as they are granted: by default a process has 1024."""
TOKEN_BYTES: Final = 32


class InZooKeeper(msgspec.Struct, frozen=True):
    """A store below the node `root` of a ZooKeeper with these members, (host, port)."""

    members: Sequence[tuple[str, int]]
    root: str


Kept: TypeAlias = Path | Sequence[tuple[str, int]] | InZooKeeper
"""A SQLite file, the members of an etcd as (host, port), or nodes of a ZooKeeper."""


class Settings(msgspec.Struct, frozen=True):
    """`listen`, `grpc` and `dns` are (host, port) to bind; port 0 is any. `bridges` are URLs (`bridges/opening.py`)."""

    socket: Path
    store: Kept
    token: Path
    listen: Sequence[tuple[str, int]] = ()
    grpc: Sequence[tuple[str, int]] = ()
    dns: Sequence[tuple[str, int]] = ()
    dns_zone: str = "pannier."
    bridges: Sequence[str] = ()

    @property
    def grpc_socket(self) -> Path:
        """Beside `socket`."""
        return self.socket.with_name(f"{self.socket.stem}-grpc{self.socket.suffix}")


async def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `ready` is told once, in a line, where. Raises PannierError for what cannot be
    opened or bound."""
    _ask_for_descriptors()
    token = load_token(settings.token) if settings.listen or settings.grpc else ""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        listeners = await _bind(settings.listen, "--listen")
        grpc_listeners = await _bind(settings.grpc, "--grpc")
        dns_servers = _dns_servers(settings)
        bridges = _bridges(settings.bridges)
        async with _opened(settings.store) as (store, peers), trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_told, signals, nursery.cancel_scope)
            registry = Registry(store, peers=peers)
            if peers is not None:
                nursery.start_soon(peers.follow)
                nursery.start_soon(peers.beat)
                await peers.there.wait()
            await nursery.start(registry.follow)
            nursery.start_soon(registry.tend)
            fanout = Fanout(registry)
            nursery.start_soon(fanout.run)
            documents = Documents(store)
            await nursery.start(documents.follow)
            streams = Streams(registry, fanout, documents)
            policies = Policies(documents)
            xds = Xds(registry, fanout, policies)
            policies.listeners.append(xds.policy_changed)
            account = Account(registry, store=_shown(settings.store), peers=peers)
            account.parts |= {"stream": streams.statistics, "documents": documents.statistics, "xds": xds.status}
            api = partial(Api, registry, streams, account=account, documents=DocumentsApi(documents, policies))
            listen = partial(serve_http, limits=Limits(connections=CONNECTIONS))
            nursery.start_soon(listen, listen_unix(settings.socket), api().handle)
            for listener in listeners:
                nursery.start_soon(listen, listener, api(token=token).handle)
            tally = Tally()
            account.parts["grpc"] = tally.statistics
            over_grpc = partial(serve_grpc, tally=tally)
            handlers = registry_handlers(registry) | xds.handlers()
            nursery.start_soon(over_grpc, listen_unix(settings.grpc_socket), handlers)
            for listener in grpc_listeners:
                nursery.start_soon(over_grpc, listener, registry_handlers(registry, token=token) | xds.handlers())
            for server in dns_servers:
                account.parts[f"dns {server.host}:{server.port}"] = server.statistics
                nursery.start_soon(server.serve, _zone(settings, registry))
            for bridge in bridges:
                account.parts[f"bridge {bridge.name}"] = bridge.statistics
                nursery.start_soon(bridge.run, registry)
            places = [f"unix:{settings.socket}", *(f"http://{_address(listener)}" for listener in listeners)]
            places += [f"grpc://{_address(listener)}" for listener in grpc_listeners]
            places += [f"dns://{server.host}:{server.port}" for server in dns_servers]
            ready(
                f"the pilot is ready: {', '.join(places)}; {len(registry.view)} instances in {_shown(settings.store)}"
            )
    settings.socket.unlink(missing_ok=True)
    settings.grpc_socket.unlink(missing_ok=True)


def _ask_for_descriptors() -> None:
    has, granted = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if granted == resource.RLIM_INFINITY else min(granted, DESCRIPTORS)
    if has != resource.RLIM_INFINITY and has < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, granted))


async def _end_when_told(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


@asynccontextmanager
async def _opened(store: Kept) -> AsyncIterator[tuple[Store, Peers | None]]:
    """The store, and the pilots that share it if several can."""
    if isinstance(store, Path):
        async with open_sqlite(store) as opened:
            yield opened, None
        return
    pilot = f"{socket.gethostname()}-{secrets.token_hex(8)}"
    if isinstance(store, InZooKeeper):
        from pannier.sidecars.pilot.stores.zookeeper import ZooKeeperStore
        from pannier.sidecars.pilot.stores.zookeeper_session import open_session

        async with open_session(store.members) as session:
            zookeeper = ZooKeeperStore(session, root=store.root)
            yield zookeeper, Peers(zookeeper, pilot)
    else:
        etcd = EtcdStore(store)
        yield etcd, Peers(etcd, pilot)


def _shown(store: Kept) -> str:
    if isinstance(store, Path):
        return str(store)
    kind, members = ("ZooKeeper", store.members) if isinstance(store, InZooKeeper) else ("etcd", store)
    return f"{kind} at {', '.join(f'{host}:{port}' for host, port in members)}"


def _dns_servers(settings: Settings) -> Sequence[DnsServer]:
    if not settings.dns:
        return ()
    from pannier.sidecars.pilot.dns.answer import zone_name
    from pannier.sidecars.pilot.dns.server import DnsServer

    zone_name(settings.dns_zone)
    return [DnsServer(host, port) for host, port in settings.dns]


def _zone(settings: Settings, registry: Registry) -> Zone:
    from pannier.sidecars.pilot.dns.answer import Zone, zone_name

    name = zone_name(settings.dns_zone)
    return Zone(registry.instances, lambda: registry.view.revision, sample=random.sample, name=name)


def _bridges(urls: Sequence[str]) -> Sequence[Bridge]:
    if not urls:
        return ()
    from pannier.sidecars.pilot.bridges.opening import Bridge, understood

    return [Bridge(understood(url)) for url in urls]


def load_token(path: Path) -> str:
    """The token in a file that is ours alone, which is made if it is not there. Raises PannierError."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise PannierError(
            f"cannot write a token to {path}: {error.strerror}",
            hint=f"see what it is: ls -l {path}",
            blame=Blame.PLATFORM,
        ) from error
    found = path.stat()
    token = path.read_text().strip()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or len(token) < TOKEN_BYTES:
        raise PannierError(
            f"{path} is no secret: others may read it, or it is shorter than {TOKEN_BYTES} characters",
            hint=f"rm {path}: another one is made at the next start",
            blame=Blame.CONFIG,
        )
    return token


async def _bind(places: Sequence[tuple[str, int]], option: str) -> list[trio.SocketListener]:
    found: list[trio.SocketListener] = []
    for host, port in places:
        try:
            found += await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise PannierError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint=f"choose another address with {option}",
                blame=Blame.USAGE,
            ) from error
    return found


def _address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
