"""What must not leave the host does not, wherever it stands; what helps stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pannier.supervisor.redaction import REDACTED, Redactor, is_hidden, secrets_of

SECRET = "hunter-Two"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"password = '{SECRET} and more'",
        f'DB_PASSWORD="{SECRET}" rest',
        f"db.password: {SECRET}",
        f'{{"api_key": "{SECRET}", "x": 1}}',
        f"{{'client-secret': '{SECRET}'}}",
        f"Authorization: Basic {SECRET}",
        f"authorized={SECRET}",
        f"authorization=Bearer {SECRET}",
        f"proxy-authorization: {SECRET} {SECRET}",
        f"sent bearer {SECRET}",
        f"Set-Cookie: sid={SECRET}; Path=/",
        f"GET /login?user=x&access_token={SECRET}&y=2",
        f"postgres://admin:{SECRET}@db.internal:5432/orders",
        f"redis://:{SECRET}@cache",
        f"amqp://{SECRET}@queue/vhost",
        f"https://user:p@ss{SECRET}@host/path",
        f"run --password {SECRET} --verbose",
        f"run --api-key={SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"X-Api-Key: {SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\nMII{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\nMII{SECRET}\nand it was cut",
        f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.c2ln",
    ],
)
def test_a_text_loses_its_secrets(text: str) -> None:
    assert SECRET not in Redactor().text(f"before {text} \nafter")


@pytest.mark.parametrize(
    "token",
    [
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "AKIAIOSFODNN7EXAMPLE1",
        "0123456789abcdef0123456789abcdef",
        "a1" * 32,
    ],
)
def test_what_looks_like_a_token_goes(token: str) -> None:
    assert token not in Redactor().text(f"it said {token}, twice {token}.")


@pytest.mark.parametrize(
    "text",
    [
        "orders is ready: inbound http://127.0.0.1:18090, outbound http://127.0.0.1:15090",
        "~ tell resilience: services.stock.breaker.consecutive_failures none → 5",
        "traffic ended (code 65); it is started again",
        "/usr/lib/python3.11/site-packages/pannier/supervisor/service.py",
        "MemTotal:       16374988 kB",
        'proxy | {"authority": "orders", "path": "/a", "status": 200}',
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "tree",
    [
        {"token": SECRET},
        {"auth": {"user": "x", "deep": [{"er": SECRET}]}},
        {"headers": {"x-tenant": SECRET}},
        {"request": {"set": {"x-upstream": SECRET}, "add": {"x-other": SECRET}}},
        {"metadata": {"note": SECRET}},
        {"env": {"A": SECRET}},
        {"url": f"https://u:{SECRET}@h/"},
        {"list": ["ok", f"token={SECRET}"]},
        {f"password={SECRET}": 1},
        [[[{"Passphrase": SECRET}]]],
    ],
)
def test_a_tree_loses_its_secrets(tree: Any) -> None:
    assert SECRET not in str(Redactor().tree(tree))


def test_a_tree_keeps_its_shape() -> None:
    tree = {"proxy": {"workers": 2, "ratio": 0.5, "on": True, "off": None}, "token": {"on": True, "n": 7, "t": "x"}}
    found = Redactor().tree(tree)
    assert found["proxy"] == tree["proxy"]
    assert found["token"] == {"on": True, "n": REDACTED, "t": REDACTED}


def test_what_is_known_goes_wherever_it_turns_up_in_any_form() -> None:
    known = 'p"w /ä\n!'
    redactor = Redactor([known, "abc"])
    assert redactor.text(f"x {known} y") == f"x {REDACTED} y"
    for form in (r"p\"w /ä\n!", r"p\"w /\u00e4\n!", "p%22w%20%2F%C3%A4%0A%21", "p%22w%20/%C3%A4%0A%21"):
        assert redactor.text(f"x {form} y") == f"x {REDACTED} y"
    assert redactor.text("abc") == "abc", "what is so short turns up by chance"


def test_of_two_known_values_the_longer_goes_whole() -> None:
    assert Redactor(["secure", "secure-and-longer"]).text("a secure-and-longer b") == f"a {REDACTED} b"


def test_what_settings_hide_is_known() -> None:
    tree = {"a": {"token": ["one", {"x": "two"}]}, "headers": {"h": "three"}, "open": "four"}
    assert set(secrets_of(tree)) == {"one", "two", "three"}
    assert is_hidden("X-API-KEY") and not is_hidden("workers")


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_is_too_odd(text: str) -> None:
    once = Redactor(["known-value"]).text(text)
    assert isinstance(once, str)


@settings(deadline=None)
@given(st.text(alphabet="abcdefgh1234567890", min_size=6, max_size=12), st.text(max_size=50), st.text(max_size=50))
def test_a_known_value_never_gets_through(secret: str, before: str, after: str) -> None:
    found = Redactor([secret]).text(before + secret + after)
    assert secret not in found.replace(REDACTED, "\0")
