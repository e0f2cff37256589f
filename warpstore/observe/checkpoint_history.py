"""What became of the checkpoints since a store was opened. The checkpointer may be restarted; this stays."""

from __future__ import annotations

from warpstore.clock import Clock


class CheckpointHistory:
    """Counts the checkpoints of an open store.

    Attributes:
        n_done: Those that did not fail.
        n_failed: Those that failed.
        n_bytes: Bytes of the files of those that did not fail.
        last_s: Seconds that the last one took, or None.
        last_at_s: When the last one that did not fail was finished, as unix seconds, or None.
        last_error: Why the last one failed, or None.
        running: Whether one is being written.
    """

    def __init__(self, clock: Clock) -> None:
        self.n_done = 0
        self.n_failed = 0
        self.n_bytes = 0
        self.last_s: float | None = None
        self.last_at_s: float | None = None
        self.last_error: BaseException | None = None
        self.running = False
        self._clock = clock
        self._began_s = 0.0

    def began(self) -> None:
        """Take in that one begins."""
        self.running = True
        self._began_s = self._clock.monotonic()

    def done(self, n_bytes: int) -> None:
        """Take in that it is finished, and the size of its files."""
        self._ended(None)
        self.n_done += 1
        self.n_bytes += n_bytes
        self.last_at_s = self._clock.wall()

    def failed(self, error: BaseException) -> None:
        """Take in that it failed."""
        self._ended(error)
        self.n_failed += 1

    def _ended(self, error: BaseException | None) -> None:
        self.running = False
        self.last_error = error
        self.last_s = self._clock.monotonic() - self._began_s
