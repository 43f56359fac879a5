"""Which endpoint of a service takes a request, where table `routes` says how."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from pannier.sidecars.traffic.config import Affinity, Config, Route, Service

from tests.proxy.census import StartOrigin, call, named, refusal, spread, start_named, versions, who
from tests.proxy.conftest import StartProxy
from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import PATIENCE_S, Message, answer, request

NAMES = ("0", "1", "2")
HASHED = ("ring_hash", "maglev")


@pytest.fixture
def three(start_origin: StartOrigin) -> list[Origin]:
    """Origins that answer 0, 1 and 2."""
    return start_named(start_origin, *NAMES)


@pytest.fixture
def proxy_of_three(proxy: Proxy, three: list[Origin]) -> Proxy:
    """A proxy whose service `up` they are."""
    publish_up(proxy, three)
    return proxy


def publish_up(proxy: Proxy, origins: list[Origin], **rest: Any) -> None:
    proxy.publish_endpoints(up=[{"address": o.address} | rest for o in origins])


def publish(proxy: Proxy, zone: str | None = None, **service: Any) -> None:
    """Table `routes` with one service."""
    proxy.publish_routes(Config(zone=zone, services={"up": Service(**service)}))


# --- policies ------------------------------------------------------------------------------------------------------


@pytest.mark.semantics("traffic", "A service's balancing stands in place of the profile's", "services.*.balance")
def test_a_services_policy_stands_in_place_of_the_profiles(proxy_of_three: Proxy) -> None:
    publish(proxy_of_three, balance="round_robin")
    assert spread(proxy_of_three, 30) == dict.fromkeys(NAMES, 10)


@pytest.mark.semantics("traffic", "A service's balancing stands in place of the profile's", "services.*.balance")
def test_without_one_the_profiles_holds(start_proxy: StartProxy, three: list[Origin]) -> None:
    proxy = start_proxy(balance="round_robin")
    publish_up(proxy, three)
    publish(proxy)
    assert spread(proxy, 30) == dict.fromkeys(NAMES, 10)


@pytest.mark.parametrize("balance", ["random", "round_robin"])
def test_weights_are_kept(proxy: Proxy, three: list[Origin], balance: Any) -> None:
    proxy.publish_endpoints(up=[{"address": o.address, "weight": i + 1} for i, o in enumerate(three)])
    publish(proxy, balance=balance)
    counts = spread(proxy, 900)
    for name, expected in zip(NAMES, (150, 300, 450), strict=True):
        assert abs(counts[name] - expected) < 75


def held(origins: list[Origin]) -> Callable[[], None]:
    """Lets the origins answer nothing until what is returned is called."""
    go = threading.Event()

    def hold(name: str) -> Callable[[Message], bytes]:
        def when_told(_: Message) -> bytes:
            assert go.wait(PATIENCE_S)
            return answer(name.encode())

        return when_told

    for origin, name in zip(origins, NAMES, strict=False):
        origin.answer = hold(name)
    return go.set


def answers_at_once(proxy: Proxy, origins: list[Origin], requests: list[bytes], expected: list[int]) -> Counter[bytes]:
    """Who answers requests that are all under way before the first answer; as many as `expected` reach each origin."""
    release = held(origins)
    with ExitStack() as stack:
        callers = [stack.enter_context(proxy.call(outbound=True)) for _ in requests]
        for caller, one in zip(callers, requests, strict=True):
            caller.send(one)
        for origin, count in zip(origins, expected, strict=True):
            origin.wait_requests(count)
        release()
        return Counter(caller.read_answer().body for caller in callers)


@pytest.mark.semantics("traffic", "Least request takes the one of two with less under way")
def test_least_request_takes_the_one_of_two_with_less_under_way(proxy: Proxy, three: list[Origin]) -> None:
    publish_up(proxy, three[:2])
    publish(proxy, balance="least_request")
    assert answers_at_once(proxy, three[:2], [request(host="up")] * 20, [10, 10]) == {b"0": 10, b"1": 10}


def test_least_request_weighs_what_is_under_way(proxy: Proxy, three: list[Origin]) -> None:
    two = three[:2]
    proxy.publish_endpoints(up=[{"address": o.address, "weight": w} for o, w in zip(two, (1, 3), strict=True)])
    publish(proxy, balance="least_request")
    assert answers_at_once(proxy, two, [request(host="up")] * 40, [10, 30]) == {b"0": 10, b"1": 30}


# --- sessions ------------------------------------------------------------------------------------------------------


def of_user(user: object) -> bytes:
    return request("/", f"X-User: {user}", host="up")


def homes(proxy: Proxy, users: int = 60) -> dict[int, str]:
    """Where each user's requests go, which is the same for all of them."""
    found = {}
    for user in range(users):
        (found[user],) = spread(proxy, [of_user(user)] * 2)
    return found


