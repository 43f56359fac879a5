"""Finds everything that keeps plain data from being decoded into struct types.

msgspec stops at the first error and names map keys `[...]`. This pass walks the data beside the types and collects
every `Finding`. A struct whose fields are all well is converted as a proof, so what a `__post_init__` refuses is in the
same list; a layer's struct with holes, in it or below, waits for the proof of the whole. The data has passed a parser's
limit on nesting; the walk only goes as deep as the types do, and ends when more is wrong than anybody reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import inspect
from pannier.shared.explain import (
    BAD_VALUE,
    FINDINGS_LIMIT,
    MISSING,
    UNKNOWN_FIELD,
    UNKNOWN_NAME,
    WRONG_TYPE,
    Finding,
    bounded,
    near_match,
)
from pannier.shared.rights import BROKEN, Broken
from pannier.shared.toml_position import Path
from pannier.shared.type_words import bare, choices, describe, mixes, shown, struct_nodes, type_info, typed_by


def check(
    data: Any,
    types: Sequence[type],
    *,
    tables: Mapping[str, Mapping[str, type]] | None = None,
    at: Path = (),
    partial: bool = False,
) -> list[Finding]:
    """What keeps `data` from being decoded into the struct `types`, whose fields it may mix: everything, up to a bound.

    `tables` gives the type of each entry of a field that is marked `Meta(extra={"typed_by": NAME})`: NAME → key → type.
    Each entry of a field that is marked `Meta(extra={"mixes": TYPES})` may mix the fields of these structs.
    `partial` leaves out missing fields of `types` and of the tables in them: a layer need not be whole.
    """
    walk = _Walk(tables or {}, partial)
    nodes = struct_nodes(types)
    with suppress(_EnoughError):
        walk.struct(data, nodes, at)
    return bounded(walk.findings)


class _EnoughError(Exception):
    pass


class _Walk:
    def __init__(self, tables: Mapping[str, Mapping[str, type]], partial: bool) -> None:
        self.tables = tables
        self.partial = partial
        self.holes = 0
        self.findings: list[Finding] = []

    def add(self, path: Path, code: str, message: str, expectation: str = "", **more: Any) -> None:
        self.findings.append(Finding(path, code, message, expectation, **more))
        if len(self.findings) > FINDINGS_LIMIT:
            raise _EnoughError

    def struct(self, data: Any, nodes: Sequence[inspect.StructType], path: Path) -> None:
        if not isinstance(data, Mapping):
            self.wrong(data, "a table", path)
            return
        before = len(self.findings), self.holes
        fields = {field.encode_name: field for node in nodes for field in node.fields}
        tags = {node.tag_field for node in nodes if node.tag_field}
        for key, value in data.items():
            if key in fields:
                self.value(value, fields[key].type, (*path, key))
            elif key not in tags:
                near = near_match(key, fields)
                known = "" if near or len(fields) > 12 else f"known here: {', '.join(fields)}"
                self.add((*path, key), UNKNOWN_FIELD, "unknown field", known, near=near, at_key=True)
        missing = [name for name, field in fields.items() if field.required and name not in data]
        if self.partial:
            self.holes += len(missing)
        else:
            for name in missing:
                self.add((*path, name), MISSING, "missing", f"expected {describe(fields[name].type)}", at_key=True)
        if (len(self.findings), self.holes) == before:
            self.proof(data, nodes, path)

    def proof(self, data: Mapping[str, Any], nodes: Sequence[inspect.StructType], path: Path) -> None:
        for node in nodes:
            # A field typed by its key was proved entry by entry.
            own = {
                f.encode_name: data[f.encode_name]
                for f in node.fields
                if f.encode_name in data and not typed_by(f.type)
            }
            if node.tag_field:
                own[node.tag_field] = node.tag
            try:
                msgspec.convert(own, node.cls)
            except msgspec.ValidationError as error:
                self.add(path, BAD_VALUE, str(error).split(" - at `", 1)[0])

    def value(self, data: Any, node: inspect.Type, path: Path) -> None:
        words, table, mixed = "", typed_by(node), mixes(node)
        while isinstance(node, inspect.Metadata):
            words = words or (node.extra_json_schema or {}).get("description", "")
            node = node.type
        if table:
            self.table(data, self.tables.get(table, {}), table, path)
        elif isinstance(node, inspect.UnionType):
            self.union(data, node, words, path)
        elif isinstance(node, inspect.StructType):
            self.struct(data, [node], path)
        elif isinstance(node, inspect.DictType):
            self.mapping(data, node, path, mixed)
        elif isinstance(node, (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)):
            self.sequence(data, node, words, path)
        elif (code := _refuses(data, node)) is not None:
            self.wrong(data, words or describe(node), path, code, choices(node))

    def table(self, data: Any, types: Mapping[str, type], what: str, path: Path) -> None:
        if not isinstance(data, Mapping):
            self.wrong(data, "a table", path)
            return
        for key, value in data.items():
            type_ = types.get(key)
            if type_ is None:
                known = f"installed: {', '.join(sorted(types)) or 'none'}"
                near = near_match(key, types)
                self.add((*path, key), UNKNOWN_NAME, f"unknown {what}", known, near=near, at_key=True)
            elif issubclass(type_, Broken):
                if value is not False:
                    self.add((*path, key), BROKEN, type_.reason, type_.remedy, at_key=True)
            elif not isinstance(value, bool):
                self.value(value, type_info(types[key]), (*path, key))

    def union(self, data: Any, node: inspect.UnionType, words: str, path: Path) -> None:
        structs = [choice for choice in node.types if isinstance(choice, inspect.StructType)]
        if structs and isinstance(data, Mapping):
            chosen = [s for s in structs if s.tag_field is None or data.get(s.tag_field) == s.tag]
            if chosen:
                self.struct(data, chosen[:1], path)
            else:
                tag = structs[0].tag_field or ""
                expected = " or ".join(json.dumps(s.tag) for s in structs)
                self.add((*path, tag), BAD_VALUE, f"one of the kinds must be named by {tag!r}", f"expected {expected}")
            return
        attempts = []
        for choice in node.types:
            attempt = _Walk(self.tables, self.partial)
            with suppress(_EnoughError):
                attempt.value(data, choice, path)
            if not attempt.findings:
                self.holes += attempt.holes
                return
            attempts.append(attempt)
        inside = next((a for a in attempts if any(len(f.path) > len(path) for f in a.findings)), None)
        if inside is not None:
            self.findings += inside.findings
        else:
            codes = {finding.code for attempt in attempts for finding in attempt.findings}
            code = BAD_VALUE if BAD_VALUE in codes else WRONG_TYPE
            self.wrong(data, words or describe(node), path, code, choices(node))

    def mapping(self, data: Any, node: inspect.DictType, path: Path, mixed: Sequence[inspect.StructType] = ()) -> None:
        if not isinstance(data, Mapping):
            self.wrong(data, "a table", path)
            return
        self.count(data, node, path)
        for key, value in data.items():
            if _refuses(key, bare(node.key_type)) is not None:
                self.add((*path, key), BAD_VALUE, "bad name", f"expected {describe(node.key_type)}", at_key=True)
            if mixed:
                self.struct(value, mixed, (*path, key))
            else:
                self.value(value, node.value_type, (*path, key))

    def sequence(self, data: Any, node: Any, words: str, path: Path) -> None:
        if not isinstance(data, list):
            self.wrong(data, words or "a list", path)
            return
        partial, self.partial = self.partial, False
        for index, item in enumerate(data):
            self.value(item, node.item_type, (*path, index))
        self.partial = partial
        self.count(data, node, path)

    def count(self, data: Any, node: Any, path: Path) -> None:
        if (node.min_length or 0) > len(data):
            self.add(path, BAD_VALUE, f"has {len(data)} entries", f"expected at least {node.min_length}")
        if node.max_length is not None and len(data) > node.max_length:
            self.add(path, BAD_VALUE, f"has {len(data)} entries", f"expected at most {node.max_length}")

    def wrong(self, data: Any, expected: str, path: Path, code: str = WRONG_TYPE, choices: Sequence[str] = ()) -> None:
        near = near_match(data, choices) if isinstance(data, str) else ""
        remark = "" if near else f"expected {expected}"
        what = "wrong type" if code == WRONG_TYPE else "bad value"
        self.add(path, code, f"{what}: {shown(data)}", remark, near=near)


def _refuses(data: Any, node: inspect.Type) -> str | None:
    """The code of what is wrong with a scalar, or None.

    msgspec is the judge of values. A kind that is not known here is left to the proof of the struct around it.
    """
    if isinstance(node, inspect.NoneType):
        return None if data is None else WRONG_TYPE
    if isinstance(node, inspect.LiteralType):
        alike = [value for value in node.values if type(value) is type(data)]
        return None if data in alike else BAD_VALUE if alike else WRONG_TYPE
    kind = next((kind for known, kind in _SCALARS.items() if isinstance(node, known)), None)
    if kind is None:
        return None
    if isinstance(data, bool) is not (kind is bool) or not isinstance(data, (int, float) if kind is float else kind):
        return WRONG_TYPE
    limits = {name: limit for name in _LIMITS if (limit := getattr(node, name, None)) is not None}
    try:
        msgspec.convert(data, Annotated[kind, msgspec.Meta(**limits)])
    except msgspec.ValidationError:
        return BAD_VALUE
    return BAD_VALUE if isinstance(data, float) and not math.isfinite(data) else None


_SCALARS: dict[type, type] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
}


_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
