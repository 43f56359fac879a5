"""A configuration as plain data without what its type says anyway. Pure.

A thousand rules of which each says two things would else be sent as a thousand times everything that a rule may say,
and not fit a frame. msgspec's own `omit_defaults` belongs to the type, which may be a third party's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


def sparse(value: Any) -> Any:
    """Plain data from which the type of `value` makes an equal value."""
    if isinstance(value, msgspec.Struct) and not value.__struct_config__.array_like:
        config = value.__struct_config__
        tag = {} if config.tag_field is None else {config.tag_field: config.tag}
        said = {
            field.encode_name: sparse(inner)
            for field in msgspec.structs.fields(value)
            if (inner := getattr(value, field.name)) != _default(field)
        }
        return {**tag, **said}
    if isinstance(value, Mapping):
        return {key: sparse(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [sparse(inner) for inner in value]
    return msgspec.to_builtins(value)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    """What a field is if nobody says it; what must be said is equal to nothing."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
