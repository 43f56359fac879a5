"""How the types of a configuration are looked at: what msgspec knows of them, our marks, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from msgspec import inspect
from pannier.shared.duration import PATTERN
from pannier.shared.explain import printable

type_info = cache(inspect.type_info)


def struct_nodes(types: Iterable[type]) -> list[inspect.StructType]:
    """The struct types as msgspec sees them."""
    return [node for node in map(type_info, types) if isinstance(node, inspect.StructType)]


def bare(node: inspect.Type) -> inspect.Type:
    """The type without what is said about it."""
    while isinstance(node, inspect.Metadata):
        node = node.type
    return node


def typed_by(node: inspect.Type) -> str:
    """The table of types that gives the types of this field's entries by their keys, if one does."""
    return str((node.extra or {}).get("typed_by", "")) if isinstance(node, inspect.Metadata) else ""


def mixes(node: inspect.Type) -> list[inspect.StructType]:
    """The structs whose fields each entry of this field may mix."""
    return struct_nodes((node.extra or {}).get("mixes", ())) if isinstance(node, inspect.Metadata) else []


def describe(node: inspect.Type) -> str:
    """What is expected: the description that the type carries, else its kind and bounds."""
    words = "another kind of value"
    match node:
        case inspect.Metadata():
            words = str((node.extra_json_schema or {}).get("description", "")) or describe(node.type)
        case inspect.UnionType():
            words = " or ".join(describe(choice) for choice in node.types if not isinstance(choice, inspect.NoneType))
        case inspect.LiteralType():
            words = " or ".join(json.dumps(value) for value in node.values)
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType():
            words = f"a whole number{_range(node)}"
        case inspect.FloatType():
            words = f"a number{_range(node)}"
        case inspect.StrType():
            words = f"a text matching {node.pattern}" if node.pattern else "a text"
        case inspect.StructType() | inspect.DictType():
            words = "a table"
        case inspect.ListType():
            words = f"a list, each entry {describe(node.item_type)}"
    return words


def kind(node: inspect.Type) -> str:
    """The kind and the bounds of a value, whatever is said about it; of a text with a pattern what it looks like."""
    match node:
        case inspect.Metadata():
            inner = bare(node)
            return describe(node) if isinstance(inner, inspect.StrType) else kind(inner)
        case inspect.UnionType():
            return " or ".join(kind(choice) for choice in node.types if not isinstance(choice, inspect.NoneType))
        case inspect.ListType():
            return f"a list, each entry {kind(node.item_type)}"
        case _:
            return describe(node)


def unit(node: inspect.Type) -> str:
    """The unit of a value that has one."""
    node = next((bare(choice) for choice in node.types), node) if isinstance(node, inspect.UnionType) else node
    if PATTERN in (getattr(bare(node), "pattern", None) or ""):
        return "written with the number: h, m, s or ms"
    return "percent" if "percentage" in describe(node) else ""


def choices(node: inspect.Type) -> list[str]:
    """The texts that a literal, or a union with one, allows."""
    if isinstance(node, inspect.UnionType):
        return [text for choice in node.types for text in choices(choice)]
    return [value for value in node.values if isinstance(value, str)] if isinstance(node, inspect.LiteralType) else []


def _range(node: inspect.IntType | inspect.FloatType) -> str:
    words = [
        f" {word} {limit if isinstance(limit, int) else format(limit, 'g')}"
        for word, limit in (("≥", node.ge), (">", node.gt), ("≤", node.le), ("<", node.lt))
        if limit is not None
    ]
    return " and".join(words)


def shown(data: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    if isinstance(data, Mapping):
        return "a table"
    if isinstance(data, list):
        return "a list"
    if isinstance(data, bool):
        return str(data).lower()
    if isinstance(data, (int, float)) and not -(10**20) < data < 10**20:
        return "a number out of range"
    text = json.dumps(data, ensure_ascii=False) if isinstance(data, (str, int, float)) else str(data)
    return printable(text, 48)
