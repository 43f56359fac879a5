"""Tells the services that are called for which tenant they are called: a sidecar of one's own, whole."""

from typing import ClassVar

import msgpack
import trio
from msgspec import Struct
from pannier import _native
from pannier.shared.rights import Needs
from pannier.shared.sidecar import Context, main
from pannier.shared.tables import Publication


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom this service calls for, and the field that says so."""

    needs: ClassVar[Needs] = Needs(writes=("headers",), publishes=("tenant.current",), verbs=("tenant.set",))

    tenant: str = "nobody"
    header: str = "x-tenant"


class Tenant(Struct, frozen=True):
    tenant: str


async def serve(context: Context[Config]) -> None:
    writer = _native.TableWriter("headers", context.fds["table.headers"])
    table = Publication(writer, sidecar="tenant", kind="headers")

    async def set_tenant(wanted: Tenant) -> Tenant:
        rule = {"direction": "outbound", "request": {"set": {context.config.header: wanted.tenant}}}
        table.publish(msgpack.packb({"rules": [rule]}))
        await context.bus.publish("tenant.current", wanted, retain=True)
        return wanted

    context.bus.serve("tenant.set", Tenant, set_tenant)
    await set_tenant(Tenant(context.config.tenant))
    await context.bus.ready()
    while True:
        table.heartbeat()
        await trio.sleep(1)


if __name__ == "__main__":
    main("tenant", Config, serve)
