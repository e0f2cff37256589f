r"""Keys as fixed words whose plain comparison is the order of the keys.

Scalars become ``uint64``: int64 with its sign bit flipped, uint64 as it is, float64 with the sign bit flipped
(positive) or all bits flipped (negative; -0.0 is 0.0, NaN is refused).

Wide keys (str as UTF-8, bytes, UUID) become fixed strings: the key padded with zeros to 32 bytes (16 for UUID) and then
one byte with its length. ``memcmp`` of two words orders by key, and the length tells ``b"a"`` from ``b"a\0"``. NumPy
compares `S` arrays as padded with zeros, so a word that ends in zeros (only the empty key, length 0) is compared
rightly too. A key of more than 32 bytes is stored as its xxh3-128 digest with the length byte 255, which no short key
has. Its word says nothing about its order, and two keys could share it, so the full key travels beside the word
(``KeyBatch.full``) and whoever finds the word compares it.

The trap: NumPy drops trailing NULs when an element of an `S` or `U` array is read. ``np.array([b"a\0"])`` holds no
longer the key ``b"a\0"`` but ``b"a"``, and is taken as such here. Keys with trailing NULs must come in lists or object
arrays.

Called by the slab for every batch; nothing here keeps state.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from gpu_kernels.errors import KeyTypeError

KeyKind: TypeAlias = Literal["int", "uint", "float", "str", "bytes", "uuid"]
Words: TypeAlias = NDArray[Any]  # uint64[n], or S33[n] / S17[n] for wide keys
Keys: TypeAlias = NDArray[Any] | Sequence[Any]

WIDE_KEY_BYTES_MAX = 32
LONG_KEY_MARK = 255
LONG_BOUND_MARK = 254

_SIGN = np.uint64(1 << 63)
_SCALAR_DTYPES: dict[str, type[np.generic]] = {"int": np.int64, "uint": np.uint64, "float": np.float64}


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """A batch of keys as words.

    Attributes:
        words: ``uint64[n]``, or ``S33[n]`` (``S17[n]`` for UUID).
        full: ``object[n]`` with the bytes of each key longer than 32 bytes and None elsewhere; None if there is none.
        absent: ``bool[n]``, True where a query lies outside its kind and so cannot be stored; None if there is none.
    """

    words: Words
    full: NDArray[np.object_] | None = None
    absent: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.words)


def word_dtype(kind: KeyKind) -> np.dtype[Any]:
    """Return the dtype of the words of ``kind``.

    Raises:
        KeyTypeError: There is no such kind.
    """
    if kind not in get_args(KeyKind):
        raise KeyTypeError(f"unknown key kind {kind!r}; one of {', '.join(get_args(KeyKind))}")
    if kind in _SCALAR_DTYPES:
        return np.dtype(np.uint64)
    return np.dtype(f"S{(16 if kind == 'uuid' else WIDE_KEY_BYTES_MAX) + 1}")


def key_words(keys: Keys, kind: KeyKind, *, query: bool = True) -> KeyBatch:
    r"""Return the words of a batch of keys.

    Args:
        keys: Integer arrays for "int" and "uint", numeric ones for "float"; `S`, `U` or object arrays for "str"; `S` or
            object arrays for "bytes"; ``S16``, ``V16`` or object arrays for "uuid"; or a list for each. `S` and `U`
            arrays cannot hold trailing NULs (see the module). An `S` array for "str" is read as UTF-8.
        kind: The kind of the stored keys.
        query: True for look-ups, where an integer outside int64 (uint64 for "uint") is merely absent; False for writes,
            where it is an error.

    Raises:
        KeyTypeError: A key is of another type, NaN, or (not in queries) out of range; it names the element.

    Example:
        >>> key_words([-1, 0, 1], "int").words.tolist() == [2**63 - 1, 2**63, 2**63 + 1]
        True
        >>> [word[-1] for word in key_words(["ab", "a\0"], "str").words.tolist()]
        [2, 2]
    """
    word_dtype(kind)
    if isinstance(keys, (str, bytes)) or not isinstance(keys, (np.ndarray, Sequence)):
        raise KeyTypeError(f"keys must be an array or a list, not {type(keys).__name__}")
    if isinstance(keys, np.ndarray) and keys.ndim != 1:
        raise KeyTypeError(f"keys must have one dimension, not {keys.ndim}")
    if kind in _SCALAR_DTYPES:
        return _scalar_words(keys, kind, query=query)
    if isinstance(keys, np.ndarray) and keys.dtype.kind != "O":
        return _array_words(keys, kind)
    return _wide_words(keys.tolist() if isinstance(keys, np.ndarray) else keys, kind)


def bound_words(batch: KeyBatch) -> Words:
    """Return words that compare with short keys as the batch's keys do, also where those are long."""
    if batch.full is None:
        return batch.words
    words = batch.words.copy()
    for i in np.flatnonzero(batch.full.astype(bool)):
        words[i] = batch.full[i][:WIDE_KEY_BYTES_MAX].ljust(WIDE_KEY_BYTES_MAX, b"\0") + bytes([LONG_BOUND_MARK])
    return words


