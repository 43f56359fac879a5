"""The pilot as a process: a store, the registry over it, and the listeners of its interface.

Rules:
- A Unix socket of mode 0600 is always there, and needs no token: only its owner can open it.
- What is asked over TCP to change something needs the token, which is made at the first start and never has a default.
- Places are bound at once, so that a wrong one is said at once; nobody is listened to before the registry is read. A
  store that is waited for is said.
- What ends the store or a listener ends the pilot, loudly: who runs it starts it again, and no call depends on it.
"""

from __future__ import annotations

import logging
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
from pannier.sidecars.pilot.registry.peers import PREFIX as PILOTS
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
BACKLOG: Final = 4096
DESCRIPTORS: Final = 65_536
"""Asked for at the start, as far as they are granted: by default a process has 1024."""
TOKEN_BYTES: Final = 32
PATIENCE_SECONDS: Final = 2.0
"""With a store that does not answer at the start, before that is said."""

_log = logging.getLogger("pannier.pilot")


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
        bound = await _bind(settings.listen, "--listen")
        grpc_bound = await _bind(settings.grpc, "--grpc")
        dns_servers = _dns_servers(settings)
        bridges = _bridges(settings.bridges)
        async with _opened(settings.store) as (store, peers), trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_told, signals, nursery.cancel_scope)
            registry, fanout, documents = await _read(settings.store, store, peers, nursery)
            streams = Streams(registry, fanout, documents)
            policies = Policies(documents)
            xds = Xds(registry, fanout, policies)
            policies.listeners.append(xds.policy_changed)
            account = Account(registry, store=_shown(settings.store), peers=peers)
            account.parts |= {"stream": streams.statistics, "documents": documents.statistics, "xds": xds.status}
            api = partial(Api, registry, streams, account=account, documents=DocumentsApi(documents, policies))
            listeners = [_listening(sock, "--listen") for sock in bound]
            grpc_listeners = [_listening(sock, "--grpc") for sock in grpc_bound]
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
                await nursery.start(server.serve, _zone(settings, registry))
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


async def _read(
    kept: Kept, store: Store, peers: Peers | None, nursery: trio.Nursery
) -> tuple[Registry, Fanout, Documents]:
    """What a store has, known and followed from now on."""
    waiting = trio.CancelScope()
    nursery.start_soon(_say_what_is_waited_for, kept, store, waiting)
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
    waiting.cancel()
    return registry, fanout, documents


async def _say_what_is_waited_for(kept: Kept, store: Store, scope: trio.CancelScope) -> None:
    with scope:
        await trio.sleep(PATIENCE_SECONDS)
        reason = "it takes its time"
        try:
            await store.get(PILOTS)
        except PannierError as error:
            reason = f"{error.message}; {error.hint}" if error.hint else error.message
        _log.warning("the pilot waits for %s, and listens once it has read it: %s", _shown(kept), reason)


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
    return Zone(registry.endpoints, lambda: registry.view.revision, sample=random.sample, name=name)


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


async def _bind(places: Sequence[tuple[str, int]], option: str) -> list[trio.socket.SocketType]:
    """Sockets that have these places, and are not listened on yet."""
    found: list[trio.socket.SocketType] = []
    for host, port in places:
        try:
            for family, *_, place in await trio.socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                sock = trio.socket.socket(family, socket.SOCK_STREAM)
                found.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await sock.bind(place)
        except OSError as error:
            for sock in found:
                sock.close()
            raise _taken(f"{host}:{port}", option, error) from error
    return found


def _listening(sock: trio.socket.SocketType, option: str) -> trio.SocketListener:
    try:
        sock.listen(BACKLOG)
    except OSError as error:  # somebody else was quicker
        host, port = sock.getsockname()[:2]
        raise _taken(f"{host}:{port}", option, error) from error
    return trio.SocketListener(sock)


def _taken(place: str, option: str, error: OSError) -> PannierError:
    return PannierError(
        f"cannot listen on {place}: {error.strerror or error}",
        hint=f"choose another address with {option}",
        blame=Blame.USAGE,
    )


def _address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
