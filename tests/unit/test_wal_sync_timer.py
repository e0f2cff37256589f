"""The timer's thread: a tick for each arming, none when idle, none after the end."""

from __future__ import annotations

import threading

from wal import ThreadSyncTimer


def test_each_arming_brings_a_tick_in_another_thread() -> None:
    timer = ThreadSyncTimer()
    ticks: list[int] = []
    ticked = threading.Semaphore(0)

    def tick() -> None:
        ticks.append(threading.get_ident())
        ticked.release()

    timer.start(tick, 0.0)
    for _ in range(3):
        timer.arm()
        assert ticked.acquire(timeout=30)
    timer.stop()
    assert len(ticks) == 3
    assert threading.get_ident() not in ticks


def test_arming_twice_before_the_tick_brings_one() -> None:
    timer = ThreadSyncTimer()
    ticks: list[None] = []
    timer.start(lambda: ticks.append(None), 3600.0)
    timer.arm()
    timer.arm()
    timer.stop()
    assert ticks == []


def test_stopping_an_idle_timer_ends_its_thread_and_may_be_repeated() -> None:
    timer = ThreadSyncTimer()
    timer.stop()
    timer = ThreadSyncTimer()
    timer.start(lambda: None, 0.0)
    timer.stop()
    timer.stop()
    timer.arm()
    assert "wal-sync" not in {thread.name for thread in threading.enumerate()}
