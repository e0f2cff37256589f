"""Old items go to an archive, a folder or an object store, and nothing is lost while it is away."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

import warpstore as ws
from tests.support.series import DAY, HOUR, Event, Person
from tests.support.worlds import World, world_in
from warpstore.temporal import FolderArchive, ObjectArchive

BUCKET = "archive-of-tests"


class S3:
    """An S3 server of this process.

    Attributes:
        options: What a store needs to reach it.
    """

    def __init__(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        self.options = {
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "secret",
        }

    def make_bucket(self) -> None:
        import urllib.request

        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request")
        urllib.request.urlopen(request).close()

    def names(self) -> list[str]:
        """Return the names of the objects in the bucket."""
        import obstore
        from obstore.store import from_url

        options: Any = {"allow_http": True}
        store = from_url(f"s3://{BUCKET}", config=self.options, client_options=options)  # type: ignore[call-overload]
        return sorted(entry["path"] for page in obstore.list(store) for entry in page)


@pytest.fixture
def s3() -> Iterator[S3]:
    server = S3()
    server.make_bucket()
    yield server
    server.server.stop()


async def filled(world: World, **settings: Any) -> ws.Store:
    """Return a store with events of 13 days, of which most belong into the archive."""
    store = await world.open(Person, **settings)
    await store[Person].put(Person(id="ann"))
    for day in range(13):
        await store[Person].append("ann", "events", Event(at=world.clock.wall(), what=str(day)))
        world.clock.advance(DAY)
    return store


def days(items: list[Any]) -> list[int]:
    return [int(item.what) for item in items]


async def test_an_object_store_takes_old_items_and_gives_them_back(tmp_path: Path, s3: S3) -> None:
    async with world_in(tmp_path) as world:
        store = await filled(world, archive=f"s3://{BUCKET}/old/items", archive_options=s3.options)
        await store.age()
        numbers = store.statistics().series
        assert numbers.n_files["archive"] == len(s3.names()) > 0
        assert all(name.startswith("old/items/") for name in s3.names())
        assert days(await store[Person].window("ann", "events")) == list(range(13))
        assert sum(numbers.n_items.values()) == 13
        local = list(Path(world.path).rglob("*.ser"))
        assert len(local) == sum(n for tier, n in numbers.n_files.items() if tier != "archive")
        await store.close()
        async with world.open(Person, archive_options=s3.options) as store:  # the place is remembered
            assert days(await store[Person].window("ann", "events")) == list(range(13))


async def test_items_stay_on_disk_while_the_object_store_refuses(tmp_path: Path, s3: S3) -> None:
    async with world_in(tmp_path) as world:
        wrong = s3.options | {"endpoint": f"http://127.0.0.1:{s3.port}/nowhere"}
        store = await filled(world, archive="s3://no-such-bucket/old", archive_options=wrong)
        with pytest.raises(ws.ArchiveUnavailableError, match=r"s3://no-such-bucket/old.*failed an upload") as error:
            await store.age()
        assert error.value.place == "s3://no-such-bucket/old"
        assert store.statistics().series.last_error == str(error.value)
        assert "archive" not in store.statistics().series.n_files
        assert days(await store[Person].window("ann", "events")) == list(range(13))
        await store.close()
        async with world.open(Person, archive=f"s3://{BUCKET}", archive_options=s3.options) as store:
            await store.age()  # nothing was archived yet, so the place may still change
            assert s3.names()
            assert days(await store[Person].window("ann", "events")) == list(range(13))


async def test_a_window_over_an_object_store_that_is_away_is_an_error_and_no_short_answer(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpstore.temporal.archive._RETRIES_MAX", 0)
    async with world_in(tmp_path) as world:
        store = await filled(world, archive=f"s3://{BUCKET}", archive_options=s3.options)
        await store.age()
        await store.close()
        store = await world.open(Person, archive_options=s3.options)
        s3.server.stop()
        with pytest.raises(ws.ArchiveUnavailableError, match="failed a read"):
            await store[Person].window("ann", "events")
        now = world.clock.wall()
        assert days(await store[Person].window("ann", "events", now - 2.5 * DAY, None)) == [11, 12]
        await store.close()


async def test_an_archive_folder_that_refuses_loses_nothing_and_is_tried_again(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    async with world_in(tmp_path) as world:
        store = await filled(world, archive=archive)
        for operation in ("create", "write", "sync", "rename", "sync_directory"):
            world.files.fail(operation, str(archive))
            with pytest.raises(ws.ArchiveUnavailableError, match="failed an upload"):
                await store.age()
            assert days(await store[Person].window("ann", "events")) == list(range(13))
            assert "archive" not in store.statistics().series.n_files
        await store.age()
        assert store.statistics().series.last_error is None
        assert len(list(archive.glob("*.ser"))) == store.statistics().series.n_files["archive"]
        assert not list(archive.glob("*.new"))
        assert days(await store[Person].window("ann", "events")) == list(range(13))
        await store.close()


async def test_a_window_over_a_folder_that_is_away_is_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    async with world_in(tmp_path) as world:
        store = await filled(world, archive=archive)
        await store.age()
        await store.close()
        archive.rename(tmp_path / "away")
        store = await world.open(Person, archive=archive)
        with pytest.raises(ws.ArchiveUnavailableError, match="failed a read"):
            await store[Person].window("ann", "events")
        (tmp_path / "away").rename(archive)
        assert days(await store[Person].window("ann", "events")) == list(range(13))
        await store.close()
        with pytest.raises(ws.ConfigError, match="the store has files in"):
            await world.open(Person, archive=tmp_path / "elsewhere")


async def test_a_table_that_is_dropped_leaves_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    async with world_in(tmp_path) as world:
        store = await filled(world, archive=archive)
        await store.age()
        await store.close()
        assert list(archive.glob("*.ser"))
        async with world.open() as store:
            await store.drop("person")
            await store.age()
        assert not list(archive.glob("*.ser"))
        assert not list(Path(world.path).rglob("*.ser"))


def test_what_reads_back_wrong_is_not_archived(tmp_path: Path) -> None:
    from wal import OsFileSystem

    files = OsFileSystem()
    source = files.create(str(tmp_path / "source"))
    source.write([b"x" * 1000], 0)
    archives = [FolderArchive(files, str(tmp_path / "archive")), ObjectArchive("memory:///", {})]
    for archive in archives:
        with pytest.raises(ws.ArchiveUnavailableError, match="other bytes than were written"):
            archive.upload("a", source, 1000, 1)
        with pytest.raises(ws.ArchiveUnavailableError, match="fewer than 1001 bytes"):
            archive.upload("a", source, 1001, 1)
        archive.remove("absent")
    with pytest.raises(ws.ArchiveUnavailableError, match="failed a read"):
        archives[0].open("a")
    with pytest.raises(ws.ArchiveUnavailableError, match="failed a read"):
        archives[1].open("b").read(5, 0)
    source.close()


async def test_an_object_store_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    async with world_in(tmp_path) as world:
        with pytest.raises(ws.ConfigError, match=r"install warpstore\[archive\]") as error:
            await world.open(Person, archive="s3://bucket")
        assert error.value.setting == "archive"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"archive": "nonsense://x"}, "archive='nonsense://x'"),
        ({"archive": "s3://bucket", "archive_options": {"no_such_option": "1"}}, "archive='s3://bucket'"),
        ({"ssd": "s3://bucket"}, "only archive= takes a URL"),
        ({"disk": 5}, "must be a folder"),
        ({"archive": ""}, "must be a folder"),
        ({"archive_options": {"region": 5}}, "must be a mapping of str to str"),
        ({"archive_options": "region"}, "must be a mapping of str to str"),
        ({"ageing_interval_s": 0}, "must be from"),
        ({"ageing_interval_s": "soon"}, "ageing_interval_s='soon'"),
    ],
)
async def test_a_setting_that_cannot_be_right_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    async with world_in(tmp_path) as world:
        with pytest.raises(ws.ConfigError) as error:
            await world.open(Person, **settings)
        assert words in str(error.value)


async def test_a_full_ssd_folder_is_a_named_error_and_loses_nothing(tmp_path: Path) -> None:
    ssd = tmp_path / "ssd"
    async with world_in(tmp_path) as world:
        store = await world.open(Person, ssd=ssd)
        await store[Person].put(Person(id="ann", events=[Event(at=world.clock.wall())]))
        world.clock.advance(2 * HOUR)
        for operation in ("create", "write", "sync"):
            for code in (errno.ENOSPC, errno.EDQUOT):
                world.files.fail(operation, str(ssd), code=code)
                with pytest.raises(ws.DiskFullError, match="no space"):
                    await store.age()
                assert not list(ssd.glob("*"))
                person = await store[Person].get("ann")
                assert person is not None
                assert len(person.events) == len(await store[Person].window("ann", "events")) == 1
        await store.age()
        assert len(list(ssd.glob("*.ser"))) == 1
        await store.close()