@pytest.mark.semantics(
    "traffic", "Session affinity: the same value of a header or cookie goes to the same endpoint", "services.*.affinity"
)
@pytest.mark.parametrize("balance", [*HASHED, None, "round_robin", "p2c_ewma"])
def test_the_same_header_goes_to_the_same_endpoint(proxy_of_three: Proxy, balance: Any) -> None:
    publish(proxy_of_three, balance=balance, affinity=Affinity(header="x-user"))
    before = homes(proxy_of_three)
    assert set(before.values()) == set(NAMES)
    assert homes(proxy_of_three) == before


@pytest.mark.parametrize("balance", HASHED)
def test_sessions_are_shared_by_weight(proxy: Proxy, three: list[Origin], balance: Any) -> None:
    proxy.publish_endpoints(up=[{"address": o.address, "weight": w} for o, w in zip(three, (1, 1, 8), strict=True)])
    publish(proxy, balance=balance, affinity=Affinity(header="x-user"))
    assert 400 < spread(proxy, [of_user(i) for i in range(600)])["2"] < 560


@pytest.mark.parametrize("balance", HASHED)
def test_requests_of_no_session_go_anywhere(proxy_of_three: Proxy, balance: Any) -> None:
    publish(proxy_of_three, balance=balance, affinity=Affinity(header="x-user"))
    assert set(spread(proxy_of_three, 60)) == set(NAMES)


@pytest.mark.parametrize("balance", HASHED)
def test_who_is_out_moves_its_own_sessions_alone(proxy_of_three: Proxy, three: list[Origin], balance: Any) -> None:
    proxy = proxy_of_three
    publish(proxy, balance=balance, affinity=Affinity(header="x-user"))
    before = homes(proxy)
    proxy.publish_endpoints(up=[{"address": o.address, "healthy": o is not three[1]} for o in three])
    during = homes(proxy)
    assert "1" not in during.values()
    assert {u: h for u, h in during.items() if before[u] != "1"} == {u: h for u, h in before.items() if h != "1"}
    publish_up(proxy, three)
    assert homes(proxy) == before


@pytest.mark.semantics("traffic", "An endpoint that leaves moves few sessions but its own")
@pytest.mark.parametrize("balance", HASHED)
def test_who_leaves_moves_few_sessions_but_its_own(proxy_of_three: Proxy, three: list[Origin], balance: Any) -> None:
    proxy = proxy_of_three
    publish(proxy, balance=balance, affinity=Affinity(header="x-user"))
    before = homes(proxy)
    publish_up(proxy, [three[2], three[0]])
    after = homes(proxy)
    assert "1" not in after.values()
    moved = [user for user, home in before.items() if home not in ("1", after[user])]
    assert len(moved) <= 3


@pytest.mark.semantics("traffic", "A session leaves an endpoint that has more than 125 % of its share")
@pytest.mark.parametrize("balance", HASHED)
def test_a_session_leaves_an_endpoint_with_more_than_125_percent_of_its_share(
    proxy: Proxy, three: list[Origin], balance: Any
) -> None:
    two = three[:2]
    publish_up(proxy, two)
    publish(proxy, balance=balance, affinity=Affinity(header="x-user"))
    home = int(next(iter(spread(proxy, [of_user("alice")]))))
    for origin in two:
        origin.requests.clear()
    expected = [7, 3] if home == 0 else [3, 7]
    counts = answers_at_once(proxy, two, [of_user("alice")] * 10, expected)
    assert [counts[b"0"], counts[b"1"]] == expected, "of 10 requests 5 are its share, 6.25 the most, rounded up"


def cookie_of(got: Message) -> str:
    """The name and value of the only cookie that is set."""
    return (got.get("set-cookie") or "").split(";")[0]


@pytest.mark.semantics(
    "traffic", "Session affinity: the same value of a header or cookie goes to the same endpoint", "services.*.affinity"
)
def test_who_has_no_cookie_is_given_one_that_leads_back(proxy_of_three: Proxy, three: list[Origin]) -> None:
    proxy = proxy_of_three
    publish(proxy, affinity=Affinity(cookie="session"))
    firsts = [call(proxy) for _ in range(30)]
    cookies = [cookie_of(got) for got in firsts]
    assert len(set(cookies)) == 30
    assert {got.body.decode() for got in firsts} == set(NAMES)
    for first, cookie in zip(firsts, cookies, strict=True):
        assert cookie.startswith("session=")
        for fields in ([f"Cookie: {cookie}"], [f"Cookie: a=b; {cookie}; c=d"], ["Cookie: a=b", f"Cookie: {cookie}"]):
            again = call(proxy, "/", *fields)
            assert (again.body, again.get("set-cookie")) == (first.body, None)
    assert three[0].requests[-1].all("cookie"), "the app is given it, too"


