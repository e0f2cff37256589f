"""The file formats by name and by suffix."""

from __future__ import annotations

import os
from typing import Literal

from warpstore.errors import ValidationError

Format = Literal["parquet", "arrow", "jsonl"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def format_of(path: str, given: Format | None) -> Format:
    """Return the format of a file, by its suffix unless it is given.

    Raises:
        ValidationError: there is no such format, or the suffix says none.
    """
    if given is not None:
        if given not in SUFFIXES.values():
            raise ValidationError(f"format={given!r}: use parquet, arrow or jsonl", field="format")
        return given
    found = SUFFIXES.get(os.path.splitext(path)[1].lower())
    if found is None:
        raise ValidationError(f"{path}: its suffix is none of {', '.join(SUFFIXES)}; give format=", field="path")
    return found
