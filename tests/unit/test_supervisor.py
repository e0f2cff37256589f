"""Supervisors: the order of starts and stops, the strategies, the intensity, and escalation exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.virtual_loop import VirtualClock, VirtualLoop, run_virtual, virtual
from warpstore.actor import Actor
from warpstore.errors import ActorStoppedError, CallTimeoutError, DiskFullError, ReadOnlyStoreError, UsageError
from warpstore.process import SHUTDOWN, Process, Reason, State
from warpstore.supervisor import ChildSpec, Restart, Strategy, Supervisor


class NoSpaceError(DiskFullError):
    counts_as_restart = False


class World:
    """Makes children that note their starts and stops, and crashes them on demand."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.born: dict[str, list[Child]] = {}
        self.start_errors: dict[str, list[Exception]] = {}
        self.start_s: dict[str, float] = {}
        self.stop_errors: dict[str, Exception] = {}
        self.stop_s: dict[str, float] = {}
        self.escalations: list[ReadOnlyStoreError] = []

    def spec(self, name: str, restart: Restart = "permanent", **settings: Any) -> ChildSpec:
        return ChildSpec(name, lambda: Child(name, self), restart, **settings)

    def supervisor(self, *specs: ChildSpec, escalates: bool = True, **settings: Any) -> Supervisor:
        clock = VirtualClock(asyncio.get_running_loop())
        on_escalate = self.escalations.append if escalates else None
        return Supervisor(specs, clock=clock, on_escalate=on_escalate, **settings)

    def last(self, name: str) -> Child:
        return self.born[name][-1]

    def crash(self, name: str, error: Exception | None = None) -> None:
        self.last(name).cast_nowait(error or ZeroDivisionError(name))

    def cleared_log(self) -> list[str]:
        log, self.log = self.log, []
        return log


class Child(Actor[Any, Any]):
    def __init__(self, name: str, world: World) -> None:
        super().__init__(name)
        self.world = world
        world.born.setdefault(name, []).append(self)

    async def on_start(self) -> None:
        await asyncio.sleep(self.world.start_s.get(self.name, 0.0))
        errors = self.world.start_errors.get(self.name)
        if errors:
            raise errors.pop(0)
        self.world.log.append(f"+{self.name}")

    async def on_stop(self) -> None:
        await asyncio.sleep(self.world.stop_s.get(self.name, 0.0))
        self.world.log.append(f"-{self.name}")
        if self.name in self.world.stop_errors:
            raise self.world.stop_errors[self.name]

    def handle(self, message: Any) -> Any:
        if isinstance(message, Exception):
            self.world.log.append(f"!{self.name}")
            raise message
        return message


async def settle(seconds: float = 0.001) -> None:
    await asyncio.sleep(seconds)


def states(supervisor: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in supervisor.which_children()}


def n_timers() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.n_timers


# Start and stop.


@virtual
async def test_children_start_in_order_and_stop_in_reverse() -> None:
    world = World()
    supervisor = world.supervisor(*(world.spec(name) for name in "abc"))
    assert states(supervisor) == dict.fromkeys("abc", "gone")
    await supervisor.start()
    assert states(supervisor) == dict.fromkeys("abc", "running")
    assert world.cleared_log() == ["+a", "+b", "+c"]
    await supervisor.stop()
    assert world.log == ["-c", "-b", "-a"]
    assert supervisor.state is State.STOPPED
    await supervisor.stop()


@virtual
async def test_a_start_that_fails_stops_the_started_in_reverse_and_raises() -> None:
    world = World()
    world.start_errors["c"] = [OSError("no disk")]
    supervisor = world.supervisor(*(world.spec(name) for name in "abcd"))
    with pytest.raises(OSError, match="no disk"):
        await supervisor.start()
    assert world.log == ["+a", "+b", "-b", "-a"]
    assert supervisor.state is State.CRASHED
    assert world.escalations == []


@virtual
async def test_a_cancelled_start_stops_the_started_in_reverse() -> None:
    world = World()
    world.start_s["b"] = 5.0
    supervisor = world.supervisor(world.spec("a"), world.spec("b"))
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1.0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert world.log == ["+a", "-a"]
    assert supervisor.state is State.STOPPED
    assert world.last("b").reason == SHUTDOWN


