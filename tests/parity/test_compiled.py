"""Compiled layers train as one process without a compiler does."""

import shutil
from collections.abc import Callable

import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.parallel import build_engine, check_compile, compiled, compiles
from tests.parity import faults_of_repetition, sabotage
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import SEED, TOLERANCE, Run, reference_run, train, worst_update_error
from tests.parity.worlds import run_in_turn, run_world

LLAMA, QWEN3 = model_config("llama"), model_config("qwen3", layers=1)
CPU = torch.device("cpu")


def engine_run(file: PlanFile, backend: str = "aot_eager", fault: Callable[[], None] | None = None) -> Run:
    """Train with compiled layers; "aot_eager" makes graphs of forward and backward and no code, which takes seconds, not a minute."""
    if fault is not None:
        fault()
    compiled.BACKEND = backend
    torch._dynamo.reset()  # other shapes than those of an earlier case would be compiled for every shape
    torch._dynamo.utils.counters.clear()
    engine = build_engine(file, device=CPU, seed=SEED, compile_layers=True)
    run = train(engine, file)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    return run


CASES = {
    "zero 3, full recompute": plan_file(LLAMA, plan((layers(zero=3, recompute="full"),), dp_shard=2)),
    "tp with sequence parallelism": plan_file(QWEN3, plan((layers(1),), tp=2)),
    "tiles and 1f1b": plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2), mlp_tiles=2),
    "cp by ring": plan_file(QWEN3, plan((layers(1, zero=2),), cp=2, context_parallel="ring")),
}


def test_updates_equal_those_of_one_process() -> None:
    runs = run_in_turn(2, engine_run, {name: (file,) for name, file in CASES.items()})
    for name, own in runs.items():
        assert worst_update_error(own, reference_run(CASES[name])) <= TOLERANCE, name


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU, and there is no g++")
def test_code_of_inductor_trains_under_fsdp() -> None:
    file = plan_file(QWEN3, plan((layers(1, zero=3),), dp_shard=2))
    own = run_world(2, engine_run, file, "inductor", timeout_seconds=300.0)
    assert worst_update_error(own, reference_run(file)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("zero 3, full recompute", sabotage.forget_data_parallel_average),
        ("tiles and 1f1b", faults_of_repetition.blank_last_tile),
    ],
)
def test_a_fault_shows_in_compiled_layers_too(name: str, fault: Callable[[], None]) -> None:
    own = run_world(2, engine_run, CASES[name], "aot_eager", fault)
    assert worst_update_error(own, reference_run(CASES[name])) > TOLERANCE


def test_auto_compiles_on_gpus_alone() -> None:
    assert compiles("auto", torch.device("cuda"))
    assert not compiles("auto", CPU)
    assert compiles("on", CPU)
    assert not compiles("off", torch.device("cuda"))


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    split = plan((layers(1),), (layers(1),), pp=2, schedule="zb-h1")
    with pytest.raises(SpecError, match="computes all its gradients at once, which zb-h1 splits"):
        check_compile(split, "on", CPU)
    check_compile(split, "off", CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        SpecError, match="there is no no-such-compiler; install one, set CXX, or run with --compile off"
    ):
        check_compile(plan((layers(),)), "on", CPU)
