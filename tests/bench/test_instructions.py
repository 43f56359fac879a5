"""What is asserted of a request's cost: not its time, which is the machine's, but what it asks of the allocator."""

from __future__ import annotations

import os

import pytest

from tests.bench import instructions


def test_a_request_allocates_nothing() -> None:
    """Once pools and buffers are filled. What the worker's clock does beside it (a few times a second) may show."""
    if not instructions.available():
        if os.environ.get("CI") == "true":
            pytest.fail("valgrind is missing; run `make peers`")
        pytest.skip("valgrind is missing; run `make peers`")
    assert instructions.allocations() < 0.01
