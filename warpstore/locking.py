"""The store's lock: one process owns a store, or some readers share it, or nobody has it.

The owner writes its process id into the lock file. Readers write nothing, so the file may name a former owner while
they share it; that is why a refusal asks first who refuses.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from wal import FileSystem, Lock
from warpstore.errors import StoreInUseError

LOCK_NAME = "LOCK"


class Owner(NamedTuple):
    """The process that owns a store: its id, or None if it left no readable one."""

    pid: int | None


def own(files: FileSystem, path: str) -> Lock:
    """Take the lock of the store at ``path`` for this process.

    Raises:
        StoreInUseError: another process owns the store, or readers share it.
        OSError: the lock file cannot be written.
    """
    for _ in range(2):
        try:
            return files.lock(f"{path}/{LOCK_NAME}", b"%d\n" % os.getpid())
        except BlockingIOError:
            owner = owner_of(files, path)
            if owner is not None:
                raise StoreInUseError(_in_use(path, owner), path=path, pid=owner.pid) from None
            # Readers share it. One that only looked who owns the store is gone by now, so it is tried once more.
    message = f"{path}: is being read by another program, such as `warpstore check`; try again when it ends"
    raise StoreInUseError(message, path=path, pid=None)


def share(files: FileSystem, path: str) -> Lock | None:
    """Keep owners away from the store at ``path``, as other readers may, too; writes nothing.

    Returns:
        The lock; None where there is no lock file: nobody has opened this copy of a store yet.

    Raises:
        StoreInUseError: a process owns the store.
        OSError: the lock file cannot be read.
    """
    try:
        return files.lock_shared(f"{path}/{LOCK_NAME}")
    except FileNotFoundError:
        return None
    except BlockingIOError as e:
        owner = _written_owner(files, path)
        raise StoreInUseError(_in_use(path, owner), path=path, pid=owner.pid) from e


def owner_of(files: FileSystem, path: str) -> Owner | None:
    """Return who owns the store at ``path``, or None.

    The lock is shared for an instant to find out; a process that opens the store in that instant tries once more.

    Raises:
        OSError: the lock file cannot be read.
    """
    try:
        lock = share(files, path)
    except StoreInUseError as e:
        return Owner(e.pid)
    if lock is not None:
        lock.close()
    return None


def _written_owner(files: FileSystem, path: str) -> Owner:
    file = files.open(f"{path}/{LOCK_NAME}")
    try:
        text = file.read(32, 0).strip()
    finally:
        file.close()
    return Owner(int(text) if text.isdigit() else None)


def _in_use(path: str, owner: Owner) -> str:
    return f"{path}: is in use by process {owner.pid or 'unknown'}"
