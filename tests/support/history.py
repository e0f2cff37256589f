"""Histories of concurrent calls on one key, and whether they are linearizable.

A call takes effect at one moment between its beginning and its end. A history is linearizable if there is an order of
such moments in which every call gives what it gave. A call that was cancelled may have taken effect or not, then or
later.

Source: J. Wing and C. Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of G. Lowe, "Testing for
linearizability" (2017): a state that was reached by the same calls is not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Step = Callable[[Any], tuple[Any, Any]]
"""From a key's value (None: absent) to the outcome of the call and the value after it."""


@dataclass(eq=False)
class Call:
    """One call on one key.

    Attributes:
        step: What it does.
        begun: When it was made; any clock that rises with every event.
        ended: When its outcome was known; infinite for a call that was cancelled.
        outcome: What it returned, or the type of the error that it raised.
    """

    step: Step
    begun: float
    ended: float = math.inf
    outcome: Any = None

    @property
    def is_sure(self) -> bool:
        """Whether it has certainly taken effect."""
        return self.ended < math.inf


def is_linearizable(calls: Sequence[Call], *, first: Any = None) -> bool:
    """Return whether some order explains all outcomes.

    Args:
        calls: Of one key, any order.
        first: The key's value before all of them.
    """
    seen: set[tuple[int, Any]] = set()
    stack: list[tuple[int, Any]] = [(0, first)]  # calls that took effect, as bits; the value after them
    sure = sum(1 << i for i, call in enumerate(calls) if call.is_sure)
    while stack:
        done, value = stack.pop()
        if done & sure == sure:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        left = [i for i in range(len(calls)) if not done >> i & 1]
        horizon = min(calls[i].ended for i in left)
        for i in left:
            if calls[i].begun <= horizon:
                outcome, after = calls[i].step(value)
                if not calls[i].is_sure or outcome == calls[i].outcome:
                    stack.append((done | 1 << i, after))
    return False
