"""What several processes of the suite decode: bodies of topics and verbs. A sidecar's own live in its `messages.py`.

`Status` and `StatReply` are also what `ps -o json` and `stat -o json` print: their field names are an interface.
Unknown fields are ignored, so that a newer sender does not break an older reader; a new field has a default.
Words of `state` are those of the supervisor's lifecycle.
"""

from __future__ import annotations

from typing import Final

import msgspec

LIFECYCLE: Final = "lifecycle"
CONFIG_REVISION: Final = "config.revision"
SERVICES: Final = "services"
EVENTS: Final = "events"
LOGS: Final = "logs"
EJECTIONS: Final = "ejections"
CANARY: Final = "canary.progress"
CONFIGURE: Final = "configure"
RUN: Final = "run"
STOP: Final = "stop"
WHOEVER: Final = 0


class Nothing(msgspec.Struct, frozen=True):
    """A verb that needs no argument, or has no answer."""


class ProcessState(msgspec.Struct, frozen=True):
    name: str
    kind: str
    state: str
    ready: bool


class Lifecycle(msgspec.Struct, frozen=True):
    """Topic `lifecycle`, retained: where the service stands, and each of its processes."""

    service: str
    profile: str
    state: str
    processes: list[ProcessState]


class ConfigRevision(msgspec.Struct, frozen=True):
    """Topic `config.revision`, retained: grows by one with each change of the configuration in force."""

    revision: int
    profile: str


class Configure(msgspec.Struct, frozen=True):
    """Verb `configure` of every sidecar, for the supervisor alone: its new configuration, as msgpack. With `dry_run` it
    is checked by the sidecar's own type and nothing changes."""

    config: bytes
    dry_run: bool = False


class Configured(msgspec.Struct, frozen=True):
    """`live`: the sidecar takes a configuration while it runs. If not, nothing has changed: it wants a new process."""

    live: bool


class Member(msgspec.Struct, frozen=True):
    """Verbs `run` and `stop` of the process `fused`, for the supervisor alone. `life` is a number that no other life of
    the sidecar has, or `WHOEVER` runs. To run it, `module` is its package, and `token` makes it its role on the bus."""

    name: str
    life: int
    module: str = ""
    token: str = ""


class MemberEnd(msgspec.Struct, frozen=True):
    """The end of a sidecar inside `fused`: what its process would have exited with."""

    code: int


class ServiceEndpoint(msgspec.Struct, frozen=True):
    """One instance. `source`: file, lease or registry."""

    id: str
    address: str
    state: str
    source: str


class Cluster(msgspec.Struct, frozen=True):
    name: str
    endpoints: list[ServiceEndpoint]


class Services(msgspec.Struct, frozen=True):
    """Topic `services`, retained, and the answer of discovery's verb `services`. Without discovery it is empty."""

    clusters: list[Cluster] = []


class Ejection(msgspec.Struct, frozen=True):
    """An endpoint that gets no calls, or its one try. `state`: open or half_open; `until_ms` since epoch;
    `times`: how often it was out lately. `endpoint` is its address, empty for the service as a whole."""

    service: str
    endpoint: str
    state: str
    reason: str
    until_ms: int
    times: int


class Ejections(msgspec.Struct, frozen=True):
    """Topic `ejections`, retained: all that are out now. Without resilience it is empty."""

    endpoints: list[Ejection] = []


class CanaryProgress(msgspec.Struct, frozen=True):
    """One shift of traffic on its way. `weight` and `target` in per cent of the calls; `reason` says why it stands
    where it does. `step_success` in 0…1, None while too little was asked; `next_step_in_s` None where no step follows.
    """

    service: str
    subset: str
    weight: float
    target: float
    state: str
    reason: str
    step_success: float | None = None
    next_step_in_s: float | None = None


class Canaries(msgspec.Struct, frozen=True):
    """Topic `canary.progress`, retained: every shift that has not been undone. Without traffic it is empty."""

    canaries: list[CanaryProgress] = []


class TrafficService(msgspec.Struct, frozen=True):
    """One callee that traffic has settings for. `subsets`: how many endpoints each has now; `split`: the weights in
    force, none where all endpoints are alike."""

    name: str
    subsets: dict[str, int]
    split: dict[str, int]


class TrafficMirror(msgspec.Struct, frozen=True):
    """Where copies go: of the calls to `service`, or of what `route` matches; the other one is empty."""

    service: str
    route: str
    to: str
    percent: float