@virtual
async def test_a_stop_during_the_start_cancels_it_and_stops_the_started() -> None:
    world = World()
    world.start_s["b"] = 5.0
    supervisor = world.supervisor(world.spec("a"), world.spec("b"), world.spec("c"))
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1.0)
    await supervisor.stop()
    with pytest.raises(ActorStoppedError, match="while it started"):
        await start
    assert world.log == ["+a", "-a"]


@virtual
async def test_a_child_may_come_from_an_async_function_that_starts_it() -> None:
    world = World()

    async def begin() -> Process:
        child = Child("a", world)
        await child.start()
        return child

    supervisor = world.supervisor(ChildSpec("a", begin))
    await supervisor.start()
    world.crash("a")
    await settle()
    assert world.log == ["+a", "!a", "+a"]
    await supervisor.stop()


@virtual
async def test_a_supervisor_is_started_once_and_one_never_started_can_be_stopped() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    await supervisor.start()
    with pytest.raises(UsageError, match="started once"):
        await supervisor.start()
    await supervisor.stop()
    unused = world.supervisor(world.spec("b"))
    await unused.stop()
    assert unused.state is State.STOPPED


@virtual
async def test_declarations_that_contradict_themselves_are_refused() -> None:
    world = World()
    with pytest.raises(UsageError, match="two children of one name"):
        world.supervisor(world.spec("a"), world.spec("a"))
    with pytest.raises(UsageError, match="one_for_none"):
        world.supervisor(strategy="one_for_none")
    with pytest.raises(UsageError, match="no child 'x'"):
        world.supervisor(world.spec("a")).child("x")


@virtual
async def test_a_child_that_raises_on_stop_does_not_keep_the_others_from_stopping() -> None:
    world = World()
    world.stop_errors["b"] = OSError("last sync failed")
    supervisor = world.supervisor(*(world.spec(name) for name in "abc"))
    await supervisor.start()
    world.cleared_log()
    with pytest.raises(OSError, match="last sync failed"):
        await supervisor.stop()
    assert world.log == ["-c", "-b", "-a"]
    assert supervisor.state is State.STOPPED


@virtual
async def test_a_child_that_does_not_stop_in_its_time_is_killed_and_the_next_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    world = World()
    world.stop_s["b"] = 3600.0
    supervisor = world.supervisor(world.spec("a"), world.spec("b", shutdown_s=2.0))
    await supervisor.start()
    await supervisor.stop()
    assert loop.time() == pytest.approx(2.0)
    assert isinstance(world.last("b").reason, CallTimeoutError)
    assert world.log == ["+a", "+b", "-a"]


@virtual
async def test_a_supervisor_that_does_not_stop_in_its_time_says_so() -> None:
    world = World()
    world.stop_s["a"] = 50.0
    supervisor = world.supervisor(world.spec("a", shutdown_s=None))
    await supervisor.start()
    with pytest.raises(CallTimeoutError):
        await supervisor.stop(timeout_s=1.0)
    assert supervisor.state is State.STOPPED
    await asyncio.sleep(100.0)
    assert world.log == ["+a", "-a"]


# Strategies.


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["!b", "+b"]),
        ("one_for_all", ["!b", "-d", "-c", "-a", "+a", "+b", "+c", "+d"]),
        ("rest_for_one", ["!b", "-d", "-c", "+b", "+c", "+d"]),
    ],
)
def test_a_crash_takes_along_what_the_strategy_says(strategy: Strategy, expected: list[str]) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(*(world.spec(name) for name in "abcd"), strategy=strategy)
        await supervisor.start()
        world.cleared_log()
        world.crash("b")
        await settle()
        assert world.log == expected
        assert states(supervisor) == dict.fromkeys("abcd", "running")
        assert supervisor.child("b") is world.last("b")
        reasons = {child.name: child.last_reason for child in supervisor.which_children()}
        assert reasons == {"a": None, "b": "ZeroDivisionError", "c": None, "d": None}
        await supervisor.stop()

    run_virtual(main())


@virtual
async def test_the_siblings_of_a_crashed_child_serve_while_it_restarts() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"), world.spec("b"))
    await supervisor.start()
    sibling = world.last("b")
    world.start_s["a"] = 10.0
    world.crash("a")
    await settle()
    assert supervisor.child("a") is None
    assert states(supervisor) == {"a": "restarting", "b": "running"}
    assert await sibling.call("hello") == "hello"
    await asyncio.sleep(11.0)
    assert world.last("b") is sibling
    assert await world.last("a").call("back") == "back"
    await supervisor.stop()


