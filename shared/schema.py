"""A JSON Schema of profile and project files, with the settings of every installed sidecar: for editors, not for us.

It is made from the types that decode the files. It says less than they do: what a struct refuses in its `__post_init__`
and what parts contradict is found by Pannier alone (`pannier analyze`). Nothing is required outside of lists, since a
layer need not be whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any, Final

import msgspec
from pannier.shared.profile import App, Profile, Settings
from pannier.shared.profile_files import SidecarTypes
from pannier.shared.project import APPS_LIMIT, AppName, Head

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/"

Schema = dict[str, Any]


def schema(sidecars: SidecarTypes) -> Schema:
    """The schema (2020-12) of a file that is a profile, or a project."""
    roots = (Profile, Head, App, Settings, *sidecars.values())
    references, definitions = msgspec.json.schema_components(roots, ref_template=_REF + "{name}")
    profile, head, app, settings = (definitions[_named(reference)] for reference in references[:4])
    # A sidecar is configured, added as it is (true), or taken away (false).
    configs = {
        name: {"anyOf": [reference, {"type": "boolean"}]}
        for name, reference in zip(sidecars, references[4:], strict=True)
    }
    table = {"type": "object", "properties": configs, "additionalProperties": False}
    profile["properties"]["sidecars"] = settings["properties"]["sidecars"] = table
    head["properties"]["apps"] = {
        "type": "object",
        "maxProperties": APPS_LIMIT,
        "propertyNames": msgspec.json.schema(AppName),
        "additionalProperties": _mixed(app, settings),
    }
    whole = {
        "$schema": DIALECT,
        "title": "A profile or project file of Pannier",
        **_mixed(profile, head),
        # A parent is what a profile has, and apps what a project has.
        "not": {"required": ["extends"], "anyOf": [{"required": ["apps"]}, {"required": ["profile"]}]},
    }
    for name in _reached(whole, definitions, lists=False):
        definitions[name].pop("required", None)
    told = {**whole, "$defs": {name: _told(definitions[name]) for name in _reached(whole, definitions, lists=True)}}
    plain: Schema = msgspec.json.decode(msgspec.json.encode(told))  # defaults that are tuples, say, are lists in JSON
    return plain


def _mixed(*tables: Schema) -> Schema:
    """One table that may have the fields of all of these."""
    properties = {name: field for table in tables for name, field in table["properties"].items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _told(definition: Schema) -> Schema:
    text = definition.get("description")
    return definition if text is None else {**definition, "description": cleandoc(text)}


def _reached(start: Schema, definitions: Mapping[str, Schema], *, lists: bool) -> list[str]:
    """The names of what `start` refers to, in order; without `lists` only where no list is on the way."""
    found: set[str] = set()
    todo = [start]
    while todo:
        node = todo.pop()
        todo += _parts(node, lists)
        name = _named(node)
        if name and name not in found:
            found.add(name)
            todo.append(definitions[name])
    return sorted(found)


def _parts(node: Schema, lists: bool) -> Iterator[Schema]:
    yield from node.get("properties", {}).values()
    yield from node.get("anyOf", ())
    yield from node.get("prefixItems", ()) if lists else ()
    for key in ("additionalProperties", *(("items",) if lists else ())):
        if isinstance(node.get(key), dict):
            yield node[key]


def _named(reference: Schema) -> str:
    return str(reference.get("$ref", "")).removeprefix(_REF)
