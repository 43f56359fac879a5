"""`pannier explain`: what the code of a finding means and what to do, or what a field of the configuration is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from pannier.shared.codes import CODES, Code
from pannier.shared.errors import UsageError
from pannier.shared.explain import ConfigError, near_match
from pannier.shared.fields import Field, Fields
from pannier.shared.profile import Profile
from pannier.shared.profile_files import builtin_profiles
from pannier.shared.project import Head, Resolved, resolve
from pannier.shared.toml_position import Path
from pannier.shared.type_words import describe, kind, unit
from pannier.supervisor.cli.output import table
from pannier.supervisor.sidecar_types import sidecar_types

_PREFIX = "PAN"
_DEFAULT_SHOWN = 60


@click.command()
@click.argument("what", metavar="CODE|FIELD")
def command(what: str) -> None:
    """Explain the code of a finding (PAN0102), or a field of the configuration (proxy.workers)."""
    if what.upper().startswith(_PREFIX):
        click.echo(_of_code(what.upper()))
        return
    types = sidecar_types()
    fields = Fields((Profile, Head), {"sidecar": types})
    field = fields.find(what)
    below = [leaf for one in fields.below(field) for leaf in fields.leaves(one)]
    click.echo("\n".join(_of_table(field, below) if below else _of_value(field, list(_stages(field, types)))))


def _of_code(code: str) -> str:
    if found := CODES.get(code):
        return _article(code, found)
    if some := [(known, text.title) for known, text in CODES.items() if known.startswith(code)]:
        return table(("CODE", "MEANING"), some)
    near = near_match(code, CODES)
    hint = f"did you mean {near}?" if near else f"pannier explain {_PREFIX} lists them all"
    raise UsageError(f"there is no code {code[:80]}", hint=hint)


def _article(code: str, text: Code) -> str:
    return "\n\n".join(
        [
            f"{code}: {text.title}",
            text.meaning,
            f"For example:\n{_indented(text.example)}",
            f"What to do: {text.remedy}",
        ]
    )


def _of_value(field: Field, stages: list[str]) -> list[str]:
    rows = [
        ("type", kind(field.node)),
        ("unit", unit(field.node)),
        ("default", _default(field)),
        ("from", f"{field.owner.__name__} in {field.owner.__module__}" if field.owner else ""),
        *(("stage", stage) for stage in stages),
    ]
    words = describe(field.node)
    return [
        field.path + (f": {words}" if words != kind(field.node) else ""),
        *(f"  {name:8} {text}" for name, text in rows if text),
        *_purpose(field.owner),
    ]


def _of_table(field: Field, below: list[Field]) -> list[str]:
    # What a table is for is said by its own struct, which is that of what is right below it.
    owner = next((leaf.owner for leaf in below if leaf.owner), None)
    rows = [(leaf.path, kind(leaf.node), _default(leaf)) for leaf in below]
    return [f"{field.path}: a table", *_purpose(owner), "", table(("FIELD", "TYPE", "DEFAULT"), rows)]


def _purpose(owner: type | None) -> list[str]:
    text = inspect.cleandoc(owner.__doc__) if owner and owner.__doc__ else None
    return ["", _indented(text)] if text else []


def _default(field: Field) -> str:
    if field.owner is None:
        return ""
    if field.required:
        return "none: it must be given"
    if field.default is None:
        return "not set"
    text = json.dumps(msgspec.to_builtins(field.default), ensure_ascii=False)
    return text if len(text) <= _DEFAULT_SHOWN else f"{text[: _DEFAULT_SHOWN - 1]}…"


def _stages(field: Field, types: dict[str, type[msgspec.Struct]]) -> Iterator[str]:
    """The built-in stages that set the field, with value and place."""
    path: Path = tuple(field.path.split("."))
    for name in builtin_profiles():
        try:
            resolved = resolve(name, sidecars=types)
        except ConfigError:  # a folder may have a broken profile of that name
            continue
        if path in resolved.origins:
            value = json.dumps(_at(resolved, path), ensure_ascii=False)
            yield f"{name}: {value} ({resolved.origins[path].place})"


def _at(resolved: Resolved, path: Path) -> Any:
    value: Any = resolved.data
    for part in path:
        value = value[part]
    return value


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