@pytest.mark.parametrize(
    ("restart", "end", "is_back"),
    [
        ("permanent", "crash", True),
        ("permanent", "normal", True),
        ("permanent", SHUTDOWN, False),
        ("transient", "crash", True),
        ("transient", "normal", False),
        ("temporary", "crash", False),
        ("temporary", "normal", False),
    ],
)
def test_whether_a_child_comes_back_depends_on_its_kind_and_its_end(restart: Restart, end: str, is_back: bool) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(world.spec("a", restart))
        await supervisor.start()
        if end == "crash":
            world.crash("a")
        else:
            await world.last("a").stop(end)
        await settle()
        (child,) = supervisor.which_children()
        assert child.state == ("running" if is_back else "gone")
        assert child.n_restarts == int(is_back)
        assert child.last_reason == ("ZeroDivisionError" if end == "crash" else end)
        await supervisor.stop()

    run_virtual(main())


@virtual
async def test_a_temporary_child_that_went_along_with_a_sibling_does_not_come_back() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"), world.spec("t", "temporary"), strategy="one_for_all")
    await supervisor.start()
    world.cleared_log()
    world.crash("a")
    await settle()
    assert world.log == ["!a", "-t", "+a"]
    assert states(supervisor) == {"a": "running", "t": "gone"}
    await supervisor.stop()


# Intensity.


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_three_restarts_within_five_seconds_are_borne_and_the_fourth_escalates_once(seed: int | None) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(world.spec("a"), world.spec("b"))
        await supervisor.start()
        for _ in range(3):
            world.crash("a")
            await asyncio.sleep(1.6)
            assert states(supervisor) == {"a": "running", "b": "running"}
        world.crash("a")
        await settle()
        (error,) = world.escalations
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert supervisor.escalation is error
        assert states(supervisor) == {"a": "gone", "b": "running"}
        assert await world.last("b").call("reads go on") == "reads go on"
        world.crash("b", NoSpaceError("full"))
        await settle()
        assert n_timers() == 0
        await asyncio.sleep(60.0)
        assert len(world.escalations) == 1
        assert len(world.born["a"]) == 4
        assert len(world.born["b"]) == 1
        await supervisor.stop()

    run_virtual(main(), seed=seed)


@virtual
async def test_restarts_that_left_the_window_are_forgotten() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    await supervisor.start()
    for _ in range(20):
        world.crash("a")
        await asyncio.sleep(1.7)  # Three within any five seconds.
    assert world.escalations == []
    assert len(world.born["a"]) == 21
    await supervisor.stop()


@virtual
async def test_the_restarts_of_all_children_count_together() -> None:
    world = World()
    supervisor = world.supervisor(*(world.spec(name) for name in "abcd"))
    await supervisor.start()
    for name in "abcd":
        world.crash(name)
    await settle()
    assert len(world.escalations) == 1
    await supervisor.stop()


@virtual
async def test_a_wall_clock_that_is_set_does_not_change_the_window() -> None:
    world = World()
    clock = VirtualClock(asyncio.get_running_loop())
    supervisor = Supervisor([world.spec("a")], clock=clock, on_escalate=world.escalations.append)
    await supervisor.start()
    for _ in range(4):
        world.crash("a")
        clock.wall_offset_s += 3600.0
        await asyncio.sleep(0.1)
    assert len(world.escalations) == 1
    await supervisor.stop()


@virtual
async def test_a_start_that_keeps_failing_escalates_and_never_spins() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    await supervisor.start()
    world.start_errors["a"] = [OSError(f"attempt {i}") for i in range(100)]
    world.crash("a")
    await asyncio.sleep(60.0)
    (error,) = world.escalations
    assert str(error.__cause__) == "attempt 2"
    assert len(world.born["a"]) == 4
    await supervisor.stop()


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_a_start_that_fails_in_a_group_carries_the_strategy_out_again(strategy: Strategy) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(*(world.spec(name) for name in "abc"), strategy=strategy)
        await supervisor.start()
        world.cleared_log()
        world.start_errors["b"] = [OSError("once")]
        world.crash("a")
        await settle()
        again = ["-a", "+a", "+b", "+c"] if strategy == "one_for_all" else ["+b", "+c"]
        assert world.log == ["!a", "-c", "-b", "+a", *again]
        assert states(supervisor) == dict.fromkeys("abc", "running")
        await supervisor.stop()

    run_virtual(main())