@pytest.mark.parametrize(("ttl", "max_age"), [(None, set()), ("1h", {"max-age=3600"})])
def test_what_a_cookie_says_of_itself(proxy_of_three: Proxy, ttl: str | None, max_age: set[str]) -> None:
    publish(proxy_of_three, affinity=Affinity(cookie="session", ttl=ttl))
    _, *attributes = (call(proxy_of_three).get("set-cookie") or "").split("; ")
    assert {attribute.lower() for attribute in attributes} == {"path=/", "httponly"} | max_age


def test_a_cookie_lasts_a_second_at_least(proxy_of_three: Proxy) -> None:
    """A Max-Age of 0 would end it before it is sent back once."""
    publish(proxy_of_three, affinity=Affinity(cookie="session", ttl="500ms"))
    assert "Max-Age=1" in (call(proxy_of_three).get("set-cookie") or "")


def test_the_cookies_of_the_app_stay(proxy: Proxy, origin: Origin) -> None:
    origin.answer = lambda _: answer(b"", "Set-Cookie: theirs=1", "Set-Cookie: more=2")
    publish(proxy, affinity=Affinity(cookie="session"))
    got = call(proxy).all("set-cookie")
    assert [value.split("=")[0] for value in got] == ["theirs", "more", "session"]


def test_a_cookie_of_another_name_is_none(proxy_of_three: Proxy) -> None:
    publish(proxy_of_three, affinity=Affinity(cookie="session"))
    for other in ("Session=1", "xsession=1", "a=session=1"):
        assert cookie_of(call(proxy_of_three, "/", f"Cookie: {other}")).startswith("session=")


@pytest.mark.parametrize("leaves", [True, False])
def test_when_its_endpoint_goes_a_session_has_another_one(
    proxy_of_three: Proxy, three: list[Origin], leaves: bool
) -> None:
    proxy = proxy_of_three
    publish(proxy, affinity=Affinity(cookie="session"))
    first = call(proxy)
    cookie, home = f"Cookie: {cookie_of(first)}", int(first.body)
    if leaves:
        publish_up(proxy, [o for i, o in enumerate(three) if i != home])
    else:
        three[home].refuse()
        three[home].cut()
    (other,) = {who(proxy, "/", cookie) for _ in range(5)}
    assert other != NAMES[home]


def test_a_session_holds_within_a_subset(proxy: Proxy, three: list[Origin]) -> None:
    rows = [*versions(v1=three[0]), *versions(v1=three[1], v2=three[2])]
    proxy.publish_endpoints(up=rows)
    service = Service(affinity=Affinity(header="x-user"), subsets={"v1": {"version": "v1"}})
    proxy.publish_routes(Config(services={"up": service}, routes=[Route(name="r", to={"up/v1": 1})]))
    assert set(homes(proxy, 20).values()) == {"0", "1"}


def test_a_session_holds_across_a_split(proxy: Proxy, three: list[Origin]) -> None:
    proxy.publish_endpoints(up=versions(v1=three[0], v2=three[1]))
    subsets = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
    publish(proxy, affinity=Affinity(header="x-user"), subsets=subsets, split={"v1": 50, "v2": 50})
    assert len(spread(proxy, [of_user("alice")] * 30)) == 1


def test_without_the_table_there_are_no_sessions(proxy_of_three: Proxy) -> None:
    publish(proxy_of_three, affinity=Affinity(cookie="session"))
    assert cookie_of(call(proxy_of_three))
    proxy_of_three.withdraw("routes")
    assert not cookie_of(call(proxy_of_three))
    assert len(spread(proxy_of_three, [request("/", "Cookie: session=1", host="up")] * 60)) > 1


def test_sessions_of_a_service_without_endpoints_are_refused(proxy: Proxy) -> None:
    publish(proxy, balance="maglev", affinity=Affinity(header="x-user"))
    proxy.publish_endpoints(up=[])
    assert refusal(call(proxy, "/", "X-User: 1")) == (503, "UH")


# --- near and far --------------------------------------------------------------------------------------------------


def zoned(*origins: Origin, zones: str, unhealthy: str = "") -> list[dict[str, Any]]:
    """Endpoints in zones of one letter; those in `unhealthy` (their positions) are not."""
    return [
        {"address": o.address, "metadata": {"zone": zone}, "healthy": str(i) not in unhealthy}
        for i, (o, zone) in enumerate(zip(origins, zones, strict=True))
    ]


@pytest.fixture
def six(start_origin: StartOrigin) -> list[Origin]:
    """Origins that answer 0 to 5."""
    return start_named(start_origin, *"012345")


