"""The messages of `registry.proto`, as the table that they are made from.

The .proto is for others, who generate their clients from it; a test compares the two. What they mean is said there.
"""

from __future__ import annotations

from typing import Final

from pannier.shared.instances import State
from pannier.sidecars.pilot.protobuf import Messages, Table

PACKAGE: Final = "pannier.registry.v1"
SERVICE: Final = f"{PACKAGE}.Registry"

TABLE: Final[Table] = {
    PACKAGE: {
        "State": "enum STATE_UNSPECIFIED 0; STATE_STARTING 1; STATE_UP 2; STATE_DRAINING 3; STATE_DOWN 4",
        "Instance": "service string 1; id string 2; address string 3; state State 4; epoch int64 5; revision int64 6;"
        " metadata map<string,string> 7; suspect bool 8",
        "Service": "name string 1; instances Instance[] 2",
        "RegisterRequest": "service string 1; id string 2; address string 3; port uint32 4; ttl_ms uint32 5;"
        " epoch int64 6; state State 7; metadata map<string,string> 8",
        "RegisterResponse": "epoch int64 1; address string 2; ttl_ms uint32 3; renew_ms uint32 4; created bool 5",
        "DrainRequest": "service string 1; id string 2; epoch int64 3",
        "DrainResponse": "epoch int64 1; state State 2",
        "DeregisterRequest": "service string 1; id string 2; epoch int64 3",
        "DeregisterResponse": "",
        "GetRequest": "services string[] 1",
        "GetResponse": "revision int64 1; services Service[] 2",
        "WatchRequest": "services string[] 1; optional after int64 2",
        "WatchResponse": "revision int64 1; services Service[] 2; more bool 3",
    }
}

MESSAGES: Final = Messages(TABLE)
STATES: Final = {State.STARTING: 1, State.UP: 2, State.DRAINING: 3, State.DOWN: 4}
STATE_OF: Final = {number: state for state, number in STATES.items()}
