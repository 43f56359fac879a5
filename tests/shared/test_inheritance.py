"""What the keeper writes into PANNIER_FDS is read back, and nothing else is."""

from __future__ import annotations

import pytest
from pannier.shared.errors import PannierError
from pannier.shared.inheritance import inherited_fds


def test_names_and_numbers_are_read() -> None:
    assert inherited_fds({"PANNIER_FDS": "table.base=5,metrics.0=17"}) == {"table.base": 5, "metrics.0": 17}


@pytest.mark.parametrize("environ", [{}, {"PANNIER_FDS": ""}, {"OTHER": "a=1"}])
def test_nothing_inherited_is_no_error(environ: dict[str, str]) -> None:
    assert inherited_fds(environ) == {}


@pytest.mark.parametrize("text", ["a", "a=", "=5", "a=x", "a=-1", "a=1,", "a=1,a=2", "a=1 ", "a=²"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PannierError, match="NAME=NUMBER"):
        inherited_fds({"PANNIER_FDS": text})
