"""The broker: the supervisor's end of the bus. It connects peers; it decides nothing about them.

| file | concern | I/O |
| --- | --- | --- |
| `grants.py` | which token is which role, and what that role gets | none |
| `topics.py` | retained values, subscriptions, sequence numbers | none |
| `calls.py` | requests under way: whose, and where to | none |
| `rate.py` | how fast a peer may speak | none |
| `server.py` | `Broker`: connections, rights, routing | trio |

Losing the broker loses control, not traffic. Its retained values are the peers' own: they publish them again when they
reconnect, so nothing here is written anywhere.
"""

from pannier.supervisor.broker.grants import Grant, Grants
from pannier.supervisor.broker.server import Broker, BrokerStatistics, PeerStatistics

__all__ = ["Broker", "BrokerStatistics", "Grant", "Grants", "PeerStatistics"]
