"""Protocol Buffers from tables of ours: message classes without generated code and without a process-wide registry.

A table says, by package and message, what the messages have that we use:

    {"envoy.config.core.v3": {
        "Address": "socket_address SocketAddress 1 in address; pipe Pipe 2 in address",
        "SocketAddress": "protocol Protocol 1; address string 2; port_value uint32 3 in port_specifier",
        "SocketAddress.Protocol": "enum TCP 0; UDP 1",
    }}

A field is `name type number`: `type[]` is repeated, `map<key,value>` a map, `in NAME` puts it into a oneof, `optional`
before the name gives it presence. A type is looked up as in a .proto: in the message, outwards through the package's
parts, and last among the well-known ones (`Any`, `Duration`, `Struct`, `UInt32Value` ...). All of it is proto3.

- Every table has a **pool of its own**. The default one belongs to the process: two libraries that bring the same file
  to it in different versions end each other, and OpenTelemetry has its files there already.
- What a table lacks is an unknown field: kept by protobuf when read, refused by name when JSON is converted.

Refused: generated modules (they register themselves with the default pool, are bound to a version of the runtime, and
for xDS are thousands of files of which we need a few dozen messages).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

Table: TypeAlias = Mapping[str, Mapping[str, str]]
"""package → message or enum (dotted where nested) → its fields or values"""

RPC: Final[Table] = {"google.rpc": {"Status": "code int32 1; message string 2; details Any[] 3"}}
"""The error of an RPC, as it is sent in messages."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in (
        "double",
        "float",
        "int32",
        "int64",
        "uint32",
        "uint64",
        "sint64",
        "fixed64",
        "bool",
        "string",
        "bytes",
    )
}
_WELL_KNOWN: Final = tuple(
    module.DESCRIPTOR for module in (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
)


class Messages:
    """The message classes of one table or several, by full name: `messages["google.rpc.Status"](code=5)`.

    Raises ValueError for a table that contradicts itself, KeyError for a name that it lacks.
    """

    def __init__(self, *tables: Table) -> None:
        self.pool = DescriptorPool()
        self._classes: dict[str, type[Message]] = {}
        if len({package for table in tables for package in table}) != sum(map(len, tables)):
            raise ValueError("a package is in one table, whole")
        known = dict(_known(*tables))
        files = {package: _File(package, known).build(table[package]) for table in tables for package in table}
        for well_known in _WELL_KNOWN:
            self.pool.AddSerializedFile(well_known.serialized_pb)
        for package in files:
            self._add(package, files, set())

    def __getitem__(self, name: str) -> type[Any]:
        """The class; `Any`, since its fields are known only when it runs."""
        found = self._classes.get(name)
        if found is None:
            found = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
            self._classes[name] = found
        return found

    def parse(self, name: str, wire: bytes) -> Any:
        """The message that these bytes are. Raises google.protobuf.message.DecodeError."""
        return self[name].FromString(wire)

    def from_json(self, name: str, body: dict[str, Any]) -> Any:
        """The message of its proto3 JSON form, `Any`s of known messages included. Raises json_format.ParseError for a
        field or a message that the table lacks."""
        return json_format.ParseDict(body, self[name](), descriptor_pool=self.pool)

    def to_json(self, message: Message) -> dict[str, Any]:
        """The proto3 JSON form, with fields as a .proto writes them."""
        return dict(json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self.pool))

    def _add(self, package: str, files: Mapping[str, descriptor_pb2.FileDescriptorProto], under_way: set[str]) -> None:
        """A file after those that it depends on."""
        if package in under_way:
            raise ValueError(f"package {package} depends on itself, through {sorted(under_way)}")
        name = files[package].name
        try:
            self.pool.FindFileByName(name)
        except KeyError:
            for other in files.values():
                if other.name in files[package].dependency:
                    self._add(other.package, files, under_way | {package})
            self.pool.AddSerializedFile(files[package].SerializeToString())


def delimited(number: int, payload: bytes) -> bytes:
    """A field on the wire: a message that is serialized already, or bytes. Put behind one another such fields, and what
    `SerializeToString` returns, are a message: what is encoded once need not be encoded again."""
    return b"".join((_varint(number << 3 | 2), _varint(len(payload)), payload))


def _varint(value: int) -> bytes:
    wire = bytearray()
    while value > 0x7F:
        wire.append(value & 0x7F | 0x80)
        value >>= 7
    wire.append(value)
    return bytes(wire)


