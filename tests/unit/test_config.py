"""Settings come from keywords and files, are checked at once, and `config/default.toml` names them all."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import warpstore as ws
from warpstore.config import Config, load

DEFAULT = Path(__file__).parents[2] / "config" / "default.toml"


def test_a_configuration_without_settings_has_the_defaults() -> None:
    assert load(None, {}) == Config()


def test_sizes_and_times_take_numbers_or_strings() -> None:
    config = load(None, {"ram": "512MB", "segment_bytes": "1MiB", "mailbox_bytes_max": 1 << 25, "stop_timeout_s": "1m"})
    assert (config.ram, config.segment_bytes, config.mailbox_bytes_max) == (512_000_000, 1 << 20, 1 << 25)
    assert config.stop_timeout_s == 60.0
    assert load(None, {"restart_period_s": "500ms"}).restart_period_s == 0.5


def test_a_keyword_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('durability = "interval"\nshards = 8\nlog = ["a", "b"]\n')
    config = load(path, {"shards": 2})
    assert (config.durability, config.shards) == ("interval", 2)
    assert config.log == (str(Path("a").absolute()), str(Path("b").absolute()))
    assert load(path, {"log": (tmp_path,)}).log == (str(tmp_path),)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"durabilty": "fsync"}, "unknown setting 'durabilty'; did you mean 'durability'"),
        ({"segment_size": 1}, "unknown setting 'segment_size'"),
        ({"durability": "sometimes"}, "durability='sometimes': must be one of"),
        ({"durability": []}, "must be one of"),
        ({"durability": None}, "must be one of"),
        ({"on_corruption": "ignore"}, "must be one of 'refuse', 'point_in_time', 'salvage'"),
        ({"sync_interval_ms": 0}, "must be from 1 to 60000"),
        ({"sync_interval_ms": 60_001}, "must be from 1 to 60000"),
        ({"sync_interval_ms": None}, "must be a whole number"),
        ({"sync_interval_ms": 1.5}, "must be a whole number"),
        ({"mark_delay_ms": True}, "must be a whole number"),
        ({"mark_delay_ms": 0}, "must be from 1"),
        ({"shards": 257}, "must be from 1 to 256"),
        ({"shards": "4"}, "must be a whole number"),
        ({"lanes": 0}, "must be from 1 to 256"),
        ({"lanes": 1, "log": ["a", "b"]}, "contradicts log="),
        ({"log": "a"}, "must be a list of folders"),
        ({"log": 5}, "must be a list of folders"),
        ({"log": [5]}, "must be a list of folders"),
        ({"segment_bytes": "63KiB"}, "must be from 65536"),
        ({"segment_bytes": "2GiB"}, "must be from"),
        ({"segment_bytes": None}, "segment_bytes=None"),
        ({"segment_bytes": "big"}, "is no size"),
        ({"checkpoint_log_bytes": 1}, "must be from 65536"),
        ({"ram": "1KB"}, "must be from"),
        ({"ram": -1}, "is no size"),
        ({"processes": 2}, "must be from 0 to 0"),
        ({"mailbox_messages_max": 0}, "must be from 1"),
        ({"mailbox_bytes_max": "1MiB"}, "must be from"),
        ({"record_cache_entries": 1000}, "must be a power of two, or 0"),
        ({"record_cache_entries": -1}, "must be from 0"),
        ({"restart_intensity": 0}, "must be from 1"),
        ({"restart_period_s": "soon"}, "is no length of time"),
        ({"restart_period_s": None}, "is no length of time"),
        ({"stop_timeout_s": -1}, "is no length of time"),
        ({"gpu": "require"}, "no CUDA backend"),
        ({"gpu": 0}, "no CUDA backend"),
        ({"gpu": "maybe"}, "must be one of 'auto', 'off'"),
        ({"gpu": []}, "must be one of 'auto', 'off'"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ws.ConfigError, match=re.escape(words)) as error:
        load(None, settings)
    assert error.value.setting == next(iter(settings))
    assert repr(error.value.setting) in str(error.value) or error.value.setting in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ws.ConfigError, match="No such file") as error:
        ws.open("x", config=tmp_path / "absent.toml")
    assert error.value.setting == "config"
    path = tmp_path / "wrong.toml"
    path.write_text("durability = fsync")
    with pytest.raises(ws.ConfigError, match=r"wrong\.toml"):
        ws.open("x", config=path)
    path.write_text("[store]\nshards = 1\n")
    with pytest.raises(ws.ConfigError, match="unknown setting 'store'"):
        ws.open("x", config=path)


# The file of defaults


def named() -> dict[str, str]:
    """Return the settings that the file names, in comments too, each with the lines before it."""
    found: dict[str, str] = {}
    comment = ""
    for line in DEFAULT.read_text().splitlines():
        setting = re.fullmatch(r"(?:# )?([a-z_]+) = .*", line)
        if setting:
            found[setting[1]], comment = comment, ""
        else:
            comment = line
    return found


def test_the_file_of_defaults_loads_to_the_defaults() -> None:
    assert load(DEFAULT, {}) == Config()


def test_the_file_names_every_setting_in_order_each_with_a_comment() -> None:
    assert list(named()) == [field.name for field in dataclasses.fields(Config)]
    assert all(comment.startswith("# ") and comment.endswith(".") for comment in named().values())


def test_settings_without_a_default_stand_in_comments_that_would_load() -> None:
    written = tomllib.loads(DEFAULT.read_text())
    absent = {field.name for field in dataclasses.fields(Config) if field.default is None}
    assert set(written) == {field.name for field in dataclasses.fields(Config)} - absent
    uncommented = re.sub(r"^# ([a-z_]+ = .*)$", r"\1", DEFAULT.read_text(), flags=re.MULTILINE)
    assert load(None, tomllib.loads(uncommented)).shards == 4
