"""What a route does with a request, in Envoy's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pannier.shared.duration import milliseconds
from pannier.shared.toml_position import Path
from pannier.sidecars.pilot.documents.policy import Client
from pannier.sidecars.pilot.xds.findings import Findings
from pannier.sidecars.pilot.xds.shares import Share
from pannier.sidecars.pilot.xds.words import Json, at_runtime, duration
from pannier.sidecars.traffic.config import Affinity, Headers, Mirror, Redirect, Rewrite

_CODES: Final = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}


def destination(shares: Sequence[Share], settings: Mapping[str, Json], *, by_session: bool) -> Json:
    """Where requests go. `settings` are those of filters, by service, that only hold for its share. `by_session`: each
    session stays with one of them."""
    if len(shares) == 1 and not settings:
        return {"cluster": shares[0].cluster}
    clusters: list[Json] = []
    for share in shares:
        one: Json = {"name": share.cluster, "weight": share.weight}
        if share.service in settings:
            one["typed_per_filter_config"] = settings[share.service]
        clusters.append(one)
    return {"weighted_clusters": {"clusters": clusters, **({"use_hash_policy": True} if by_session else {})}}


def rewriting(rewrite: Rewrite | None, prefix: str | None, where: Path, found: Findings, *, is_open: bool) -> Json:
    """What becomes of the path and of the host. `prefix` is what was matched, with its slash where more follows."""
    changes: Json = {}
    if rewrite is None:
        return changes
    found.add(where, "all of it", "gRPC sends paths and hosts as they are", "grpc")
    if rewrite.path is not None:
        changes["regex_rewrite"] = {
            "pattern": {"regex": "^/.*$"},
            "substitution": rewrite.path.replace("\\", "\\\\"),
        }
    elif rewrite.prefix is not None and prefix is not None:
        changes["prefix_rewrite"] = replaced(rewrite.prefix, is_open=is_open)
    if rewrite.host is not None:
        changes["host_rewrite_literal"] = rewrite.host
    return changes


def redirecting(redirect: Redirect, prefix: str | None, where: Path, found: Findings, *, is_open: bool) -> Json:
    """A redirect. What it does not name stays as it was asked for."""
    found.add(where, "all of it", "gRPC follows no redirects: such a call fails with UNAVAILABLE", "grpc")
    action: Json = {"response_code": _CODES[redirect.status]}
    if redirect.scheme is not None:
        action["scheme_redirect"] = redirect.scheme
    port = redirect.port
    if redirect.host is not None:
        host, colon, named = redirect.host.rpartition(":")
        if colon and named.isdigit():
            action["host_redirect"] = host
            port = port or int(named)
        else:
            action["host_redirect"] = redirect.host
    if port is not None:
        action["port_redirect"] = port
    if redirect.path is not None:
        action["path_redirect"] = redirect.path
    elif redirect.prefix is not None and prefix is not None:
        action["prefix_rewrite"] = replaced(redirect.prefix, is_open=is_open)
    return action


def replaced(prefix: str, *, is_open: bool) -> str:
    """What stands in place of a matched prefix: of a whole path, or of one with its slash."""
    bare = prefix.rstrip("/")
    return f"{bare}/" if is_open or not bare else bare


def edits(headers: Headers | None, side: str, where: Path, found: Findings) -> Json:
    """Edits of a head, `request` or `response`: removed, then set, then added."""
    if headers is None or not (headers.set or headers.add or headers.remove):
        return {}
    found.add(where, "all of it", "gRPC edits no headers", "grpc")
    added = [_option(name, value, "OVERWRITE_IF_EXISTS_OR_ADD") for name, value in headers.set.items()]
    added += [_option(name, value, "APPEND_IF_EXISTS_OR_ADD") for name, value in headers.add.items()]
    changes: Json = {}
    if headers.remove:
        changes[f"{side}_headers_to_remove"] = list(headers.remove)
    if added:
        changes[f"{side}_headers_to_add"] = added
    return changes


def _option(name: str, value: str, action: str) -> Json:
    option: dict[str, Any] = {"header": {"key": name, "value": value.replace("%", "%%")}, "append_action": action}
    if not value:
        option["keep_empty_value"] = True
    return option


def timing(request: str | None, client: Client) -> Json:
    """How long a request may take, `0s` = as long as it likes. gRPC does not know the one word, and Envoy does not heed
    it where it finds the other."""
    if request is None:
        return {}
    if client == "grpc":
        return {"max_stream_duration": {"max_stream_duration": duration(request)}}
    return {"timeout": duration(request)}


def hashing(affinity: Affinity | None, where: Path, found: Findings) -> Json:
    """What a session is known by."""
    if affinity is None:
        return {}
    if affinity.header is not None:
        return {"hash_policy": [{"header": {"header_name": affinity.header}}]}
    found.add(where, "a session that a cookie tells", "gRPC keeps no cookies", "grpc")
    ttl = "0s" if affinity.ttl is None else f"{-(-milliseconds(affinity.ttl) // 1000)}s"
    return {"hash_policy": [{"cookie": {"name": affinity.cookie, "ttl": ttl, "path": "/"}}]}


def mirroring(mirror: Mirror | None, where: Path, found: Findings) -> Json:
    """Copies; the host stays as it was."""
    if mirror is None:
        return {}
    found.add(where, "all of it", "gRPC mirrors nothing", "grpc")
    return {
        "request_mirror_policies": [
            {
                "cluster": mirror.to,
                "runtime_fraction": at_runtime(mirror.percent),
                "disable_shadow_host_suffix_append": True,
            }
        ]
    }
