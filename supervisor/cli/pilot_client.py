"""How a command asks the pilot, or anything else of ours that speaks HTTP and JSON: one question, one answer.

- Which pilot: `--pilot PLACE`, else the environment's PANNIER_PILOT, else `pilot.sock` in the runtime folder.
- The token goes along only over TCP, and only with what needs it: changes, and the configurations of services.
- Every error is a PannierError with what the peer said and its hint. Only `Refused` has a status to look at.

Synchronous, by the standard library: a command asks once and ends, and `pannier --help` never comes here.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import click
import msgspec
from pannier.shared.errors import Blame, PannierError, Unreachable, UsageError
from pannier.shared.runtime import runtime_dir, state_dir
from pannier.supervisor.cli.output import F
from pannier.supervisor.ports import split_address

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")

SOCKET: Final = "pilot.sock"
FOLDER: Final = "pilot"
TOKEN: Final = "token"
VARIABLE: Final = "PANNIER_PILOT"
PATIENCE: Final = 10.0
"""Seconds for connecting, and for each part of an answer."""
_READING: Final = frozenset({"GET", "HEAD"})
_SETTINGS: Final = ("v1", "config")


def pilot_options(command: F) -> F:
    """Adds `--pilot PLACE` and `--token-file FILE` as the arguments `pilot` and `token_file`, for `the_pilot`."""
    return click.option(
        "--pilot",
        metavar="PLACE",
        help=f"unix:PATH or http://HOST:PORT (default: {VARIABLE}, else {SOCKET} in the runtime folder).",
    )(token_option(command))


def token_option(command: F) -> F:
    """Adds `--token-file FILE` as the argument `token_file`."""
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        help="What holds the pilot's token, for changes and configurations over TCP (default: in the state folder).",
    )(command)


def the_pilot(place: str | None, token_file: Path | None = None) -> Client:
    """The pilot that a command is about. Raises UsageError for a place that is none."""
    place = place or os.environ.get(VARIABLE) or f"unix:{runtime_dir() / SOCKET}"
    return Client(place, "the pilot", hint="start one: pannier pilot; or say where it is: --pilot", token=token_file)


class _Said(msgspec.Struct):
    error: str = ""
    hint: str = ""


class Refused(PannierError):
    """The peer said no, with this HTTP status."""

    blame = Blame.PEER

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Client:
    """A peer at `unix:PATH` or `http://HOST:PORT`. `name` is what errors call it, `hint` what to do if it is not there.

    `token` is the file that is read for changes over TCP (None: the one in the state folder, if it is there).
    """

    def __init__(self, place: str, name: str, *, hint: str, token: Path | None = None) -> None:
        self.place = place
        self._name = name
        self._hint = hint
        self._token = token
        self._address: Path | tuple[str, int]
        if place.startswith("unix:"):
            self._address = Path(place.removeprefix("unix:"))
        elif place.startswith("http://"):
            self._address = split_address(place.removeprefix("http://").rstrip("/"))
        else:
            raise UsageError(
                f"{place[:80]!r} is no place of {name}", hint="write it as unix:/path/of/the/socket or http://HOST:PORT"
            )

    def ask(self, method: str, segments: Sequence[str], kind: type[T], body: object = None, *, query: str = "") -> T:
        """The answer, as a `kind`. `segments` are those of the path; `body` is anything msgspec encodes.

        Raises Refused, Unreachable (also for 503, where trying again may help), PannierError for an answer that does
        not fit.
        """
        try:
            target = "/" + "/".join(quote(segment, safe="") for segment in segments) + (f"?{query}" if query else "")
            sent = None if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError as error:  # the arguments of a command are any bytes
            raise UsageError(
                f"{error.object[:80]!r} is no UTF-8", hint="write it in UTF-8; of bytes, say their Base64"
            ) from error
        headers = {"accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        guarded = method not in _READING or tuple(segments[:2]) == _SETTINGS
        if guarded and not isinstance(self._address, Path) and (token := self._read_token()):
            headers["authorization"] = f"Bearer {token}"
        status, answer = self._exchange(method, target, sent, headers)
        if status >= 300:
            raise self._refused(status, answer)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise PannierError(
                f"{self._name} at {self.place} answers what is not understood: {error}",
                hint="compare the versions: pannier version",
                blame=Blame.PEER,
            ) from error

    def _exchange(
        self, method: str, target: str, body: ReadableBuffer | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        try:
            with closing(self._connection()) as connection:
                connection.request(method, target, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except TimeoutError as error:
            raise Unreachable(f"{self._name} at {self.place} does not answer", hint="see whether it is busy") from error
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{self._name} is not at {self.place}: {said}", hint=self._hint) from error

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._address, Path):
            return _UnixConnection(self._address)
        host, port = self._address
        return http.client.HTTPConnection(host, port, timeout=PATIENCE)

    def _read_token(self) -> str:
        path = self._token or state_dir() / FOLDER / TOKEN
        try:
            return path.read_text().strip()
        except FileNotFoundError as error:
            if self._token is None:
                return ""  # this host may have none: the pilot says so if it wants one
            raise UsageError(f"there is no {path}", hint="the pilot says at its start where its token is") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {path}: {error}", hint=f"see what it is: ls -l {path}") from error

    def _refused(self, status: int, answer: bytes) -> PannierError:
        said = _Said()
        with suppress(msgspec.MsgspecError):
            said = msgspec.json.decode(answer, type=_Said)
        message, hint = said.error or f"{self._name} at {self.place} answers {status}", said.hint
        if status == 503:
            return Unreachable(message, hint=hint or "try again in a moment")
        if status == 401:
            hint = "name the file with the pilot's token: --token-file FILE"
        return Refused(message, hint=hint, status=status)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))
