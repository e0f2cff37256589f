"""Names for the cases of parametrised tests."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """Return ``repr(value)`` without addresses and the orders of sets, the same in every process."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(repr, value))})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
