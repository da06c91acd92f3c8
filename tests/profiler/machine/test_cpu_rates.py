"""Rates are remembered per setting; what cannot be read whole is measured again."""

import os
from pathlib import Path

import pytest

from shardwright.profiler.machine.cpu_rates import CpuRates, CpuSetting, remember_rates, remembered_rates

SETTING = CpuSetting(cpu="Test CPU", cores=4, ranks=2, torch="2.13.0")
RATES = CpuRates(
    setting=SETTING,
    date="2026-01-02",
    fp32_flops_per_s=50e9,
    bf16_flops_per_s=200e9,
    fp32_attention_flops_per_s=30e9,
    bf16_attention_flops_per_s=40e9,
    elementwise_bytes_per_s=15e9,
    copy_bytes_per_s=20e9,
    dispatch_seconds=3e-6,
    link_bytes_per_s=2e9,
    link_latency_seconds=70e-6,
    process_bytes=280e6,
    cpu_share=0.98,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "shardwright"


def test_threads_share_the_cores() -> None:
    assert [SETTING.model_copy(update={"ranks": ranks}).threads for ranks in (1, 2, 3, 8)] == [4, 2, 1, 1]


def test_more_ranks_than_cores_share_them() -> None:
    assert [SETTING.model_copy(update={"ranks": ranks}).cpu_share for ranks in (2, 4, 8)] == [1, 1, 0.5]


def test_disturbed_rates_are_not_remembered() -> None:
    """Half of the CPU is a disturbance for two ranks on four cores, and all there is for eight."""
    remember_rates(RATES.model_copy(update={"cpu_share": 0.5}))
    assert remembered_rates(SETTING) is None
    eight = SETTING.model_copy(update={"ranks": 8})
    remember_rates(RATES.model_copy(update={"cpu_share": 0.5, "setting": eight}))
    assert remembered_rates(eight) is not None


def test_what_was_remembered_is_read_back() -> None:
    assert remembered_rates(SETTING) is None
    remember_rates(RATES)
    assert remembered_rates(SETTING) == RATES


@pytest.mark.parametrize("change", [{"cpu": "Other"}, {"cores": 8}, {"ranks": 1}, {"torch": "2.12.0"}])
def test_another_setting_is_not_remembered(change: dict[str, object]) -> None:
    remember_rates(RATES)
    assert remembered_rates(SETTING.model_copy(update=change)) is None


@pytest.mark.parametrize("keep_bytes", [0, 1, 100])
def test_a_half_written_file_is_ignored(cache: Path, keep_bytes: int) -> None:
    remember_rates(RATES)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:keep_bytes])
    assert remembered_rates(SETTING) is None
    remember_rates(RATES)
    assert remembered_rates(SETTING) == RATES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("50000000000.0", "0"),
        ("50000000000.0", "NaN"),
        ('"cores": 4', '"cores": 5'),
        ('"schema_version": 1', '"schema_version": 2'),
        ("link_bytes_per_s", "link"),
    ],
)
def test_a_corrupt_file_is_ignored(cache: Path, old: str, new: str) -> None:
    remember_rates(RATES)
    (path,) = cache.iterdir()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert remembered_rates(SETTING) is None


def test_a_file_that_is_no_text_is_ignored(cache: Path) -> None:
    remember_rates(RATES)
    (path,) = cache.iterdir()
    path.write_bytes(b"\xff\xfe\x00")
    assert remembered_rates(SETTING) is None


def test_nothing_partial_is_left_behind(cache: Path) -> None:
    remember_rates(RATES)
    remember_rates(RATES.model_copy(update={"date": "2026-01-03"}))
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_a_failed_write_leaves_the_old_file_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_rates(RATES)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    remember_rates(RATES.model_copy(update={"date": "2026-01-03"}))
    assert remembered_rates(SETTING) == RATES
    assert [path.suffix for path in cache.iterdir()] == [".json"]


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember_rates(RATES)
    assert remembered_rates(SETTING) is None


def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG base directory specification: a relative path is invalid."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    remember_rates(RATES)
    assert os.listdir(tmp_path / ".cache" / "shardwright")
    assert not (tmp_path / "relative").exists()
