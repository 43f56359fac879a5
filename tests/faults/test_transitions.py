"""Random ways through stages and sets of sidecars, under load: nothing fails, and who is not concerned goes on.

The long form is the row `transitions` of `make faults`.
"""

from __future__ import annotations

from tests.faults.transitions import Service, walk
from tests.system.host import Host, free_port
from tests.system.load import Load
from tests.system.origin import Origin

WALKS, STEPS = 3, 4


def test_no_transition_fails_a_request_or_touches_who_is_not_concerned(host: Host, origin: Origin) -> None:
    port = free_port()
    given = f'services.stock=[{{ address = "127.0.0.1:{port}" }}]'
    origin.serve("orders", "--set", given, port=port)
    service = Service(host, [given])
    urls = host.urls("orders")
    with Load(urls["inbound"], "orders", rate=300) as asked, Load(urls["outbound"], "stock", rate=300) as called:
        walk(service, walks=WALKS, steps=STEPS)
    asked.assert_all_answered()
    called.assert_all_answered()
    assert service.transitions >= STEPS * (WALKS - 1)
