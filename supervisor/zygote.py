"""The zygote: a Python that has imported what every sidecar needs, and forks one when the keeper asks.

A sidecar that is forked shares most of its memory with the others and is there in milliseconds. It is an optimisation
and nothing else: without a zygote, or with one that does not answer, the keeper executes the same command line. Rules:

- One thread, no lock, no socket but its control socket, nothing printed; what it imports is named on its command line.
- A child sees what it would see if it had been executed: standard streams and descriptors at the keeper's numbers,
  environment, directory, process group, signals, arguments.
- It forks twice: the process between ends at once, and the keeper, a subreaper, is the parent.
- The child itself says its PID. A keeper that no longer waits has shut its socket: then the child ends before it has
  done anything, so that nothing runs twice.
- End of file on the control socket is the end: nobody is left to fork for.

It must import nothing of the supervisor: the memory would be in every sidecar. The layout of a request is in
`shared/core/keeper/src/zygote.rs`.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import runpy
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Final, NamedTuple

from pannier.shared.inheritance import inherited_fds

CONTROL: Final = "zygote"
"""The name in PANNIER_FDS of the control socket."""
_MESSAGE_MAX: Final = 256 * 1024
_MOST_DESCRIPTORS: Final = 253  # the kernel's own limit for one message
_READY: Final = 0


class Request(NamedTuple):
    """A process to become: `numbers` are where its descriptors belong, the standard streams first."""

    argv: list[bytes]
    env: list[bytes]
    cwd: bytes
    numbers: list[int]


def decode(message: bytes) -> Request:
    """Reads one request. Raises struct.error or IndexError if it is none."""
    at = 0

    def number(layout: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(layout, message, at)
        at += struct.calcsize(layout)
        return int(value)

    def text() -> bytes:
        nonlocal at
        length = number("<H")
        at += length
        if at > len(message):
            raise IndexError("the message ends inside a text")
        return message[at - length : at]

    def texts() -> list[bytes]:
        return [text() for _ in range(number("<H"))]

    return Request(texts(), texts(), text(), [number("<I") for _ in range(number("<H"))])


def module_of(argv: Sequence[bytes]) -> str | None:
    """The module that a command line of ours runs, `PYTHON -P -m MODULE …`; None for any other command line."""
    own = [os.fsencode(sys.executable), b"-P", b"-m"]
    return os.fsdecode(argv[3]) if list(argv[:3]) == own and len(argv) > 3 else None


def serve(control: socket.socket) -> Request | None:
    """Forks at every request. Returns twice over: None in the zygote at its end, the request in each child."""
    control.send(struct.pack("<i", _READY))
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_MAX, _MOST_DESCRIPTORS)
        if not message:
            return None
        request = _fork(control, message, descriptors)
        if request is not None:
            return request
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(control: socket.socket, message: bytes, descriptors: list[int]) -> Request | None:
    try:
        request = decode(message)
        if module_of(request.argv) is None or len(request.numbers) != len(descriptors):
            raise OSError(errno.ENOEXEC, "it is not for us to run")
        between = os.fork()
    except (OSError, struct.error, IndexError) as error:
        control.send(struct.pack("<i", -(getattr(error, "errno", None) or errno.EINVAL)))
        return None
    if between:
        os.waitpid(between, 0)
        return None
    try:
        if os.fork():
            os._exit(0)
        _become(request, control, descriptors)
    except BaseException as error:
        with suppress(OSError):
            control.send(struct.pack("<i", -(getattr(error, "errno", None) or errno.EAGAIN)))
        os._exit(1)
    return request


def _become(request: Request, control: socket.socket, descriptors: list[int]) -> None:
    """Everything that an exec would have changed; the PID is told last, when it can be seen by that name."""
    os.setpgid(0, 0)
    if request.cwd:
        os.chdir(request.cwd)
    _dress(request.env)
    sys.orig_argv = [os.fsdecode(argument) for argument in request.argv]
    sys.argv = sys.orig_argv[3:]
    _reseed()
    _rename(request.argv)
    # Above all numbers that are wanted, so that none is overwritten before it is where it belongs.
    above = max(request.numbers) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in (control.fileno(), *descriptors)]
    for descriptor in (control.detach(), *descriptors):
        os.close(descriptor)
    answer, *moved = moved
    for descriptor, number in zip(moved, request.numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)
    os.write(answer, struct.pack("<i", os.getpid()))
    os.close(answer)


def _dress(env: list[bytes]) -> None:
    """Makes `env` our environment. What is as it should be is left alone: to write it again would end the sharing."""
    wanted: dict[bytes, bytes] = {}
    for variable in env:
        at = variable.index(b"=", 1)
        wanted[variable[:at]] = variable[at + 1 :]
    if b"LC_CTYPE" in os.environb:  # by the interpreter, if by nobody else: when it starts in a locale that has none
        wanted.setdefault(b"LC_CTYPE", os.environb[b"LC_CTYPE"])
    for key in [key for key in os.environb if key not in wanted]:
        del os.environb[key]
    for key, value in wanted.items():
        if os.environb.get(key) != value:
            os.environb[key] = value


def _reseed() -> None:
    """`random` itself starts afresh in every child; trio has a generator of its own, which also sets its clock."""
    own = getattr(sys.modules.get("trio._core._run"), "_r", None)
    if own is not None:
        own.seed()


def _rename(argv: list[bytes]) -> None:
    """Shows the sidecar's name and command line to whoever looks into /proc; who may not is not served worse."""
    with suppress(OSError):
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write(argv[3].rpartition(b".")[2])
        with open("/proc/self/stat", "rb") as stat:
            start, end = map(int, stat.read().rpartition(b")")[2].split()[45:47])
        shown = b"\0".join(argv)[: end - start - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(shown.ljust(end - start, b"\0"))


def _preload(modules: Sequence[str]) -> None:
    for module in modules:
        with suppress(Exception):  # the sidecar itself says what is wrong with it, where it is looked for
            import_module(module)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Preloads, serves, and in a child goes on as the module that was asked for."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    control = socket.socket(fileno=inherited_fds(os.environ)[CONTROL])
    control.set_inheritable(False)
    _preload(sys.argv[1:])
    request = serve(control)
    if request is not None:
        module = module_of(request.argv)
        assert module is not None, "nothing else is forked"
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
