"""Prometheus metrics, made of a store's statistics when they are scraped.

One concept: `StoreCollector`, a custom collector of ``prometheus_client`` (the extra ``[metrics]``). Nothing counts for
it while the store works. A scrape comes in a thread of its own as a rule, and statistics belong to the thread of the
store's loop: it has the loop gather them, and waits for that for a limited time. A store that is closed, or whose loop
does not answer in time, is shown as down (``warpstore_up 0``), and the scrape goes on.

Names follow Prometheus' conventions: a unit in the plural at the end, ``_total`` behind counts. Counts of a lane begin
anew when it is recovered, as a counter may.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from threading import Lock, get_ident
from typing import TYPE_CHECKING

from warpstore.errors import UsageError
from warpstore.observe.metrics import FAMILIES, UP, UP_WORDS
from warpstore.statistics import StoreStatistics
from warpstore.store import Store
from warpstore.synchronous import SyncStore

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
else:
    Collector = object  # the package is loaded when a collector is made, and asks only for ``collect``

TIMEOUT_S = 2.0


class StoreCollector(Collector):
    """Collects the metrics of stores. Make one with `prometheus_collector`, and register it once.

    Args:
        stores: By the value of the label ``store``.
        timeout_s: Seconds that a scrape waits for the stores' loops, in all.
    """

    def __init__(self, stores: Mapping[str, Store | SyncStore], timeout_s: float) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = Lock()
        self._timeout_s = timeout_s
        for name, store in stores.items():
            self.add(store, name)

    def add(self, store: Store | SyncStore, name: str | None = None) -> None:
        """Collect one more store from now on, under the label ``name``, by default its path.

        Raises:
            UsageError: another store has that name.
        """
        plain = store._store if isinstance(store, SyncStore) else store
        label = plain.path if name is None else name
        with self._lock:
            if label in self._stores:
                raise UsageError(f"two stores have the label {label!r}; give each a name of its own")
            self._stores[label] = plain

    def remove(self, store: Store | SyncStore) -> None:
        """Collect a store no more; nothing if it is not collected."""
        plain = store._store if isinstance(store, SyncStore) else store
        with self._lock:
            self._stores = {label: other for label, other in self._stores.items() if other is not plain}

    def describe(self) -> Iterator[Metric]:
        """Yield every metric without a sample, so that registering scrapes nothing."""
        yield from self._metrics({}).values()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of every store. From any thread, at any time, also after a store was closed.

        Cost:
            On each store's loop some 10 us a table and shard; the rest is done in the calling thread.
        """
        with self._lock:
            stores = dict(self._stores)
        yield from self._metrics(self._gathered(stores)).values()

    def _gathered(self, stores: Mapping[str, Store]) -> dict[str, StoreStatistics | None]:
        """Return the statistics of each store; None where there are none."""
        asked = {label: _ask(store) for label, store in stores.items()}
        deadline = time.monotonic() + self._timeout_s
        found: dict[str, StoreStatistics | None] = {}
        for label, answer in asked.items():
            try:
                found[label] = answer.result(max(0.0, deadline - time.monotonic()))
            except Exception:  # noqa: BLE001 - closed, forked, late: it is down, and the other stores are not
                answer.cancel()
                found[label] = None
        return found

    def _metrics(self, gathered: Mapping[str, StoreStatistics | None]) -> dict[str, Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        up = GaugeMetricFamily(UP, UP_WORDS, labels=("store",))
        metrics: dict[str, Metric] = {UP: up}
        for label, statistics in gathered.items():
            up.add_metric((label,), float(statistics is not None))
        for family in FAMILIES:
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = metrics[family.name] = make(f"warpstore_{family.name}", family.words, labels=family.labels)
            for label, statistics in gathered.items():
                for values, value in () if statistics is None else family.samples(statistics):
                    metric.add_metric((label, *values), value)
        return metrics


def prometheus_collector(
    *stores: Store | SyncStore, timeout_s: float = TIMEOUT_S, **named: Store | SyncStore
) -> StoreCollector:
    """Return a collector of the metrics of stores, to be registered with ``prometheus_client``.

    All stores of a program belong into one collector: two in one registry would give every metric twice.

    Args:
        *stores: Open stores, synchronous ones too; the label ``store`` is their path.
        timeout_s: Seconds that a scrape waits for the stores' loops, in all. More than 0.
        **named: Open stores by the value of the label.

    Raises:
        UsageError: ``prometheus_client`` is not installed, two stores have one label, or the timeout is wrong.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> registry = CollectorRegistry()
        >>> registry.register(prometheus_collector())
        >>> generate_latest(registry).splitlines()[0]
        b'# HELP warpstore_up Whether the store is open and its event loop answered in time.'
    """
    try:
        import prometheus_client.metrics_core  # noqa: F401
    except ImportError as e:
        raise UsageError("prometheus_collector needs prometheus_client: pip install 'warpstore[metrics]'") from e
    if not timeout_s > 0:
        raise UsageError(f"timeout_s={timeout_s!r}: must be more than 0")
    collector = StoreCollector(named, timeout_s)
    for store in stores:
        collector.add(store)
    return collector


def _ask(store: Store) -> Future[StoreStatistics]:
    """Have a store's loop gather its statistics; at once where this is its thread."""
    answer: Future[StoreStatistics] = Future()
    context = store._context
    if context.closed is not None:
        answer.set_exception(context.closed.with_traceback(None))
    elif get_ident() == context.thread:
        _answer(store, answer)
    else:
        try:
            context.loop.call_soon_threadsafe(partial(_answer, store, answer))
        except RuntimeError as e:  # the loop was closed, and the store with it or not
            answer.set_exception(e)
    return answer


def _answer(store: Store, answer: Future[StoreStatistics]) -> None:
    if not answer.set_running_or_notify_cancel():
        return  # whoever asked no longer waits
    try:
        answer.set_result(store.statistics())
    except Exception as e:  # noqa: BLE001 - it is the answer
        answer.set_exception(e)
