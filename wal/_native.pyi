"""What is written in C, in `native/`: the body of a frame, durable writes through Linux's asynchronous I/O, holes."""

from typing import final

def pack_checked(kind: int, stream: int, lsn: int, durable: int, payloads: list[bytes] | tuple[bytes, ...], /) -> bytes:
    """Return what the checksum of a frame covers: the rest of its header, the lengths and the payloads.

    Raises:
        TypeError: a payload is no bytes.
        ValueError: a number does not fit its place.
    """

def punch_hole(fd: int, start: int, stop: int, /) -> None:
    """Free the blocks that lie whole between two offsets; all between reads as zeros, and the size stays (fallocate).

    Raises:
        OSError: the file system cannot, or the file may not be written.
    """

@final
class Aio:
    """One durable write at a time: O_DIRECT, RWF_DSYNC, and an eventfd that becomes readable when it has ended.

    Raises:
        OSError: the kernel has no such interface, or no room for another user of it.
    """

    def fileno(self) -> int:
        """Return the eventfd; -1 once it is closed."""

    def submit(self, fd: int, buffers: list[bytes], offset: int, /) -> None:
        """Start a write of buffers one after another; they are copied.

        Raises:
            OSError: the kernel refuses it; nothing was written.
            RuntimeError: one is under way, or this is closed.
        """

    def reap(self) -> int | None:
        """Return the bytes written, or less than 0, the negative error number; None while no write has ended.

        A write that was cut short is an EIO.
        """

    def close(self) -> None:
        """Release it, after the write under way has ended. Idempotent."""
