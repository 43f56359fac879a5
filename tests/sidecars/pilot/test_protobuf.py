from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool, json_format
from pannier.sidecars.pilot.protobuf import RPC, Messages, Table, delimited, pack

SHAPES: Table = {
    "test.base": {"Point": "x double 1; y sint64 2", "Colour": "enum RED 0; BLUE 2"},
    "test.shapes.v1": {
        "Shape": (
            "name string 1; corners base.Point[] 2; colour base.Colour 3; area double 4 in size; edge Edge 5 in size; "
            "weights map<string,uint32> 6; optional depth int32 7; extra Any 8; since Duration 9; "
            "parts map<string,Shape> 10"
        ),
        "Shape.Edge": "length uint64 1",
    },
}


@pytest.fixture(scope="module")
def messages() -> Messages:
    return Messages(SHAPES, RPC)


def test_what_is_written_is_read_again(messages: Messages) -> None:
    shape = messages["test.shapes.v1.Shape"](
        name="roof", corners=[{"x": 0.5, "y": -3}], colour=2, weights={"left": 4}, depth=0, edge={"length": 2**63}
    )
    read = messages.parse("test.shapes.v1.Shape", shape.SerializeToString())
    assert read == shape
    assert (read.WhichOneof("size"), read.HasField("depth"), read.weights["left"]) == ("edge", True, 4)


@pytest.mark.parametrize(
    ("field", "wire"),
    [
        ({"name": "a"}, b"\x0a\x01a"),
        ({"colour": 2}, b"\x18\x02"),
        ({"weights": {"k": 1}}, b"\x32\x05\x0a\x01k\x10\x01"),
        ({"corners": [{"y": -1}]}, b"\x12\x02\x10\x01"),
        ({"depth": 0}, b"\x38\x00"),
    ],
)
def test_fields_are_on_the_wire_as_the_specification_says(
    messages: Messages, field: dict[str, object], wire: bytes
) -> None:
    assert messages["test.shapes.v1.Shape"](**field).SerializeToString() == wire


def test_json_with_messages_inside_any(messages: Messages) -> None:
    told = {"name": "roof", "since": "1.500s", "extra": {"@type": "x/google.rpc.Status", "code": 5, "message": "gone"}}
    shape = messages.from_json("test.shapes.v1.Shape", told)
    status = messages["google.rpc.Status"]()
    assert shape.extra.Unpack(status) and status.message == "gone"
    assert messages.to_json(shape) == told
    assert pack("x/google.rpc.Status", status.SerializeToString()) == shape.extra.SerializeToString()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
@pytest.mark.parametrize("number", [1, 15, 16, 3000])
def test_a_message_put_together_from_parts(number: int, length: int) -> None:
    part: Table = {"test.part": {"M": f"text bytes {number}; name string {number + 1}"}}
    made = Messages(part)["test.part.M"]
    whole = made(text=b"x" * length, name="n")
    assert made.FromString(delimited(number, b"x" * length) + made(name="n").SerializeToString()) == whole


@pytest.mark.parametrize(
    "unknown", [{"nmae": "roof"}, {"edge": {"size": 1}}, {"extra": {"@type": "x/test.shapes.v1.Circle"}}]
)
def test_what_the_table_lacks_is_refused_by_name(messages: Messages, unknown: dict[str, object]) -> None:
    with pytest.raises(json_format.ParseError, match=r"nmae|size|Circle"):
        messages.from_json("test.shapes.v1.Shape", unknown)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"a": {"M": "x Nothing 1"}}, "no type Nothing"),
        ({"a": {"M": "x string"}}, "is no field"),
        ({"a": {"M.N": "x string 1"}}, "nested in a message that the table lacks"),
        ({"a": {"M": "x b.N 1"}, "b": {"N": "x a.M 1"}}, "depends on itself"),
        ({"a": {"M": "x string 1; y string 1"}}, "duplicate|invalid"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(table: Table, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        Messages(table)


def test_nothing_of_it_is_in_the_pool_of_the_process(messages: Messages) -> None:
    assert messages["test.base.Point"](x=1).x == 1
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("test.base.Point")