@virtual
async def test_a_full_disk_is_tried_again_each_second_and_never_counts() -> None:
    loop = asyncio.get_running_loop()
    world = World()
    supervisor = world.supervisor(world.spec("a"), world.spec("b"))
    await supervisor.start()
    world.start_errors["a"] = [NoSpaceError("full") for _ in range(10)]
    world.crash("a", NoSpaceError("full"))
    await settle()
    assert states(supervisor) == {"a": "restarting", "b": "running"}
    world.crash("b")  # A sibling's restart does not wait for it.
    await settle()
    assert states(supervisor) == {"a": "restarting", "b": "running"}
    await asyncio.sleep(10.5)
    assert states(supervisor) == {"a": "restarting", "b": "running"}
    await asyncio.sleep(1.0)
    assert states(supervisor) == {"a": "running", "b": "running"}
    assert loop.time() < 12.0
    assert len(world.born["a"]) == 12
    assert world.escalations == []
    await supervisor.stop()


@virtual
async def test_a_planned_retry_is_dropped_when_the_group_restarted_meanwhile() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"), world.spec("b"), strategy="one_for_all")
    await supervisor.start()
    world.crash("a", NoSpaceError("full"))
    await settle()
    world.crash("b")
    await asyncio.sleep(10.0)
    assert len(world.born["a"]) == 2
    assert len(world.born["b"]) == 2
    await supervisor.stop()


# Concurrency.


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_during_a_restart_is_handled_after_it(seed: int) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(*(world.spec(name) for name in "abc"))
        await supervisor.start()
        world.start_s["a"] = 1.0
        world.crash("a")
        await asyncio.sleep(0.5)
        world.crash("b")
        world.crash("c")
        await settle()
        assert len(world.born["b"]) == 1  # Waits for a.
        await asyncio.sleep(2.0)
        assert states(supervisor) == dict.fromkeys("abc", "running")
        assert [len(world.born[name]) for name in "abc"] == [2, 2, 2]
        await supervisor.stop()

    run_virtual(main(), seed=seed)


@virtual
async def test_a_child_that_crashes_again_while_its_group_restarts_is_restarted_again() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"), world.spec("b"), strategy="one_for_all")
    await supervisor.start()
    world.start_s["b"] = 1.0
    world.cleared_log()
    world.crash("b")
    await asyncio.sleep(0.5)
    world.crash("a")  # The new one, while the new b still starts.
    await asyncio.sleep(5.0)
    assert world.log == ["!b", "-a", "+a", "!a", "+b", "-b", "+a", "+b"]
    assert states(supervisor) == {"a": "running", "b": "running"}
    await supervisor.stop()


@virtual
async def test_a_crash_while_later_children_still_start_is_handled_after_the_start() -> None:
    world = World()
    world.start_s["b"] = 2.0
    supervisor = world.supervisor(world.spec("a"), world.spec("b"))
    start = asyncio.create_task(supervisor.start())
    await asyncio.sleep(1.0)
    world.crash("a")
    await start
    await settle()
    assert world.log == ["+a", "!a", "+b", "+a"]
    await supervisor.stop()


