from types import SimpleNamespace

import pytest
import torch

from shardwright.profiler.timing.availability import available, tried
from shardwright.profiler.timing.probe import UnavailableError, Work


def test_what_runs_is_handed_on_and_ran_once() -> None:
    runs: list[int] = []
    work = tried(lambda: lambda: runs.append(1), "counting")
    assert runs == [1]
    work()
    assert runs == [1, 1]


@pytest.mark.parametrize("when", ["made", "run"])
def test_what_fails_is_told_in_one_line(when: str) -> None:
    def fail() -> Work:
        raise RuntimeError("no such kernel\nsecond line")

    with pytest.raises(UnavailableError) as caught:
        tried(fail if when == "made" else lambda: fail, "work in fp8")
    assert str(caught.value) == "work in fp8: no such kernel"


def test_an_error_without_words_is_named() -> None:
    def fail() -> None:
        raise NotImplementedError

    with pytest.raises(UnavailableError, match=r"^work: NotImplementedError$"):
        tried(lambda: fail, "work")


def test_too_little_memory_is_no_lack_of_the_machine() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        tried(lambda: fail, "work")


def test_a_function_is_found_under_either_name_in_the_first_holder() -> None:
    public, private = SimpleNamespace(multiply=len), SimpleNamespace(_multiply=max)
    found = [available("multiply", public, private), available("multiply", SimpleNamespace(), private)]
    assert found == [len, max]
    with pytest.raises(UnavailableError, match="has no multiply"):
        available("multiply", SimpleNamespace())