class TrafficFault(msgspec.Struct, frozen=True):
    """An injected fault, for the calls to `service` or what `route` matches. `until` in seconds since the epoch; it may
    have passed, None is without an end."""

    service: str
    route: str
    delay: str | None
    abort: int | None
    percent: float
    until: float | None


class TrafficStatus(msgspec.Struct, frozen=True):
    """Verb `status` of traffic: what is done with calls at this moment."""

    services: list[TrafficService] = []
    canaries: list[CanaryProgress] = []
    mirrors: list[TrafficMirror] = []
    faults: list[TrafficFault] = []


class Happening(msgspec.Struct, frozen=True):
    """Topic `events`: what an operator may want to know. `severity`: info, warning or error; `at_ms` since epoch."""

    source: str
    kind: str
    message: str
    severity: str
    at_ms: int


class LogLine(msgspec.Struct, frozen=True):
    """One line that a process of the service wrote. `stream`: stdout or stderr."""

    source: str
    stream: str
    text: str
    at_ms: int


class LogRequest(msgspec.Struct, frozen=True):
    """Verb `logs` of the supervisor: the last `tail` lines."""

    tail: int = 100


class LogLines(msgspec.Struct, frozen=True):
    """Topic `logs`: what was written at once; also the answer of the verb `logs`."""

    lines: list[LogLine]


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """`kind`: keeper, supervisor, proxy, sidecar or app; `cpu_percent` of one core. Of a sidecar that is `fused` with
    others in one process, memory and CPU are an estimate: the process's, in equal parts."""

    name: str
    kind: str
    pid: int
    state: str
    restarts: int
    pss_bytes: int
    cpu_percent: float
    ready: bool
    fused: bool = False


class Status(msgspec.Struct, frozen=True):
    """Verb `status` of the supervisor: one element of what `ps -o json` prints. `urls` are those of `urls.json`."""

    name: str
    profile: str
    supervisor_pid: int
    processes: list[Process]
    urls: dict[str, str] = {}


class Life(msgspec.Struct, frozen=True):
    """Verb `life` of the supervisor: `life` names this run of it, which one that becomes another version has not in
    common with its next; `version` is of the code that runs."""

    life: str
    version: str
    ready: bool


class SidecarName(msgspec.Struct, frozen=True):
    """Verbs `sidecar.add`, `sidecar.rm`, `sidecar.restart` of the supervisor."""

    name: str


class Sidecar(msgspec.Struct, frozen=True):
    """`pid` is 0 and `state` is empty if it is installed and not part of what runs."""

    name: str
    state: str
    pid: int
    restarts: int
    ready: bool


class SidecarList(msgspec.Struct, frozen=True):
    """Verb `sidecar.list` of the supervisor."""

    sidecars: list[Sidecar]


class LiveSetting(msgspec.Struct, frozen=True):
    """One setting of the live layer; `path` from the root (`sidecars`, `traffic`, …), `value` as msgpack of plain data,
    None takes the setting away."""

    path: list[str]
    value: bytes | None = None


class LiveChange(msgspec.Struct, frozen=True):
    """Verb `live.set` of the supervisor: all of `changes` are in force when it answers `Changed`, or none is.

    With `dry_run` it only says what would happen. `confirm_s`: it is undone after so long unless `profile.confirm`
    comes (0: it stands at once, None: as the profile says). `unless`: conditions such as `success<99%`; the change is
    undone as soon as one holds within that time, and stands by itself if none does. `by` is the command, for history.
    """

    changes: list[LiveSetting]
    dry_run: bool = False
    confirm_s: float | None = 0.0
    unless: list[str] = []
    by: str = ""


class LiveReset(msgspec.Struct, frozen=True):
    """Verb `live.reset` of the supervisor: takes everything under these paths out of the live layer; without a path,
    all of it. The rest as for `LiveChange`."""

    paths: list[list[str]] = []
    dry_run: bool = False
    confirm_s: float | None = 0.0
    unless: list[str] = []
    by: str = ""


class Use(msgspec.Struct, frozen=True):
    """Verb `profile.use` of the supervisor: what all layers below the live one come to, as msgpack of plain data.

    `profile` is its name, `source` its path if it was named by one; `assignments` are the `--set` options among those
    layers. The rest as for `LiveChange`.
    """

    profile: str
    settings: bytes
    assignments: list[str] = []
    dry_run: bool = False
    confirm_s: float | None = None
    unless: list[str] = []
    by: str = ""
    source: str | None = None


