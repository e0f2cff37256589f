"""What is written in C, in `native/`: the hot tier's maps, and the part of a table that needs no wait."""

from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextvars import Context
from typing import Any, Generic, Self, TypeVar, final

from warpstore.ephemeral import EphemeralFields
from warpstore.hot_tier import HotTier
from warpstore.keys import HotKey
from warpstore.record import Record
from warpstore.table import TTL, Key

_R = TypeVar("_R", bound=Record)
_T = TypeVar("_T")

DONE: int
PAUSE: int
LONG_WAY: int

def key_hash(key: HotKey) -> int:
    """Return the xxh3-64 of a hot key.

    Raises:
        ValueError: the key has more than 4,096 bytes.
        OverflowError: it has more than 64 bits.
        UnicodeEncodeError: it is no text.
    """

def slot_of(key: HotKey) -> int:
    """Return the slot of a hot key, 0 to 255; errors as for `key_hash`."""

def snug(value: bytes, /) -> bytes:
    """Return a value that an encoder gave in memory of its own size: it comes in a larger piece, cut to length."""

def set_values(maps: list[HotMap], first_slot: int, values: list[bytes], /) -> None:
    """Set values in the maps of a shard whose slots begin at ``first_slot``.

    Raises:
        ValueError: a value has no key, or one of another slot.
    """

def scatter(
    encode: Callable[[Any], tuple[int, HotKey, bytes]], records: list[Any], by_slot: list[list[bytes]], /
) -> None:
    """Append the value of each encoded record to the list of its slot.

    Cost:
        Nothing is kept a record but its value: a list of the encoded tuples would wake the collector again and again.
    """

def element_offsets(value: bytes, skip: int, indices: list[int], /) -> list[int]:
    """Return where elements of a MessagePack array begin.

    Args:
        value: Bytes with the array.
        skip: Where in them it begins.
        indices: Of the elements, in ascending order.

    Raises:
        ValueError: there is no array, it is cut off before the last of them, or has fewer elements.
    """

def all_of(items: Iterable[Any], cls: type, /) -> None:
    """Raise ``TypeError`` unless every item of a container is of exactly this class."""

def pairs_of(mapping: dict[Any, Any], key_cls: type, value_cls: type, /) -> None:
    """Raise ``TypeError`` unless all keys of a dict are of one class and all its values of another."""

def as_f4(number: float, /) -> float:
    """Return a number rounded to 32 bits, ties to even.

    Raises:
        OverflowError: it is out of their range.
    """

def in_order(items: list[Any], name: str, /) -> bool:
    """Return whether no item's attribute is less than that of the item before it."""

def adopt(records: list[Any], record_type: type) -> None:
    """Give every record the class ``record_type``, as assigning ``__class__`` does, without the checks.

    The caller knows that instances of both classes have the same layout.
    """

def merge(runs: list[Rows], limit: int, reverse: bool, /) -> Rows:
    """Return what comes first out of some runs, and take it out of them; ``is_last`` if nothing is left in any.

    Args:
        runs: The next rows of each run, none empty unless it is the run's last. Of rows with one key the first run's
            counts, and a tombstone leaves nothing.
        limit: How many rows to return at most; fewer if a run comes to the end of its rows and has more.
        reverse: From the end, in descending order.

    Raises:
        ValueError: a row is no stored value.

    Cost:
        A comparison of keys a run and a copy of the value, for each row.
    """

@final
class Rows:
    """Some values of a table in key order.

    Attributes:
        is_last: The run that they are of has no rows behind these.
        is_ordinary: Of merged rows: none has a deadline.
    """

    is_last: bool
    @property
    def is_ordinary(self) -> bool: ...
    @staticmethod
    def of_blocks(data: bytes, sizes: list[int], /) -> Rows:
        """Return the rows of a checkpoint's blocks, one behind another, of these sizes in bytes; ``data`` is kept.

        Raises:
            ValueError: the lengths in a block are wrong.
        """

    @staticmethod
    def of_keys(
        maps: list[HotMap], first_slot: int, keys: list[HotKey], bytes_max: int = ..., reverse: bool = ..., /
    ) -> Rows:
        """Return the rows of sorted keys that are in these maps, tombstones included.

        With ``bytes_max``, only of the first keys (the last ones, if ``reverse``) whose values come to as much: the row
        that gets there is the last to be taken.
        """

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> bytes: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def between(self, start: HotKey | None, stop: HotKey | None, /) -> None:
        """Keep the rows whose keys k are start <= k < stop; None is no bound."""

    def array(self) -> bytes:
        """Return merged rows as a MessagePack array of their values."""

    def has_split(self, passed: int, /) -> bool:
        """Return whether there is a split value; those with the tag ``passed`` are passed over, none if it is -1."""

