"""The demo: its data, its folder, its report and its chart; and a whole run, the short one."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from rich.console import Console

from warpstore.demo import chart, costs, data, loading, models, run
from warpstore.demo.__main__ import main
from warpstore.demo.errors import CannotRunError
from warpstore.demo.report import Report
from warpstore.demo.same import facts


@pytest.fixture(scope="module")
def some_flights() -> list[models.Flight]:
    return list(islice(data.flights_of(), 3_000))


def silent_report() -> Report:
    return Report(Console(file=io.StringIO(), width=100))


def test_a_flight_has_its_day_first_in_its_key(some_flights: list[models.Flight]) -> None:
    assert some_flights[0].id == "2013-01-01T05:15|UA|1545|EWR-IAH"
    assert len({flight.id for flight in some_flights}) == len(some_flights)
    assert sum(flight.id.startswith("2013-01-01") for flight in some_flights) == 842


def test_every_key_fits_into_a_column_key_of_32_bytes(some_flights: list[models.Flight]) -> None:
    assert max(len(flight.id.encode()) for flight in some_flights) <= 32


def test_a_cancelled_flight_has_nan_as_delay_and_equals_itself(some_flights: list[models.Flight]) -> None:
    cancelled = next(flight for flight in some_flights if flight.times["departure"] is None)
    assert cancelled.arr_delay != cancelled.arr_delay
    assert facts(cancelled) == facts(cancelled)


def test_two_flights_that_differ_in_one_field_have_other_facts(some_flights: list[models.Flight]) -> None:
    one, other = some_flights[0], next(islice(data.flights_of(), 1))
    assert facts(one) == facts(other)
    other.note = "x"
    assert facts(one) != facts(other)


def test_a_planes_legs_are_in_the_order_of_time(some_flights: list[models.Flight]) -> None:
    legs = data.legs_by_plane(some_flights)
    assert sum(map(len, legs.values())) == sum(flight.tailnum is not None for flight in some_flights)
    for series in legs.values():
        assert [leg.at for leg in series] == sorted(leg.at for leg in series)


def test_every_departure_finds_the_weather_of_its_hour(some_flights: list[models.Flight]) -> None:
    observed = {observation.id for observation in data.weather_of()}
    assert len(observed) == 26_115
    with_weather = sum(models.weather_key(flight.origin, flight.departs) in observed for flight in some_flights)
    assert with_weather / len(some_flights) > 0.98


def test_planes_and_airports_are_all_read() -> None:
    assert len({plane.tailnum for plane in data.planes_of({})}) == 3_322
    assert len({airport.faa for airport in data.airports_of()}) == 1_458


def test_the_record_types_use_every_annotation() -> None:
    used = {tier for tier, fields in costs.tiers(models.MODELS).items() if fields}
    assert used == set(costs.WHERE)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear reader")
    with pytest.raises(CannotRunError, match="not of the demo's making"):
        run.clear(tmp_path)
    assert (tmp_path / "letters.txt").exists()


def test_a_file_is_refused_as_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert main(["--path", str(path)]) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_demos_own_folder_is_emptied_at_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    run.clear(folder)
    (folder / "store").mkdir()
    run.clear(folder)
    assert [path.name for path in folder.iterdir()] == [run.MARKER]


def test_one_failed_check_fails_the_run() -> None:
    report = silent_report()
    report.check(True, "water is wet")
    assert report.conclude(1.0) == 0
    report.check(False, "fire is cold")
    assert report.conclude(1.0) == 1
    assert report.failed == ["fire is cold"]


def test_files_are_counted_by_folder(tmp_path: Path) -> None:
    (tmp_path / "log" / "0").mkdir(parents=True)
    (tmp_path / "log" / "0" / "segment").write_bytes(b"x" * 5_000)
    (tmp_path / "manifest").write_bytes(b"x")
    kinds = costs.files_by_kind(tmp_path)
    assert {kind: n_files for kind, (n_files, _) in kinds.items()} == {"log/": 1, "manifest, lock": 1}
    assert kinds["log/"][1] >= 5_000


def test_the_chart_is_a_png_even_of_a_short_load(tmp_path: Path) -> None:
    report = silent_report()
    chart.draw_throughput(
        report, loading.Load(samples=[(0.01, 100)], began_s={"flights": 0.0}), tmp_path / "throughput.png"
    )
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert report.failed == []


def test_a_quick_run_passes_all_its_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--path", str(tmp_path / "demo")]) == 0
    output = capsys.readouterr().out
    assert "All 45 checks passed" in output
    assert "Items that age" in output