class Rollback(msgspec.Struct, frozen=True):
    """Verb `config.rollback` of the supervisor: puts in force again what held in a revision, by its number or the
    beginning of its id. The rest as for `LiveChange`."""

    revision: str
    dry_run: bool = False
    confirm_s: float | None = 0.0
    unless: list[str] = []
    by: str = ""


class Revision(msgspec.Struct, frozen=True):
    """One time that a configuration was put in force. `id` is the same whenever the content is; `state`: in force,
    pending (it may be taken back), replaced or taken back."""

    number: int
    id: str
    at_ms: int
    by: str
    summary: str
    profile: str
    state: str


class Revisions(msgspec.Struct, frozen=True):
    """Verb `config.history` of the supervisor, oldest first. `problems` are files that could not be read."""

    revisions: list[Revision]
    problems: list[str] = []


class SaidInForce(msgspec.Struct, frozen=True):
    """Verb `config.said` of the supervisor: what holds was made of this, as msgpack of plain data. `below` are all
    layers under the live one; `revision` as in `Changed`."""

    profile: str
    below: bytes
    live: bytes
    revision: int = 0


class Changed(msgspec.Struct, frozen=True):
    """What a change does, a line each, in the order in which it does it; none: nothing is different. `confirm_s`:
    seconds left for `profile.confirm`, 0 if none is needed. `live`: how many settings of the live layer hold.
    `unless`: what takes it back within that time; then it needs no confirmation. `revision`: the one in force, 0 if the
    history could not be written."""

    lines: list[str]
    confirm_s: float = 0.0
    live: int = 0
    unless: list[str] = []
    revision: int = 0


class ProfileInForce(msgspec.Struct, frozen=True):
    """Verb `profile.in_force` of the supervisor: what a command needs to resolve another profile for this service. All
    as the service was started; `variables` are those of its environment that are settings. `source` is the path of a
    profile that was named by one, `folder` where the service was started."""

    profile: str
    project: str | None
    app: str | None
    variables: dict[str, str]
    assignments: list[str]
    confirm_s: float = 0.0
    source: str | None = None
    folder: str | None = None


class Urls(msgspec.Struct, frozen=True):
    """Verb `urls` of the supervisor: what `urls.json` holds."""

    urls: dict[str, str]


class StatRequest(msgspec.Struct, frozen=True):
    """Verb `stat` of observability: over the last `window_s` seconds."""

    window_s: float


class StatRow(msgspec.Struct, frozen=True):
    """`success_rate` in 0…1; it and the latencies are None if nothing was asked in the window."""

    service: str
    route: str
    direction: str
    requests: int
    success_rate: float | None
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class StatReply(msgspec.Struct, frozen=True):
    """What `stat -o json` prints; `window_s` is the window that the rows really cover."""

    window_s: float
    rows: list[StatRow]


class BreakerState(msgspec.Struct, frozen=True):
    """What is held against an endpoint, or with an empty `endpoint` against a service as a whole. `state`: closed, open
    or half_open; `until_ms` since epoch, 0 where closed; `failures` in a row; `times`: how often it was out lately."""

    service: str
    endpoint: str
    state: str
    reason: str
    until_ms: int
    times: int
    failures: int


class BreakerStates(msgspec.Struct, frozen=True):
    """Verb `breakers` of resilience: what `resilience breakers -o json` prints. Nothing is held against the others."""

    breakers: list[BreakerState]


class LimitState(msgspec.Struct, frozen=True):
    """How much of a limit is in use; `service` is empty for what others ask of us, `used` is None for a rate limit.
    `reason` names the setting that the limit comes from."""

    service: str
    limit: str
    used: int | None
    most: int
    reason: str


class LimitStates(msgspec.Struct, frozen=True):
    """Verb `limits` of resilience: what `resilience limits -o json` prints."""

    limits: list[LimitState]


class Reset(msgspec.Struct, frozen=True):
    """Verb `reset` of resilience: takes back in what is out of a service; without an `endpoint` all of it."""

    service: str
    endpoint: str | None = None


class ResetDone(msgspec.Struct, frozen=True):
    """What is in again: addresses, an empty one for the service as a whole."""

    endpoints: list[str]


class TakeOut(msgspec.Struct, frozen=True):
    """Verb `open` of resilience: takes an endpoint out by hand."""

    service: str
    endpoint: str
    for_ms: int