@pytest.mark.parametrize("when", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_stop_during_a_restart_leaves_no_child_and_no_task(when: float, seed: int) -> None:
    async def main() -> None:
        world = World()
        supervisor = world.supervisor(*(world.spec(name) for name in "abc"), strategy="one_for_all")
        await supervisor.start()
        world.start_s["b"] = 1.0
        world.stop_s["c"] = 0.25
        world.crash("b")
        call = asyncio.create_task(world.last("a").call("m", timeout=None))
        await asyncio.sleep(when)
        await supervisor.stop()
        await asyncio.wait([call])
        assert all(not child.is_alive for born in world.born.values() for child in born)
        assert supervisor.state is State.STOPPED

    run_virtual(main(), seed=seed)  # Fails if a task is left.


@virtual
async def test_a_stop_drops_planned_retries() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    await supervisor.start()
    world.crash("a", NoSpaceError("full"))
    await settle()
    assert n_timers() == 1
    await supervisor.stop()
    assert n_timers() == 0
    await asyncio.sleep(10.0)
    assert len(world.born["a"]) == 1


@virtual
async def test_the_owner_may_stop_the_supervisor_when_it_escalates() -> None:
    world = World()
    stops: list[asyncio.Task[None]] = []
    supervisor = Supervisor(
        [world.spec("a"), world.spec("b")],
        intensity=0,
        clock=VirtualClock(asyncio.get_running_loop()),
        on_escalate=lambda _: stops.append(asyncio.create_task(supervisor.stop())),
    )
    await supervisor.start()
    world.crash("a")
    await settle()
    await stops[0]
    assert world.log == ["+a", "+b", "!a", "-b"]


@virtual
async def test_an_on_escalate_that_raises_is_reported_once() -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    def broken(_: ReadOnlyStoreError) -> None:
        raise OSError

    world = World()
    supervisor = Supervisor([world.spec("a")], intensity=0, on_escalate=broken)
    await supervisor.start()
    world.crash("a")
    await settle()
    assert [type(report["exception"]) for report in reports] == [OSError]
    assert supervisor.escalation is not None
    await supervisor.stop()


# Nesting and monitors.


def nested(world: World, **outer: Any) -> tuple[Supervisor, list[Supervisor]]:
    inner: list[Supervisor] = []

    def make_inner() -> Supervisor:
        inner.append(world.supervisor(world.spec("x"), world.spec("y"), escalates=False, name="inner"))
        return inner[-1]

    return world.supervisor(world.spec("a"), ChildSpec("inner", make_inner, shutdown_s=None), **outer), inner


async def exhaust(world: World, name: str) -> None:
    for _ in range(4):
        world.crash(name)
        await settle()


@virtual
async def test_supervisors_nest_in_order_and_in_reverse() -> None:
    world = World()
    outer, inner = nested(world)
    await outer.start()
    assert states(outer) == {"a": "running", "inner": "running"}
    await outer.stop()
    assert world.log == ["+a", "+x", "+y", "-y", "-x", "-a"]
    assert inner[0].state is State.STOPPED


@virtual
async def test_an_inner_supervisor_that_gives_up_is_restarted_whole_by_the_outer() -> None:
    world = World()
    outer, inner = nested(world)
    await outer.start()
    ends: list[Reason] = []
    inner[0].monitor(lambda _, reason: ends.append(reason))
    world.cleared_log()
    await exhaust(world, "x")
    assert world.log == ["!x", "+x"] * 3 + ["!x", "-y", "+x", "+y"]
    assert [type(end) for end in ends] == [ReadOnlyStoreError]
    assert inner[0].state is State.CRASHED
    assert len(inner) == 2
    assert world.escalations == []
    assert states(outer) == {"a": "running", "inner": "running"}
    await outer.stop()


@virtual
async def test_escalation_climbs_to_the_top_and_is_told_there_once() -> None:
    world = World()
    outer, inner = nested(world)
    await outer.start()
    for _ in range(4):
        await exhaust(world, "x")
    assert len(inner) == 4
    (error,) = world.escalations
    assert isinstance(error.__cause__, ReadOnlyStoreError)
    assert isinstance(error.__cause__.__cause__, ZeroDivisionError)
    assert states(outer) == {"a": "running", "inner": "gone"}
    assert all(not child.is_alive for name in "xy" for child in world.born[name])
    await outer.stop()


@virtual
async def test_monitors_of_a_supervisor_are_told_once() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    ends: list[Reason] = []
    supervisor.monitor(lambda _, reason: ends.append(reason))
    await supervisor.start()
    await asyncio.gather(supervisor.stop("closing"), supervisor.stop())
    assert ends == ["closing"]


def test_a_loop_that_is_torn_down_leaves_no_restart_behind() -> None:
    async def main() -> None:
        world = World()
        supervisor = Supervisor([world.spec("a"), world.spec("b")])
        await supervisor.start()
        world.start_s["a"] = 60.0
        world.crash("a")
        world.stop_s["b"] = 60.0
        await asyncio.sleep(0.0)
        tasks.append(asyncio.create_task(supervisor.stop()))
        await asyncio.sleep(0.0)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert tasks[0].cancelled()


@virtual
async def test_a_stopped_child_fails_its_calls_and_a_restarted_one_answers_new_ones() -> None:
    world = World()
    supervisor = world.supervisor(world.spec("a"))
    await supervisor.start()
    old = world.last("a")
    calls: list[Callable[[], Any]] = [lambda: old.call("late"), lambda: old.cast("late")]
    world.crash("a")
    queued = old.call_nowait("queued")
    await settle()
    with pytest.raises(ActorStoppedError):
        await queued
    for call in calls:
        with pytest.raises(ActorStoppedError):
            await call()
    assert await world.last("a").call("new") == "new"
    await supervisor.stop()
