"""The host of one's own and the app that is not ours, as the tests of the system have them."""

from tests.system.conftest import host, origin

__all__ = ["host", "origin"]