def first_keys(lists: list[list[HotKey]], starts: list[int], stops: list[int], limit: int, /) -> list[HotKey]:
    """Return the first keys, at most ``limit``, of sorted lists, each from its start to its stop, in order."""

def columns(
    rows: Rows | tuple[bytes, ...], layout: str, tag: int, now_ms: int, recode: Callable[[bytes], bytes], /
) -> tuple[int, list[tuple[int, bytes | None, bytes | None, bytes]]]:
    """Return how many merged rows are live, and the values of their fields as Arrow's buffers.

    Args:
        rows: Merged rows, or such values. Those with another tag than ``tag`` go through ``recode`` first. Those past
            their deadline are left out. Of a split value the head is taken, which has to have all of the layout.
        layout: A word a field, from the key on, with spaces between: ``b h i q B H I Q e f d`` as in `struct`, ``o``
            bool, ``s`` text, ``y`` bytes, ``u`` 16 bytes, ``t`` a moment with a zone as int64 microseconds, ``r``
            anything, ``-`` to pass over. A count in front makes it a vector, a ``?`` behind it lets nil be a value.
        now_ms: Milliseconds since the epoch.

    Returns:
        For each word but ``-``: number of nils, bitmap of the others or None, int32 offsets or None, data. The data of
        ``r`` is a MessagePack array of the values.

    Raises:
        ValueError: a row does not have this layout. Arguments: words, place of the field or -1, row; as for the others.
        OverflowError: a value is out of its column's range.
        LookupError: a moment has no zone.
    """

@final
class Copier:
    """Copies records of one class, with the lists, dicts and sets in the named fields; their items are shared.

    Raises:
        TypeError: a field lies in no slot.
        ValueError: there are more than 64 fields.
    """

    def __new__(cls, record_type: type, fields: tuple[str, ...]) -> Copier: ...
    def __call__(self, record: Any, /) -> Any: ...

@final
class Decoder:
    """Makes records of a class with plain fields: scalars, and lists and dicts of scalars.

    Args:
        record_type: The class; one that the collector does not track. Its instances are made without ``__init__``.
        prefix: What opens every value: the head of its array and the tag.
        fields: Of each field in stored order: its name and class, of a list also that of the items, of a dict those of
            the keys and the values.
        slow: From a value to the record, or to the error; called with what is not as described.
    """

    def __new__(
        cls,
        *,
        record_type: type,
        prefix: bytes,
        fields: tuple[tuple[str | type, ...], ...],
        slow: Callable[[bytes | memoryview], Any],
    ) -> Decoder: ...
    def __call__(self, value: bytes | memoryview, /) -> Any: ...

@final
class Encoder:
    """Checks and encodes records of a class with plain fields: scalars, and containers of scalars.

    Args:
        record_type: The class.
        tag: What stands first in the array.
        fields: Of each field in stored order, the key first: its name, its exact class, the exact class of the items
            or keys in it, and that of a dict's values. For float an int is taken too.
        encode: From a tuple to bytes.
        slow: From a record to the same outcome, or to the error; called with what is not as declared.
        bytes_max: Longer values go to ``slow``.
    """

    def __new__(
        cls,
        *,
        record_type: type,
        tag: int,
        fields: tuple[tuple[str | type, ...], ...],
        encode: Callable[[tuple[Any, ...]], bytes],
        slow: Callable[[Any], tuple[int, HotKey, bytes]],
        bytes_max: int,
    ) -> Encoder: ...
    def __call__(self, record: Any, /) -> tuple[int, HotKey, bytes]: ...

class ChunkedIterator(Generic[_T]):
    """An asynchronous iterator over objects that come in lists.

    What is in the list at hand is given out at once.
    """

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[_T]: ...
    async def _next(self) -> _T:
        """Return the first object of the next list, by `_give`; the subclass has it.

        Raises:
            StopAsyncIteration: there are no more.
        """

    def _give(self, chunk: list[_T], /) -> _T:
        """Take in the next list, which is not empty and is used up, and return its first object."""

