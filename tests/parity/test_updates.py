"""Every dimension of a plan trains as one process does, and the comparison notices when it does not.

The measure is each parameter's update over two SGD steps, against transformers and torch alone on the whole batch.
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from tests.parity.update_cases import CASES
from tests.parity.updates import (
    TOLERANCE,
    Run,
    assert_equal_to,
    engine_run,
    engine_runs,
    reference_run,
    worst_update_error,
)
from tests.parity.worlds import run_in_turn

FAULTS = sorted(
    [(name, fault) for name, case in CASES.items() for fault in case.faults],
    key=lambda of: CASES[of[0]].plan_file.plan.mesh.ranks,  # a world serves several in turn
)


IN_ONE_WORLD = 4
"""Cases that one world trains in turn, which know how to divide what those before divided. Each leaves process groups behind, whose
threads wake a hundred times a second."""


def worlds() -> list[tuple[str, ...]]:
    """The names of the cases that share a world."""
    by_ranks: dict[int, list[str]] = {}
    for name, case in CASES.items():
        by_ranks.setdefault(case.plan_file.plan.mesh.ranks, []).append(name)
    return [chunk for names in by_ranks.values() for chunk in batched(names, IN_ONE_WORLD)]


def batched(names: list[str], count: int) -> list[tuple[str, ...]]:
    return [tuple(names[start : start + count]) for start in range(0, len(names), count)]


WORLD_OF = {name: names for names in worlds() for name in names}


@cache
def good_runs(names: tuple[str, ...]) -> dict[str, list[Run]]:
    """Runs of cases without a fault, by rank."""
    files = {name: CASES[name].plan_file for name in names}
    ranks = files[names[0]].plan.mesh.ranks
    return run_in_turn(ranks, engine_run, {name: (file,) for name, file in files.items()})


@cache
def reference(name: str) -> Run:
    return reference_run(CASES[name].plan_file)


@pytest.mark.parametrize("name", WORLD_OF)
def test_updates_equal_those_of_one_process(name: str) -> None:
    assert_equal_to(reference(name), good_runs(WORLD_OF[name])[name])


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    own = engine_runs(CASES[name].plan_file, sabotage=fault)
    assert worst_update_error(own, reference(name)) > TOLERANCE


@pytest.mark.parametrize(
    "name",
    ["hsdp and tp on 8 ranks, llama", "tp, qwen3", "tp with sequence parallelism, gpt2", "replicas, zero 0"],
)
def test_copies_on_different_ranks_stay_equal_to_the_bit(name: str) -> None:
    first, *others = good_runs(WORLD_OF[name])[name]
    for run in others:
        assert all(torch.equal(value, first.after[name]) for name, value in run.after.items())


@pytest.mark.parametrize("name", ["tied embedding over two stages", "tied embedding over four stages"])
def test_both_copies_of_a_tied_embedding_stay_equal_to_the_bit(name: str) -> None:
    runs = good_runs(WORLD_OF[name])[name]
    first, last = (
        next(
            value
            for key, value in run.after.items()
            if key.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight"))
        )
        for run in (runs[0], runs[-1])
    )
    assert torch.equal(first, last)