def pack(url: str, body: bytes) -> bytes:
    """A serialized `google.protobuf.Any` of a serialized message."""
    return delimited(1, url.encode()) + delimited(2, body)


def _known(*tables: Table) -> Iterator[tuple[str, tuple[str, bool]]]:
    """By full name: the file that has it, and whether it is an enum."""
    for well_known in _WELL_KNOWN:
        for message in well_known.message_types_by_name:
            yield f"google.protobuf.{message}", (well_known.name, False)
    for table in tables:
        for package, messages in table.items():
            for name, body in messages.items():
                yield f"{package}.{name}", (_file_name(package), body.startswith("enum "))


def _file_name(package: str) -> str:
    return f"pannier/{package}.proto"


class _File:
    """One package becomes one file."""

    def __init__(self, package: str, known: Mapping[str, tuple[str, bool]]) -> None:
        self._package = package
        self._known = known
        self._file = descriptor_pb2.FileDescriptorProto(name=_file_name(package), package=package, syntax="proto3")
        self._messages: dict[str, descriptor_pb2.DescriptorProto] = {}

    def build(self, messages: Mapping[str, str]) -> descriptor_pb2.FileDescriptorProto:
        for name, body in sorted(messages.items()):  # who contains comes before what is contained
            parent, _, own = name.rpartition(".")
            if parent and parent not in self._messages:
                raise ValueError(f"{self._package}.{name} is nested in a message that the table lacks")
            where = self._messages[parent] if parent else self._file
            if body.startswith("enum "):
                enums = where.enum_type
                _enum(enums.add(name=own), body)
            else:
                nested = self._file.message_type if not parent else self._messages[parent].nested_type
                self._messages[name] = nested.add(name=own)
        for name, message in self._messages.items():
            # the oneofs that `optional` makes have to be the last ones
            for words in sorted(_entries(messages[name]), key=lambda words: words[0] == "optional"):
                self._field(name, message, words)
        return self._file

    def _field(self, name: str, message: descriptor_pb2.DescriptorProto, words: list[str]) -> None:
        optional = words[0] == "optional"
        match words[1:] if optional else words:
            case [field, kind, number]:
                oneof = f"_{field}" if optional else ""
            case [field, kind, number, "in", oneof]:
                pass
            case _:
                raise ValueError(
                    f"{self._package}.{name}: {' '.join(words)!r} is no field: name type number [in oneof]"
                )
        label = _Field.LABEL_REPEATED if kind.endswith(("[]", ">")) else _Field.LABEL_OPTIONAL
        made = message.field.add(name=field, number=int(number), label=label, proto3_optional=optional)
        if kind.startswith("map<"):
            key, _, value = kind.removeprefix("map<").removesuffix(">").partition(",")
            entry = "".join(word.capitalize() for word in field.split("_")) + "Entry"
            pair = message.nested_type.add(name=entry)
            pair.options.map_entry = True
            for index, (part, part_kind) in enumerate((("key", key), ("value", value)), start=1):
                self._type(name, pair.field.add(name=part, number=index, label=_Field.LABEL_OPTIONAL), part_kind)
            made.type, made.type_name = _Field.TYPE_MESSAGE, f".{self._package}.{name}.{entry}"
        else:
            self._type(name, made, kind.removesuffix("[]"))
        if oneof:
            names = [known.name for known in message.oneof_decl]
            if oneof not in names:
                message.oneof_decl.add(name=oneof)
                names.append(oneof)
            made.oneof_index = names.index(oneof)

    def _type(self, scope: str, field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
            return
        full = self._resolve(scope, kind)
        file, is_enum = self._known[full]
        field.type = _Field.TYPE_ENUM if is_enum else _Field.TYPE_MESSAGE
        field.type_name = f".{full}"
        if file != self._file.name and file not in self._file.dependency:
            self._file.dependency.append(file)

    def _resolve(self, scope: str, kind: str) -> str:
        parts = f"{self._package}.{scope}".split(".")
        outwards = (".".join([*parts[:length], kind]) for length in range(len(parts), -1, -1))
        for full in (*outwards, f"google.protobuf.{kind}"):
            if full in self._known:
                return full
        raise ValueError(f"{self._package}.{scope}: there is no type {kind}")


def _entries(body: str) -> Iterator[list[str]]:
    for entry in body.split(";"):
        if words := entry.split():
            yield words


def _enum(enum: descriptor_pb2.EnumDescriptorProto, body: str) -> None:
    for name, number in _entries(body.removeprefix("enum ")):
        enum.value.add(name=name, number=int(number))
