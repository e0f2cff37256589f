"""The demo's one error of its own."""

from __future__ import annotations


class CannotRunError(Exception):
    """The demo cannot run here; its text says why and what to do."""
