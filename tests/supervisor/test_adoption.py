from __future__ import annotations

import os

import msgspec
import pytest
from pannier.shared.errors import PannierError
from pannier.shared.profile import Profile
from pannier.supervisor.adoption import Found, Record, decode, differences, encode, found
from pannier.supervisor.compose import compose
from pannier.supervisor.keeper import NOTE_MAX, Exited, Listing, Process
from pannier.supervisor.plan import Arguments, Place
from pannier.supervisor.restart import Exit

ARGUMENTS = Arguments(name="orders", command=("serve",), app="127.0.0.1:8080")


def record(environment: dict[str, str] | None = None) -> Record:
    place = Place("/run/orders", environment or {}, "/pannierd", 2, {"inbound": 1, "outbound": 2})
    return Record(compose(Profile(), ARGUMENTS, place, {}), {"proxy": 3})


def test_a_record_survives_its_note() -> None:
    assert decode(encode(record({"A": "ü"}))) == record({"A": "ü"})


def test_a_large_environment_fits() -> None:
    environment = {f"VARIABLE_{number}": f"/opt/some/folder/{number}" for number in range(1000)}
    assert len(encode(record(environment))) < NOTE_MAX


def test_one_that_does_not_fit_is_an_error_and_not_a_torn_note() -> None:
    with pytest.raises(PannierError, match="note holds"):
        encode(record({"NOISE": os.urandom(NOTE_MAX).hex()}))


@pytest.mark.parametrize("note", [b"", b"noise", encode(record())[:-5]])
def test_a_note_of_somebody_else_says_what_to_do(note: bytes) -> None:
    with pytest.raises(PannierError) as caught:
        decode(note)
    assert "pannier down" in caught.value.hint


def test_what_the_keeper_has_is_sorted() -> None:
    listing = Listing(
        processes=(
            Process("proxy", 10, 1, None),
            Process("app", 11, 1, Exited("app", 11, code=3)),
            Process("discovery", 12, 1, Exited("discovery", 12, signal=9)),
        ),
        held=(),
        notes=(),
    )
    assert found(listing) == Found({"proxy": 10}, {"app": (11, Exit(3)), "discovery": (12, Exit.by_signal(9))})


def test_differences_are_one_line_and_silent_about_what_does_not_matter() -> None:
    assert differences(ARGUMENTS, msgspec.structs.replace(ARGUMENTS, cwd="/elsewhere", terminal=True)) == ""
    line = differences(ARGUMENTS, msgspec.structs.replace(ARGUMENTS, port=80, workers=4))
    assert line == "port is None, not 80, workers is None, not 4"
