"""Table `headers`: what a third party's sidecar has changed in heads, and after whom."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pannier import _native
from pannier.sidecars.traffic.config import Config, Headers, Match, Route

from tests.proxy.census import call
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import answer


def rule(direction: str = "outbound", **what: Any) -> dict[str, Any]:
    return {"direction": direction, **what}


def setting(value: str, **what: Any) -> dict[str, Any]:
    return rule(request={"set": {"x-a": value}}, **what)


def asked(origin: Origin) -> list[str]:
    """Every value of X-A in the newest request."""
    return origin.requests[-1].all("x-a")


def test_fields_of_request_and_answer_are_set_added_and_removed(proxy: Proxy, origin: Origin) -> None:
    edits = {"set": {"x-set": "1"}, "add": {"x-add": "2"}, "remove": ["X-Gone"]}
    proxy.publish_headers(rule(request=edits, response=edits))
    origin.answer = lambda _: answer(b"ok", "X-Set: 0", "X-Add: 0", "x-gone: 0", "X-Stays: 0")
    got = call(proxy, "/", "X-Set: 0", "X-Add: 0", "x-gone: 0", "X-Stays: 0")
    for message in (origin.requests[-1], got):
        fields = [message.all(name) for name in ("x-set", "x-add", "x-gone", "x-stays")]
        assert fields == [["1"], ["0", "2"], [], ["0"]]


def test_without_the_table_nothing_is_changed_and_it_can_be_withdrawn(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_headers(setting("1"))
    call(proxy, "/", "X-A: 0")
    assert asked(origin) == ["1"]
    proxy.withdraw("headers")
    call(proxy, "/", "X-A: 0")
    assert asked(origin) == ["0"]


def test_the_first_rule_of_that_direction_host_and_route_holds(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_routes(Config(routes=[Route(name="beta", matches=[Match(prefix="/beta")])]))
    proxy.publish_headers(
        rule("inbound", request={"set": {"x-a": "inbound"}}),
        setting("elsewhere", host="elsewhere"),
        setting("beta", host="UP", route="beta"),
        setting("up", host="up"),
        setting("never"),
    )
    for target, value in (("/beta/x", "beta"), ("/", "up")):
        call(proxy, target)
        assert asked(origin) == [value]
    proxy.fetch("/")
    assert asked(origin) == ["inbound"]


def test_a_route_edits_first_and_the_policy_has_the_last_word(proxy: Proxy, origin: Origin) -> None:
    edits = Headers(set={"x-a": "route", "x-b": "route"}, add={"x-c": "route"})
    proxy.publish_routes(Config(routes=[Route(name="it", request=edits, response=edits)]))
    policy = {"set": {"X-A": "policy"}, "remove": ["x-c"]}
    proxy.publish_headers(rule(request=policy, response=policy))
    got = call(proxy, "/")
    for message in (origin.requests[-1], got):
        assert [message.all(name) for name in ("x-a", "x-b", "x-c")] == [["policy"], ["route"], []]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([rule(request={"set": {"Transfer-Encoding": "chunked"}})], "rule 1: the field"),
        ([rule(request={"remove": ["Connection"]})], "rule 1: the field"),
        ([setting("1"), rule(response={"add": {"x-pannier-reason": "1"}})], "rule 2: the field"),
        ([setting("1\r\nx-b: 2")], "rule 1: "),
        ([setting("1", hots="up")], "unknown field `hots`"),
        ([rule(request={"sett": {"x-a": "1"}, "remove": ["x-b"]})], "unknown field `sett`"),
        ([rule("sideways", request={"remove": ["x-a"]})], "unknown variant `sideways`"),
        ([rule()], "rule 1: it edits nothing"),
        ([setting("1")] * 65, "at most 64"),
    ],
)
def test_what_would_change_more_than_fields_is_refused_when_it_is_written(table: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _native.validate("headers", msgspec.msgpack.encode({"rules": table}))


def test_a_table_that_slips_through_leaves_the_one_before_in_force(proxy: Proxy, origin: Origin) -> None:
    proxy.publish_headers(setting("1"))
    smuggled = msgspec.msgpack.encode({"rules": [setting("1\r\nx-b: 2")]})
    proxy.publish_unchecked("headers", smuggled)
    call(proxy, "/")
    assert asked(origin) == ["1"]


def test_a_table_that_only_one_side_knows_is_nobodys_trouble(short_path: Path, origin: Origin) -> None:
    """A supervisor of the release before hands over no table `headers`, one of the next a table of another kind."""
    with closing(Proxy(short_path)) as proxy:
        proxy.fds["table.future"] = proxy.fds.pop("table.headers")
        proxy.publish_base(app=origin.address)
        proxy.start()
        assert proxy.fetch("/", "X-A: 0").status == 200
        assert asked(origin) == ["0"]
