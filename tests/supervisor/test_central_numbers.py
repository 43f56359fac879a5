"""A profile's numbers are refused by Python exactly where the data path would refuse them: nothing passes one and not
the other."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from pannier import _native
from pannier.shared.central import CentralSettings, Enter, Leave
from pannier.shared.central_rules import FLAPS, findings
from pannier.shared.profile import Profile
from pannier.supervisor.central_table import controller

PERCENT = st.sampled_from([0.1, 1.0, 25.0, 100.0]) | st.floats(0.1, 100.0)
SHARE = st.sampled_from([-0.1, 0.0, 0.5, 0.8, 0.81, 1.0]) | st.floats(0.01, 1.0)
JITTER = st.sampled_from([-0.1, 0.0, 0.2, 0.5, 0.51])
DURATION = st.sampled_from([0, 1, 249, 250, 1_000, 2_000, 2_999, 3_000, 5_500, 6_875, 15_000, 30_000, 60_000]).map(
    "{}ms".format
)
ENTER = st.builds(Enter, PERCENT, PERCENT, PERCENT, DURATION, DURATION, DURATION)
CENTRAL = st.builds(
    CentralSettings,
    enter=st.just(Enter()) | ENTER,
    leave=st.just(Leave()) | st.builds(Leave, SHARE, DURATION),
    dwell=DURATION,
    jitter=JITTER,
    step_up=PERCENT,
    step_down=PERCENT,
)


@settings(max_examples=500, deadline=None)
@given(CENTRAL)
def test_both_refuse_the_same_numbers(central: CentralSettings) -> None:
    profile = Profile(central=central)
    here = [finding for finding in findings(profile, discovery=True, pilot=True) if finding.code == FLAPS]
    try:
        _native.central_check(msgspec.msgpack.encode(controller(central)))
    except ValueError as error:
        assert here, f"only the data path refuses: {error}"
    else:
        assert not here, "only the profile is refused"
