"""pyarrow, which is optional: imported at first use, and missed by name."""

from __future__ import annotations

from typing import Any

from warpstore.errors import MissingExtraError


def load_pyarrow() -> Any:
    """Return the module ``pyarrow``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as e:
        raise MissingExtraError(
            "Arrow and Parquet need pyarrow: pip install 'warpstore[arrow]' (JSON Lines needs nothing)", extra="arrow"
        ) from e
    return pa
