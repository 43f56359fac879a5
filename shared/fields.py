"""Finds the fields of a configuration by their dotted names, in the types that decode it.

A path is written as messages write it, and as people shorten it: `services.*.breaker`, `services.orders.breaker`, the
entries of a list with or without their index, a sidecar's name with or without `sidecars.` before it. What is found has
`*` for any key and `[]` for any entry. There is no second list of fields: this is what msgspec knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any

import msgspec
from msgspec import inspect
from pannier.shared.errors import UsageError
from pannier.shared.explain import near_match, printable
from pannier.shared.type_words import bare, mixes, struct_nodes, type_info, typed_by

_PART = re.compile(r'\[\d*\]|"(?:[^"\\]|\\.)*"|[^.\[\]"]+')
_DEPTH = 12
_ALIKE = 3


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its `path`, its type (`node`), the struct that has it (None for an entry), whether it must be given.

    `default` is what holds where it is not, if it need not be.
    """

    path: str
    node: inspect.Type
    owner: type | None = None
    required: bool = False
    default: Any = None


Tables = Mapping[str, Mapping[str, type]]


class Fields:
    """All fields of the structs `roots`, which a file may mix; `tables` as for `check`."""

    def __init__(self, roots: tuple[type, ...], tables: Tables) -> None:
        self._roots = {field.path: field for node in struct_nodes(roots) for field in _of(node, "")}
        self._tables = tables

    def find(self, text: str) -> Field:
        """The field, or the table, of that path. Raises UsageError, with a near match, if there is none."""
        parts = _PART.findall(text)
        if not parts:
            raise UsageError(f"{printable(text, 80)!r} is no path of a field", hint="pannier explain proxy.workers")
        for field, name in self._marked():
            if parts[0] == name and name not in self._roots:
                parts.insert(0, field)
                break
        known: Mapping[str, Field] = self._roots
        found: Field | None = None
        while parts:
            part = parts.pop(0)
            if (step := known.get(_plain(part))) is None:
                raise self._unknown(part, known, found)
            found = step
            parts, found = self._through(parts, found)
            known = {_last(field.path): field for field in self.below(found)} if parts else {}
        assert found is not None
        return found

    def below(self, field: Field) -> list[Field]:
        """The fields right below a table, or below each entry of it; none for a value."""
        if name := typed_by(field.node):
            return [Field(f"{field.path}.{key}", type_info(type_)) for key, type_ in self._tables[name].items()]
        path, node = _entries(field.path, field.node)
        nodes = mixes(field.node) or ([node] if isinstance(node, inspect.StructType) else [])
        return [inner for one in nodes for inner in _of(one, f"{path}.")]

    def leaves(self, field: Field, depth: int = 0) -> Iterator[Field]:
        """Every value below a table, however deep; the field itself if it is one."""
        inner = self.below(field) if depth < _DEPTH else []
        if not inner:
            yield field
        for one in inner:
            yield from self.leaves(one, depth + 1)

    def _through(self, parts: list[str], field: Field) -> tuple[list[str], Field]:
        """Past the keys and indices of tables and lists, to what the next part names."""
        path, node, parts = field.path, bare(field.node), list(parts)
        if typed_by(field.node) or mixes(field.node):
            if mixes(field.node) and parts:
                parts.pop(0)
            return parts, field
        while parts:
            node = _container(node)
            if isinstance(node, inspect.DictType):
                parts.pop(0)
                path, node = f"{path}.*", node.value_type
            elif isinstance(node, _LISTS):
                if parts[0].startswith("["):
                    parts.pop(0)
                path, node = f"{path}[]", node.item_type
            else:
                break
        return parts, field if path == field.path else Field(path, node)

    def _marked(self) -> Iterator[tuple[str, str]]:
        for field in self._roots.values():
            for name in self._tables.get(typed_by(field.node), {}):
                yield field.path, name

    def _unknown(self, part: str, known: Mapping[str, Field], above: Field | None) -> UsageError:
        name = _plain(part)
        near = near_match(name, known)
        alike = [field.path for root in known.values() for field in self.leaves(root) if _last(field.path) == name]
        if near:
            hint = f"did you mean {known[near].path}?"
        elif alike:
            shortest = [path for path in alike if not any(path != one and path.endswith(one) for one in alike)]
            hint = f"did you mean {' or '.join(shortest[:_ALIKE])}?"
        else:
            hint = f"known: {', '.join(sorted(known))}" if known else "nothing is below a value"
        where = f" below {above.path}" if above else ""
        return UsageError(f"there is no field {printable(name, 80)!r}{where}", hint=hint)


_LISTS = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)


def _entries(path: str, node: inspect.Type) -> tuple[str, inspect.Type]:
    """What a table's or list's entries are, through all that hold them, and their path."""
    while True:
        node = _container(node)
        if isinstance(node, inspect.DictType):
            path, node = f"{path}.*", node.value_type
        elif isinstance(node, _LISTS):
            path, node = f"{path}[]", node.item_type
        else:
            return path, node


def _container(node: inspect.Type) -> inspect.Type:
    """What can hold fields, of a type that may also be something else (`RateLimit | None`); else the type."""
    node = bare(node)
    if isinstance(node, inspect.UnionType):
        kinds = (inspect.StructType, inspect.DictType, *_LISTS)
        return next((bare(choice) for choice in node.types if isinstance(bare(choice), kinds)), node)
    return node


def _of(node: inspect.StructType, prefix: str) -> Iterator[Field]:
    for field in node.fields:
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        yield Field(
            prefix + field.encode_name,
            field.type,
            _declaring(node.cls, field.name),
            field.required,
            None if default is msgspec.NODEFAULT else default,
        )


def _declaring(struct: type, name: str) -> type:
    """The struct, or the one it extends, that says what the field is."""
    return next(one for one in struct.__mro__ if name in get_annotations(one))


def _plain(part: str) -> str:
    return part[1:-1] if part.startswith('"') else part


def _last(path: str) -> str:
    return path.rpartition(".")[2]