def is_long(words: Words) -> NDArray[np.bool_]:
    """Return where words stand for keys of more than 32 bytes (``bool[n]``)."""
    long: NDArray[np.bool_] = word_bytes(words)[:, -1] == LONG_KEY_MARK
    return long


def word_bytes(words: Words) -> NDArray[np.uint8]:
    """Return wide words as ``uint8[n, 33]`` (17 for UUID); a view where they are contiguous."""
    return np.ascontiguousarray(words).view(np.uint8).reshape(len(words), words.dtype.itemsize)


def keys_of(words: Words, kind: KeyKind, full: NDArray[np.object_] | None = None) -> NDArray[Any]:
    """Return the keys behind words: int64, uint64 or float64 arrays, or an object array of str, bytes or UUID."""
    if kind == "int":
        return (words ^ _SIGN).view(np.int64)
    if kind == "uint":
        return words.copy()
    if kind == "float":
        return np.where(words >= _SIGN, words ^ _SIGN, ~words).view(np.float64)
    keys = np.empty(len(words), object)
    width = words.dtype.itemsize
    flat = np.ascontiguousarray(words).tobytes()
    for i in range(len(words)):
        at = i * width
        long = full[i] if full is not None else None
        raw = long if long is not None else flat[at : at + flat[at + width - 1]]
        keys[i] = raw if kind == "bytes" else raw.decode() if kind == "str" else uuid.UUID(bytes=raw)
    return keys


def _scalar_words(keys: Keys, kind: KeyKind, *, query: bool) -> KeyBatch:
    dtype = _SCALAR_DTYPES[kind]
    absent: NDArray[np.bool_] | None = None
    if isinstance(keys, np.ndarray) and keys.dtype.kind != "O":
        if keys.dtype.kind not in ("iuf" if kind == "float" else "iu"):
            raise KeyTypeError(f"{kind} keys cannot be {keys.dtype} values", index=0 if len(keys) else None)
        array = keys
        if kind == "int" and keys.dtype == np.uint64:
            absent = keys > np.uint64(2**63 - 1)
        elif kind == "uint" and keys.dtype.kind == "i":
            absent = keys < 0
    else:
        array, absent = _scalars_of_objects(keys, kind)
    if absent is not None:
        if not absent.any():
            absent = None
        elif not query:
            at = int(absent.argmax())
            raise KeyTypeError(f"key {at} is outside {np.dtype(dtype)}", index=at)
    if kind == "float":
        floats = array.astype(np.float64) + 0.0  # -0.0 becomes 0.0
        nan = np.isnan(floats)
        if nan.any():
            raise KeyTypeError(f"key {int(nan.argmax())} is NaN, which has no order", index=int(nan.argmax()))
        bits = floats.view(np.uint64)
        return KeyBatch(np.where(bits >= _SIGN, ~bits, bits | _SIGN))
    words = np.ascontiguousarray(array.astype(dtype, copy=False)).view(np.uint64)
    return KeyBatch(words ^ _SIGN if kind == "int" else words, absent=absent)


def _scalars_of_objects(keys: Keys, kind: KeyKind) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    numbers: tuple[type, ...] = (int, float, np.integer, np.floating) if kind == "float" else (int, np.integer)
    for kind_of in set(map(type, keys)):
        if not issubclass(kind_of, numbers) or issubclass(kind_of, bool):
            at = next(i for i, key in enumerate(keys) if type(key) is kind_of)
            raise KeyTypeError(f"key {at} is a {kind_of.__name__}, not {kind}", index=at)
    try:
        return np.array(keys, _SCALAR_DTYPES[kind]), None
    except OverflowError:
        if kind == "float":
            raise KeyTypeError("an int key is too large for float64") from None
    low, high = (-(2**63), 2**63 - 1) if kind == "int" else (0, 2**64 - 1)
    outside = [not low <= key <= high for key in keys]
    inside = [0 if out else int(key) for out, key in zip(outside, keys, strict=True)]
    return np.array(inside, _SCALAR_DTYPES[kind]), np.array(outside)