@pytest.mark.semantics(
    "traffic",
    "Endpoints in our zone come first, from 6 endpoints up; with `host`, those on this host before them",
    "services.*.locality",
    "zone",
)
@pytest.mark.parametrize(
    ("zones", "ours", "expected"),
    [
        ("aaabbb", {"zone": "a"}, "012"),
        ("aaabbb", {"zone": "a", "locality": "zone"}, "012"),
        ("aaabb", {"zone": "a"}, "01234"),
        ("aaabbb", {"zone": "c"}, "012345"),
        ("aaabbb", {}, "012345"),
        ("aaabbb", {"zone": "a", "locality": "off"}, "012345"),
    ],
)
def test_our_zone_comes_first_from_six_endpoints_up(
    proxy: Proxy, six: list[Origin], zones: str, ours: dict[str, Any], expected: str
) -> None:
    proxy.publish_endpoints(up=zoned(*six[: len(zones)], zones=zones))
    publish(proxy, balance="round_robin", **ours)
    assert set(spread(proxy, 60)) == set(expected)


def test_our_zone_comes_first_for_services_that_nobody_configured(proxy: Proxy, six: list[Origin]) -> None:
    proxy.publish_endpoints(up=zoned(*six, zones="ababab"))
    proxy.publish_routes(Config(zone="a"))
    assert set(spread(proxy, 60)) == {"0", "2", "4"}
    proxy.withdraw("routes")
    assert set(spread(proxy, 60)) & set("135")


def test_a_zone_takes_no_more_than_it_can(proxy: Proxy, six: list[Origin]) -> None:
    """Of three endpoints one is usable, so it takes 1.4 thirds (Envoy's overprovisioning)."""
    proxy.publish_endpoints(up=zoned(*six, zones="aaabbb", unhealthy="01"))
    publish(proxy, "a", balance="round_robin")
    counts = spread(proxy, 600)
    assert set(counts) == set("2345")
    assert 220 < counts["2"] < 340
    proxy.publish_endpoints(up=zoned(*six, zones="aaabbb", unhealthy="012"))
    assert set(spread(proxy, 60)) == set("345")


@pytest.mark.semantics(
    "traffic",
    "Endpoints in our zone come first, from 6 endpoints up; with `host`, those on this host before them",
    "services.*.locality",
)
def test_our_host_comes_first_then_our_zone(
    proxy: Proxy, six: list[Origin], start_origin: StartOrigin, short_path: Any
) -> None:
    """0.0.0.0 leads here as well, but is no address of a host by which one could know it."""
    local = named(start_origin(unix=short_path / "local.sock"), "unix")

    def endpoints(*, healthy: bool) -> list[dict[str, Any]]:
        far = [f"0.0.0.0:{origin.port}" for origin in six[1:]]
        here = [{"address": local.address, "healthy": healthy}, {"address": six[0].address, "healthy": healthy}]
        return [
            *({**endpoint, "metadata": {"zone": "b"}} for endpoint in here),
            *({"address": a, "metadata": {"zone": z}} for a, z in zip(far, "aabbb", strict=True)),
        ]

    proxy.publish_endpoints(up=endpoints(healthy=True))
    publish(proxy, "a", balance="round_robin", locality="host")
    assert set(spread(proxy, 40)) == {"unix", "0"}
    proxy.publish_endpoints(up=endpoints(healthy=False))
    assert set(spread(proxy, 40)) == {"1", "2"}


def test_our_host_comes_first_however_few_there_are(proxy: Proxy, three: list[Origin]) -> None:
    addresses = [three[0].address, f"0.0.0.0:{three[1].port}"]
    proxy.publish_endpoints(up=[{"address": address} for address in addresses])
    publish(proxy, balance="round_robin", locality="host")
    assert spread(proxy, 20) == {"0": 20}
    proxy.publish_endpoints(up=[{"address": a, "healthy": a != addresses[0]} for a in addresses])
    assert spread(proxy, 20) == {"1": 20}


# --- slow start ----------------------------------------------------------------------------------------------------

SLOW_START_S = 0.6


@pytest.mark.semantics(
    "traffic", "A new endpoint starts with a tenth of its share and is warm after `slow_start`", "services.*.slow_start"
)
def test_a_new_endpoint_starts_slowly(proxy: Proxy, three: list[Origin]) -> None:
    pause = threading.Event()
    publish(proxy, balance="round_robin", slow_start="600ms")
    publish_up(proxy, three[:2])
    assert set(spread(proxy, 20)) == {"0", "1"}
    assert not pause.wait(SLOW_START_S)
    publish_up(proxy, three)
    began = time.monotonic()
    newcomers = spread(proxy, 42)["2"]
    warm = min(1.0, (time.monotonic() - began) / SLOW_START_S)
    assert 1 <= newcomers <= 1 + 42 * max(0.1, warm) / (2 + max(0.1, warm)), "a tenth of its share to begin with"
    assert not pause.wait(SLOW_START_S)
    assert spread(proxy, 42)["2"] >= 13