@final
class BatchFuture(Awaitable[None]):
    """The future that the messages of one batch share: asyncio's interface, but no waiter can cancel it for the others.

    It is settled first (`finish`, `fail`); then its callbacks run, all in one call: `wake`. asyncio's own future asks
    the loop for a handle a callback, which costs as much as the rest of a durable write.

    Args:
        loop: The loop of its waiters.

    Cancellation:
        ``cancel`` is refused. ``Task.cancel`` on a task that awaits this future is therefore delivered once the batch
        is done: a cancelled writer learns nothing early, and its message is handled. The same holds for
        ``asyncio.timeout`` and ``asyncio.wait_for``; to stop waiting at a deadline use ``asyncio.wait``.
    """

    def __init__(self, *, loop: AbstractEventLoop) -> None: ...
    def __await__(self) -> Generator[Any]: ...
    def finish(self) -> None:
        """Settle it, with None.

        Raises:
            asyncio.InvalidStateError: it was settled.
        """

    def fail(self, error: BaseException, /) -> None:
        """Settle it with an error; nobody complains if it is never looked at.

        Raises:
            asyncio.InvalidStateError: it was settled.
        """

    def wake(self) -> None:
        """Run the callbacks: all waiters go on before this returns.

        Call it where any code may run, and from no task: asyncio lets no task run within another, so a waiting one
        would be told of to the loop and never go on.

        Raises:
            asyncio.InvalidStateError: it is not settled.
            BaseException: what a callback raised, unless it is an Exception: that the loop is told. The callbacks
                behind it run in the loop's next turn.
        """

    def wake_soon(self) -> None:
        """Have the callbacks run in the loop's next turn."""

    def add_done_callback(
        self, function: Callable[[BatchFuture], object], /, *, context: Context | None = None
    ) -> None:
        """Have a function called, in a context, with this future when it is done; if it is, in the next turn."""

    def remove_done_callback(self, function: Callable[[BatchFuture], object], /) -> int:
        """Forget every callback that equals ``function``; return how many."""

    def result(self) -> None:
        """Return, or raise the error.

        Raises:
            asyncio.InvalidStateError: it is not settled.
        """

    def exception(self) -> BaseException | None:
        """Return the error.

        Raises:
            asyncio.InvalidStateError: it is not settled.
        """

    def done(self) -> bool:
        """Return whether it is settled."""

    def cancelled(self) -> bool:
        """Return False."""

    def cancel(self, msg: Any = None) -> bool:
        """Return False: the other waiters of the batch keep their answer."""

    def get_loop(self) -> AbstractEventLoop:
        """Return the loop of its waiters."""

@final
class MemoryPool:
    """Counts the bytes of hot maps, and whatever else is charged to it.

    Args:
        parent: A pool that counts the same bytes again.

    Attributes:
        n_bytes: Bytes charged.
        dirty_bytes: Those of values that are in no checkpoint yet.
    """

    n_bytes: int
    dirty_bytes: int

    def __init__(self, parent: MemoryPool | None = None) -> None: ...
    def charge(self, n_bytes: int, /) -> None:
        """Add bytes, or take some off."""

@final
class HotMap:
    """The values of one slot by hot key.

    A value is a stored record, which names its key, or the empty tombstone. Belongs to whoever holds the interpreter.

    Args:
        pool: What its bytes, of the table and of the values as the allocator rounds them, are charged to.
        dirty: Whether its values are in no checkpoint yet, so that they count as dirty.

    Attributes:
        n_bytes: What is charged for it.
    """

    n_bytes: int

    def __init__(self, pool: MemoryPool | None = None, dirty: bool = False) -> None: ...
    def __len__(self) -> int: ...
    def get(self, key: HotKey, /) -> bytes | None:
        """Return the key's value, the tombstone if it was deleted, None if the map does not know it."""

    def set(self, key: HotKey, value: bytes, /) -> None:
        """Set the key's value.

        Raises:
            ValueError: the value is of another key.
        """

    def update(self, newer: HotMap, /) -> None:
        """Set everything that ``newer`` holds, which nobody changes any more. It is not charged for any longer."""

    def forget(self, newer: HotMap, /) -> None:
        """Forget every key that ``newer`` holds."""

    def evict(self, n_bytes: int, /) -> int:
        """Forget values that were not looked up since this came by last; return the bytes that became free.

        Args:
            n_bytes: How many are wanted; it ends earlier after a look at every value.
        """

    def drop_tombstones(self) -> None:
        """Forget the keys that were deleted."""

    def items(self) -> list[tuple[HotKey, bytes]]:
        """Return keys and values, in no order."""

    def new_keys(self) -> list[HotKey]:
        """Return the keys that came since the last call; the first time all."""

