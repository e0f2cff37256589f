"""What a read gives that may not wait for the disk and would have to."""

from __future__ import annotations

from typing import Final


class WouldBlock:
    """The type of `WOULD_BLOCK`."""

    def __repr__(self) -> str:
        return "WOULD_BLOCK"


WOULD_BLOCK: Final = WouldBlock()
