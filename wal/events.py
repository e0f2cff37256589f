"""Log events: ``event=name key=value ...``, through the standard library's logging.

One concept: `log_event`, by which every module of wal and warpstore logs, to a logger of its own name. The names of the
events and of their keys are a vocabulary (``warpstore/observe/EVENTS.md``), to which a test holds every call.

A record's key or value is never in an event. So an exception is given as the name of its type; `OSError` with the name
of its errno, and with its message only an exception whose class sets ``is_loggable``, which promises that its messages
name files and actors, and nothing stored. Handlers that want more than text find ``event`` and ``fields`` on the log
record.
"""

from __future__ import annotations

import errno
import json
import logging

Value = str | int | float | BaseException | None


def log_event(logger: logging.Logger, level: int, event: str, /, **fields: Value) -> None:
    """Log an event.

    Args:
        logger: The module's.
        level: One of logging's.
        event: Its name in the vocabulary.
        **fields: What the vocabulary says, with units in the names.

    Example:
        >>> import sys
        >>> logger = logging.Logger("example")
        >>> logger.addHandler(logging.StreamHandler(sys.stdout))
        >>> log_event(
        ...     logger, logging.WARNING, "segment_not_made", number=7, error=OSError(28, "No space left on device")
        ... )
        event=segment_not_made number=7 error=OSError:ENOSPC
    """
    if not logger.isEnabledFor(level):
        return
    plain = {name: error_words(value) if isinstance(value, BaseException) else value for name, value in fields.items()}
    text = "".join(f" {name}={_text(value)}" for name, value in plain.items())
    logger.log(level, "event=%s%s", event, text, extra={"event": event, "fields": plain}, stacklevel=2)


def error_words(error: BaseException) -> str:
    """Return an exception as it may be logged: never a message that might hold a key or a value."""
    name = type(error).__name__
    if getattr(error, "is_loggable", False):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}:{errno.errorcode.get(error.errno, error.errno)}"
    return name


def _text(value: object) -> str:
    """Return a value in one word, in JSON's quotes where it is more than one."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    is_word = text.isprintable() and not set(text) & set(' "=')
    return text if text and is_word else json.dumps(text, ensure_ascii=False)
