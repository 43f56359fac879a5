"""One proxy and one origin for a whole corpus: what one case leaves behind, the next one must not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proxy.origin import Origin
from tests.proxy.process import Proxy
from tests.proxy.wire import answer


class Door(NamedTuple):
    """A proxy that takes whatever authority, and the app behind it."""

    proxy: Proxy
    origin: Origin


@pytest.fixture
def door(short_path: Path) -> Iterator[Door]:
    """Both, to end with the test."""
    with closing(Origin()) as origin, closing(Proxy(short_path)) as proxy:
        origin.answer = lambda _: answer(b"")
        proxy.publish_base(app=origin.address, inbound={"hosts": ["*"]})
        proxy.start()
        yield Door(proxy, origin)
