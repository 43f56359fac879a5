"""What a sidecar needs of the suite, and whether it may have that.

A sidecar says what it needs beside its settings, as `Config.needs`. Those that come with Pannier have what they need; a
third party's has its own topics `NAME.*`, hears `lifecycle`, publishes `events`, and for the rest what the profile
grants it: `[grants.NAME]`. A table has one writer, a topic one publisher, and rings have one reader, so nobody is
granted what another one has.

Rights guard against mistakes and surprises. They are no wall: all processes of a service belong to one user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from msgspec import Meta, Struct
from pannier.shared.central import CENTRAL_STATE
from pannier.shared.explain import Finding
from pannier.shared.messages import CONFIG_REVISION, EVENTS, LIFECYCLE, LOGS

BROKEN: Final = "PAN0108"
NOT_GRANTED: Final = "PAN0405"
TAKEN: Final = "PAN0406"

Table = Literal["endpoints", "headers", "limits", "routes", "telemetry"]
Readable = Literal["base", "endpoints", "headers", "limits", "routes", "telemetry", "counters", "rings"]
Topic = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$(?!\n)", description='a topic such as "services"')]

TABLES: Final[tuple[str, ...]] = get_args(Table)
"""What a sidecar may write; the tables `base` and `central` are the supervisor's."""
_OF_THE_SUPERVISOR: Final = frozenset({LIFECYCLE, CONFIG_REVISION, LOGS, CENTRAL_STATE})
_KINDS: Final = ("writes", "reads", "publishes", "subscribes")


class Needs(Struct, frozen=True):
    """What a sidecar is handed (`writes`: tables; `reads`: tables, `counters`, `rings`, `hot`), its topics, the verbs
    that it serves. `hot` and `listeners` are for sidecars that come with Pannier."""

    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not isinstance(getattr(self, field), tuple):
                raise TypeError(f'{field} is a tuple of names, such as ("headers",)')


class Grants(Struct, frozen=True, forbid_unknown_fields=True):
    """What a sidecar that does not come with Pannier may do beyond its own topics, `lifecycle` and `events`."""

    writes: list[Table] = []
    reads: list[Readable] = []
    publishes: list[Topic] = []
    subscribes: list[Topic] = []


class Broken(Struct, frozen=True):
    """Stands in for the settings of a sidecar that is installed and cannot be had; its subclasses say why."""

    reason: ClassVar[str] = ""
    remedy: ClassVar[str] = ""


def needs_of(config: type) -> Needs:
    """What the sidecar with these settings needs; nothing if it does not say."""
    needs: Any = getattr(config, "needs", None)
    return needs if isinstance(needs, Needs) else Needs()


def is_ours(config: type) -> bool:
    """Whether the sidecar with these settings comes with Pannier."""
    return config.__module__.startswith("pannier.")


def refusals(configs: Mapping[str, Struct], grants: Mapping[str, Grants]) -> list[Finding]:
    """What sidecars need and may not have, of those that are to run; paths from the root of the profile."""
    found: list[Finding] = []
    owners: dict[str, str] = {}
    # Ours first: they have what they need, and others must do without that.
    for name, config in sorted(configs.items(), key=lambda item: not is_ours(type(item[1]))):
        needs = needs_of(type(config))
        if not is_ours(type(config)):
            found += _not_granted(name, needs, grants.get(name, Grants()))
        for thing in _owned(needs):
            if (owner := owners.setdefault(thing, name)) != name:
                found.append(
                    Finding(
                        ("sidecars", name),
                        TAKEN,
                        f"{thing} can be one sidecar's alone, and is that of {owner}",
                        f"expected one of the two: sidecars.{owner} = false, or sidecars.{name} = false",
                        at_key=True,
                    )
                )
    return found


def _not_granted(name: str, needs: Needs, granted: Grants) -> Iterator[Finding]:
    for kind in _KINDS:
        given: list[str] = getattr(granted, kind)
        missing = [each for each in getattr(needs, kind) if each not in given and not _is_free(name, kind, each)]
        never = [each for each in missing if not _is_grantable(kind, each)]
        if never:
            message = f"it {kind} {', '.join(never)}, which no profile can grant"
            yield Finding(("sidecars", name), NOT_GRANTED, message, f"ask who made {name}", at_key=True)
        elif missing:
            message = f"it {kind} {', '.join(missing)}, which this profile does not grant"
            line = f"add [grants.{name}] {kind} = {json.dumps([*given, *missing])}"
            yield Finding(("sidecars", name), NOT_GRANTED, message, line, at_key=True)


def _is_free(name: str, kind: str, topic: str) -> bool:
    free = {"publishes": EVENTS, "subscribes": LIFECYCLE}.get(kind)
    return free is not None and (topic == free or topic.startswith(f"{name}."))


def _is_grantable(kind: str, each: str) -> bool:
    match kind:
        case "writes":
            return each in TABLES
        case "reads":
            return each in get_args(Readable)
        case "publishes":
            return each not in _OF_THE_SUPERVISOR
    return True


def _owned(needs: Needs) -> Iterator[str]:
    yield from (f"table {table}" for table in needs.writes)
    yield from (f"topic {topic}" for topic in needs.publishes if topic != EVENTS)
    yield from ("reading rings" for each in needs.reads if each == "rings")