def _array_words(keys: NDArray[Any], kind: KeyKind) -> KeyBatch:
    """Words of an `S`, `U` or `V16` array, without a Python object per key where all are ASCII or bytes."""
    accepted = {"str": "SU", "bytes": "S", "uuid": "SV"}[kind]
    if keys.dtype.kind not in accepted or (kind == "uuid" and keys.dtype.itemsize != 16):
        raise KeyTypeError(f"{kind} keys cannot be {keys.dtype} values", index=0 if len(keys) else None)
    n, width = len(keys), keys.dtype.itemsize
    if keys.dtype.kind == "U":
        keys = np.ascontiguousarray(keys.astype(keys.dtype.newbyteorder("="), copy=False))
        width //= 4
        points = keys.view(np.uint32).reshape(n, width)
        if (points >= 128).any():
            return _wide_words(keys.tolist(), kind)
        lengths, raw = np.strings.str_len(keys), points.astype(np.uint8)
    else:
        keys = np.ascontiguousarray(keys)
        raw = keys.view(np.uint8).reshape(n, width)
        lengths = np.full(n, 16) if kind == "uuid" else np.strings.str_len(keys)
        if kind == "str" and (raw >= 128).any():
            _check_utf8(keys)
    words = np.zeros((n, word_dtype(kind).itemsize), np.uint8)
    kept = min(width, words.shape[1] - 1)
    words[:, :kept] = raw[:, :kept]
    words[:, -1] = np.minimum(lengths, LONG_KEY_MARK)
    full: NDArray[np.object_] | None = None
    long = np.flatnonzero(lengths > WIDE_KEY_BYTES_MAX)
    if long.size:
        full = np.empty(n, object)
        for i in long:
            full[i] = raw[i, : lengths[i]].tobytes()
            words[i] = np.frombuffer(_long_word(full[i]), np.uint8)
    return KeyBatch(words.view(word_dtype(kind)).reshape(n), full)


def _check_utf8(keys: NDArray[Any]) -> None:
    for i, key in enumerate(keys.tolist()):
        try:
            key.decode()
        except UnicodeDecodeError:
            raise KeyTypeError(f"key {i} is not UTF-8", index=i) from None


def _wide_words(keys: Sequence[Any], kind: KeyKind) -> KeyBatch:
    """Words of Python objects; NumPy pads the encoded keys (measured: 245 ns a 13-byte str, 420 ns if padded here)."""
    expected: type = {"str": str, "bytes": bytes, "uuid": uuid.UUID}[kind]
    for kind_of in set(map(type, keys)):
        if not issubclass(kind_of, expected):
            at = next(i for i, key in enumerate(keys) if type(key) is kind_of)
            raise KeyTypeError(f"key {at} is a {kind_of.__name__}, not {kind}", index=at)
    encoded = _encoded(keys, kind)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    full: NDArray[np.object_] | None = None
    long = np.flatnonzero(lengths > WIDE_KEY_BYTES_MAX)
    if long.size:
        full = np.empty(len(keys), object)
        for i in long.tolist():
            full[i] = encoded[i]
            encoded[i] = _long_word(encoded[i])
        lengths[long] = LONG_KEY_MARK
    words = np.array(encoded, word_dtype(kind))
    word_bytes(words)[:, -1] = lengths
    return KeyBatch(words, full)


def _encoded(keys: Sequence[Any], kind: KeyKind) -> list[bytes]:
    if kind == "bytes":
        return list(keys)
    if kind == "uuid":
        return [key.bytes for key in keys]
    try:
        return [key.encode() for key in keys]
    except UnicodeEncodeError as error:
        at = next(i for i, key in enumerate(keys) if key == error.object)
        raise KeyTypeError(f"key {at} holds a lone surrogate and has no UTF-8", index=at) from None


def _long_word(key: bytes) -> bytes:
    return xxhash.xxh3_128_digest(key).ljust(WIDE_KEY_BYTES_MAX, b"\0") + bytes([LONG_KEY_MARK])