class MemoryTable(Generic[_R]):
    """The part of a table that needs no wait: what is answered at once, from memory, in the thread that made it.

    Args:
        key_type: Exact type of the table's keys.
        key_bytes: Name of the attribute of a key that is its hot key; None if the key is.
        key_field: Name of the records' attribute with their key.
        record_type: The class of the records.
        encode: From a record to (slot, hot key, value).
        parse: From a value to a record; its class may be another one with the same layout, see `adopt`.
        parse_many: From a MessagePack array of values to a list of such records, or None if there is no such way.
        copy: From a record to one that shares no mutable part with it, or None if there is no such way.
        decode_error: What ``parse`` raises for values that are not ordinary ones.
        n_known: How many records are kept decoded, rounded down to a power of two; 0 to 16,777,216.
        puts_at_once: Whether a value is whole when its record is encoded; else every `put` is a ``_put``.
        ephemeral: The ephemeral fields, or None if the records have none.
    """

    def __init__(
        self,
        *,
        key_type: type,
        key_bytes: str | None,
        key_field: str,
        record_type: type[_R],
        encode: Callable[[_R], tuple[int, HotKey, bytes]],
        parse: Callable[[bytes], Any],
        parse_many: Callable[[bytes], list[Any]] | None,
        copy: Callable[[_R], _R] | None,
        decode_error: type[Exception],
        n_known: int,
        puts_at_once: bool,
        ephemeral: EphemeralFields | None,
    ) -> None: ...

    # The long ways, which the subclass has.

    async def _get(self, key: Any, /) -> _R | None: ...
    async def _put(self, record: _R, /, *, ttl: TTL | None = None, if_version: int | None = None) -> None: ...
    async def _write(self, encoded: tuple[int, HotKey, bytes], /) -> None:
        """Take a write that `put` could not."""

    async def _pause(self) -> None:
        """Let the loop turn."""

    # What it has

    def get(self, key: Key, /) -> Coroutine[Any, Any, _R | None]:
        """Return the record under a key, or None. It is the caller's own.

        Raises:
            ValidationError: the key has the wrong type.
            CorruptionError: the record's bytes on disk are damaged.

        Cost:
            In memory: no wait. On disk: two reads at most, and a thread hop only where they would block.
        """

    def put(self, record: _R, /, *, ttl: TTL | None = None, if_version: int | None = None) -> Coroutine[Any, Any, None]:
        """Store a record under its key, replacing the one there.

        Of a `Temporal` series it replaces the items that are still in the record; those that have left it for files
        stay, until the record is deleted or expires.

        Args:
            record: It is checked, and encoded at once: what the caller does to it later changes nothing stored. Its
                `Computed` fields, and `Gpu` fields rounded to their dtype, are set on it.
            ttl: Time to live; by default the type's, or for ever. A put without one ends an earlier one.
            if_version: Write only if the stored record still has this version (0: only if there is none).

        Raises:
            ValidationError: a field is wrong; it is named.
            LimitError: the key or the record is too large.
            VersionConflictError: the version is another.
            OutcomeUnknownError: the log failed during the write.
            DiskFullError: there is no space.

        Cost:
            "interval" and "memory": no wait. "fsync": one sync, shared with everything that was written meanwhile.
        """

    def _record(self, key: Any, /) -> _R | None:
        """Return the record under a key; None if it has to be got the long way. Every 1,024 calls it has to, once."""

    def _records(self, keys: list[Any], /) -> list[_R | None] | None:
        """Return the records under keys in their order; None if one of them has to be got the long way.

        Cost:
            The index lines, entries and values of 16 keys at a time are fetched from memory together; one call of
            ``parse_many``.
        """

    def _value(self, key: HotKey, /) -> bytes | None:
        """Return what memory holds for a hot key, the tombstone if it was deleted; None if the long way has to tell."""

    def _values(self, keys: list[Any], /) -> list[bytes] | None:
        """Return the values under keys in their order; None if one of them is not an ordinary one in memory."""

    def _writable_value(self, key: HotKey, /) -> bytes | None:
        """Return what `_value` does, if it is an ordinary value and `_write_now` would take another one; else None."""

    def _write_now(self, encoded: tuple[int, HotKey, bytes], /) -> int:
        """Take a relaxed write of (slot, hot key, value).

        Returns:
            ``DONE``; ``PAUSE``: done, and the loop should turn; ``LONG_WAY``: nothing was done.
        """

    def _spend(self, n: int, /) -> bool:
        """Count ``n`` reads; return whether the loop should turn now."""

    def _set_slot(
        self,
        slot: int,
        maps: tuple[HotMap, ...] | None,
        pending: list[bytes] | None,
        ask: Callable[[], None],
        post: Callable[[Any, int], BatchFuture] | None,
        tier: HotTier,
        /,
    ) -> None:
        """Open or close a slot.

        Args:
            slot: 0 to 255.
            maps: What reads look into, newest first; the first one takes writes. None: reads are closed.
            pending: Takes the payloads of relaxed writes. None: writes are closed.
            ask: Called before the first payload is put into ``pending``.
            post: Takes durable writes and their sizes, and returns the future of their group. None: they are closed.
            tier: The hot tier that they are for.
        """

    def _close_slots(self) -> None:
        """Close every slot, and forget the decoded records."""
