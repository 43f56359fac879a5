"""Files of certificates, as they are found before a start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pannier.shared.central import Certificates
from pannier.supervisor.certificates import findings

NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@pytest.fixture
def made(tmp_path: Path, require_peer: Callable[[str], str]) -> Callable[[str], tuple[str, str]]:
    """Makes a certificate that signs itself; the paths of it and of its key."""
    openssl = require_peer("openssl")

    def make(name: str) -> tuple[str, str]:
        certificate, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        files = ("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate))
        subprocess.run([openssl, *NEW, *files], check=True, capture_output=True)
        return str(certificate), str(key)

    return make


def found(certificate: str, key: str, authority: str) -> list[str]:
    return [f"{each.path[-1]}: {each.message}" for each in findings(Certificates(certificate, key, authority))]


def test_files_that_belong_together_are_right(made: Callable[[str], tuple[str, str]]) -> None:
    certificate, key = made("orders")
    assert found(certificate, key, certificate) == []
    assert findings(None) == []


def test_what_operators_get_wrong(made: Callable[[str], tuple[str, str]], tmp_path: Path) -> None:
    certificate, key = made("orders")
    _, other = made("stock")
    text = tmp_path / "text"
    text.write_text("no certificate\n")
    absent = str(tmp_path / "absent.pem")
    assert found(absent, key, certificate) == [f"certificate: cannot read {absent}: No such file or directory"]
    assert found(certificate, str(tmp_path), certificate) == [f"key: cannot read {tmp_path}: Is a directory"]
    (mismatch,) = found(certificate, other, certificate)
    assert mismatch.startswith(f"key: {other} is no key of {certificate}: ")
    (authority,) = found(certificate, key, str(text))
    assert authority.startswith(f"authority: {text} has no certificate")
    assert len(found(str(text), key, str(text))) == 2


def test_a_key_with_a_password_is_refused_since_nobody_can_be_asked(
    made: Callable[[str], tuple[str, str]], tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    certificate, key = made("orders")
    locked = str(tmp_path / "locked.key")
    command = [require_peer("openssl"), "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    (refused,) = found(certificate, locked, certificate)
    assert refused.startswith(f"key: {locked} is no key of")
