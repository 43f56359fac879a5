"""Full-jitter exponential back-off, pure: the caller brings the attempt and the randomness, and does the sleeping.

Full jitter (uniform over the whole interval) and not "equal" or "decorrelated" jitter: after a common cause, such as
the supervisor's death, all peers come back at once, and full jitter spreads them best for the same total of attempts.
Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

_DOUBLINGS = 64


def full_jitter(attempt: int, *, base: float, cap: float, random: float) -> float:
    """Seconds to wait before attempt `attempt` (the first is 0): `random` (0 ≤ random < 1) times
    min(`cap`, `base` · 2^`attempt`). Raises `ValueError` for a negative attempt."""
    if attempt < 0:
        raise ValueError(f"attempt {attempt} is negative")
    return random * min(cap, base * 2.0 ** min(attempt, _DOUBLINGS))
