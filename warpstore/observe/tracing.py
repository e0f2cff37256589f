"""OpenTelemetry spans for what takes time: open, recovery of a lane, checkpoint, backup, migration, close.

Spans need ``opentelemetry-api`` and a program that has imported it. A program that has not cannot have set up anything
that takes spans; so this looks into ``sys.modules`` and never imports the package for somebody else. Without it,
`Tracing.span` costs a look-up and a generator, where a checkpoint or an opening begins; nothing of it is on the way of
a get or a put. With ``trace_calls=True`` the tables are of another class, `TracedTable`, which makes spans for calls.

Names and attributes follow the semantic conventions for database spans. As in logs, no key, no value and no message of
an error goes out; an error is given by its type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from warpstore.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_SYSTEM = "warpstore"
Attribute = str | int | float | bool


class OpenSpan:
    """A span that is under way, or nothing where there is no OpenTelemetry."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set(self, name: str, value: Attribute | None) -> None:
        """Set an attribute; None sets nothing."""
        if self._span is not None and value is not None:
            self._span.set_attribute(name, value)

    def end(self, error: BaseException | None = None) -> None:
        """End it; with the type of what it failed with."""
        if self._span is None:
            return
        if error is not None and not isinstance(error, GeneratorExit):
            from opentelemetry.trace import Status, StatusCode

            kind = type(error)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            self._span.set_attribute("error.type", name)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Makes the spans of one store.

    Args:
        path: The store's folder, which is its ``db.namespace``.

    Attributes:
        opening: Whether the store is being opened: what its actors do belongs to that span then, and to none later.
        asked_by: Who asked for the next checkpoint: the contexts of those calls.
    """

    def __init__(self, path: str) -> None:
        self.opening = True
        self.asked_by: list[Context] = []
        self._attributes: dict[str, Attribute] = {"db.system.name": _SYSTEM, "db.namespace": path}

    def start(
        self,
        operation: str,
        *,
        table: str | None = None,
        under: Context | None = None,
        links: Sequence[Context] = (),
        attributes: Mapping[str, Attribute | None] | None = None,
    ) -> OpenSpan:
        """Return a started span; the caller ends it.

        Args:
            operation: What is done, in a word; the same word for all stores.
            table: The table it is done to.
            under: What it is a part of; None: what the caller is in.
            links: Further ones that it serves.
            attributes: More of it; None leaves one out.
        """
        if not is_loaded():
            return OpenSpan(None)
        from opentelemetry import trace

        told = {**self._attributes, "db.operation.name": operation}
        if table is not None:
            told["db.collection.name"] = table
        told |= {name: value for name, value in (attributes or {}).items() if value is not None}
        linked = [trace.Link(trace.get_current_span(context).get_span_context()) for context in links]
        return OpenSpan(
            trace.get_tracer("warpstore").start_span(
                f"{operation} {self._attributes['db.namespace'] if table is None else table}",
                context=under,
                kind=trace.SpanKind.INTERNAL,
                attributes=told,
                links=linked,
                record_exception=False,
                set_status_on_exception=False,
            )
        )

    @contextmanager
    def span(self, operation: str, **options: Any) -> Iterator[OpenSpan]:
        """Give a span around a block, as `start`; what the block does is a part of it, what it raises ends it."""
        span = self.start(operation, **options)
        if span._span is None:
            yield span
            return
        from opentelemetry import context, trace

        token = context.attach(trace.set_span_in_context(span._span))
        try:
            yield span
        except BaseException as error:
            span.end(error)
            raise
        else:
            span.end()
        finally:
            context.detach(token)

    def apart(self) -> Context | None:
        """Return what an actor's work is a part of: the opening while it lasts, else nothing."""
        if self.opening or not is_loaded():
            return None
        from opentelemetry.context import Context

        return Context()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Remember, while the block asks for a checkpoint, that its caller does."""
        if not is_loaded():
            yield
            return
        from opentelemetry import context

        asker = context.get_current()
        self.asked_by.append(asker)
        try:
            yield
        finally:
            self.asked_by = [other for other in self.asked_by if other is not asker]

    def asked(self) -> tuple[Context | None, list[Context]]:
        """Return what the checkpoint that begins is a part of, and the others who asked for it."""
        asked, self.asked_by = self.asked_by, []
        return (asked[0] if asked else self.apart()), asked[1:]


def is_loaded() -> bool:
    """Return whether the program uses the OpenTelemetry API."""
    return sys.modules.get("opentelemetry.trace") is not None


def require_api() -> None:
    """Load the OpenTelemetry API, for ``trace_calls=True``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import opentelemetry.trace  # noqa: F401
    except ImportError as e:
        raise ConfigError(
            "trace_calls=True needs opentelemetry-api: pip install 'warpstore[tracing]'", setting="trace_calls"
        ) from e
