"""What the driver's tool prints, as this package reads it: a script of that name stands in for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright.profiler.machine.nvidia_smi import reported_gpus, reported_value

TWO_H100 = (
    "0, GPU-aaaa-1, NVIDIA H100 80GB HBM3, 81559\n"
    "1, GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559\n"
)  # fmt: skip

Install = Callable[[str, int], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put an `nvidia-smi` on the path that prints `answer` and exits with `status`."""

    def install(answer: str, status: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'ANSWER'\n{answer}ANSWER\nexit {status}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


def test_every_gpu_is_read(install: Install) -> None:
    install(TWO_H100, 0)
    assert [(gpu.index, gpu.name, gpu.memory_bytes) for gpu in reported_gpus()] == [
        (0, "NVIDIA H100 80GB HBM3", 81559 * 2**20),
        (1, "NVIDIA H100 80GB HBM3", 81559 * 2**20),
    ]


@pytest.mark.parametrize(
    ("allowed", "indices"),
    [("1", [1]), ("1,0", [1, 0]), ("GPU-bbbb", [1]), ("", []), ("-1", []), ("0,7,1", [0]), (" 0 , 1 ", [0, 1])],
)
def test_only_visible_gpus_count(
    install: Install, monkeypatch: pytest.MonkeyPatch, allowed: str, indices: list[int]
) -> None:
    """CUDA's rule: an entry that names no GPU hides what follows it."""
    install(TWO_H100, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert [gpu.index for gpu in reported_gpus()] == indices


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9),
        ("No devices were found\n", 0),
        ("", 0),
        ("0, GPU-aaaa, NVIDIA GB10, [N/A]\n", 0),
    ],
)
def test_an_answer_without_a_gpu(install: Install, answer: str, status: int) -> None:
    install(answer, status)
    assert reported_gpus() == ()


def test_a_machine_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reported_gpus() == ()


@pytest.mark.parametrize(
    ("answer", "status", "value"),
    [("580.65.06\n", 0, "580.65.06"), ("[N/A]\n", 0, None), ("", 0, None), ("failed\n", 9, None), ("1\n2\n", 0, "1")],
)
def test_one_field(install: Install, answer: str, status: int, value: str | None) -> None:
    install(answer, status)
    assert reported_value("driver_version") == value


@pytest.mark.parametrize("uuid", ["abc-1", "GPU-abc-1"])
def test_one_field_of_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    """The script prints what it was asked."""
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\necho "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = reported_value("clocks.sm", uuid=uuid)
    assert asked == "--query-gpu=clocks.sm --format=csv,noheader,nounits --id GPU-abc-1"


def test_one_field_without_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reported_value("driver_version") is None
