from __future__ import annotations

import msgpack
import pytest
from pannier.shared import envelope, framing
from pannier.shared.envelope import Failure, error_of, failure_of
from pannier.shared.errors import Blame, NoSuchSidecar, NotRunning, PannierError, TimedOut, Unreachable, UsageError
from pannier.shared.explain import ConfigError, Place, Problem

MESSAGES = [
    envelope.Hello(1, "00" * 32, 7, "discovery"),
    envelope.Welcome(1, "discovery", ["hot"], b"\x80", "orders"),
    envelope.Reject("token", "no", ""),
    envelope.Request(1, "supervisor", "status", b"\x80"),
    envelope.Reply(1, b"\xff\x00"),
    envelope.Failure(1, "usage", "no", "do this"),
    envelope.Subscribe(["services"]),
    envelope.Publish("services", b"", True),
    envelope.Event("services", "discovery", 1, True, b""),
    envelope.Ready(),
    envelope.Beat(),
]


def body_of(message) -> bytes:
    (body,) = framing.Reader().feed(framing.frame(message))
    return body


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message):
    assert envelope.parse(body_of(message)) == message


@pytest.mark.parametrize(
    "plain",
    [{}, {"t": "eval"}, {"t": "beat", "more": 1}, {"t": "reply", "id": 1}, {"t": "reply", "id": "1", "body": b""}, [1]],
    ids=str,
)
def test_the_union_is_closed(plain):
    with pytest.raises(framing.FramingError):
        envelope.parse(msgpack.packb(plain))


@pytest.mark.parametrize("kind", [UsageError, NotRunning, NoSuchSidecar, Unreachable, TimedOut])
def test_an_error_keeps_kind_and_text(kind):
    error = error_of(failure_of(3, kind("what", hint="then", code="PAN0101")))
    assert type(error) is kind
    assert (error.message, error.hint, error.code, error.exit_code) == ("what", "then", "PAN0101", kind.exit_code)


def test_a_configuration_that_is_refused_ends_a_command_as_it_does_at_home():
    error = error_of(failure_of(3, ConfigError([Problem(Place("x.toml", 1, 1), "PAN0102", "a.b", "unknown")])))
    assert (type(error), error.exit_code, error.blame) == (PannierError, 65, Blame.CONFIG)
    assert "x.toml:1:1" in error.message


def test_an_unknown_kind_is_a_plain_error():
    error = error_of(Failure(1, "of_tomorrow", "what", "then"))
    assert (type(error), error.message, error.exit_code) == (PannierError, "what", 1)


def test_a_failure_always_fits_into_a_frame():
    assert framing.frame(failure_of(1, PannierError("x" * 10**6, hint="\U0001f9fa" * 10**6)))
