"""A setup is priced, and what is suggested runs in its framework, fits and is faster."""

import pytest

from shardwright.costmodel import lacking_bytes
from shardwright.exports import Diagnosis, Imported, choices_of, diagnose, express
from shardwright.exports.diagnose import MOST_CHANGES, key_differences

from . import setups
from .test_import import read

_RECOMPUTES = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
SETUPS = {
    "megatron": lambda: read(setups.MEGATRON_DENSE.replace("--log-interval 100", _RECOMPUTES)),
    "deepspeed": lambda: read(setups.DEEPSPEED_ZERO3, "ds.json", model="llama-3.1-8b", seq_len=4096),
    "torchtitan": lambda: read(setups.TORCHTITAN_3D, "llama3_8b.toml"),
    "accelerate": lambda: read(
        setups.ACCELERATE_FSDP2, "f.yaml", model="llama-3.1-8b", seq_len=4096, global_batch=64, micro_batch=1
    ),
    "nemo": lambda: read(setups.NEMO, "o.yaml", model="llama-3.1-8b"),
}


@pytest.fixture(scope="module", params=SETUPS)
def diagnosed(request: pytest.FixtureRequest) -> tuple[Imported, Diagnosis]:
    imported = SETUPS[request.param]()
    return imported, diagnose(imported)


def test_what_is_suggested_is_faster_and_fits(diagnosed: tuple[Imported, Diagnosis]) -> None:
    imported, found = diagnosed
    assert found.present == imported.plan_file
    assert len(found.changes) <= MOST_CHANGES
    gains = [change.gain for change in found.changes]
    assert gains == sorted(gains, reverse=True)
    for change in (*found.changes, *([found.best] if found.best else [])):
        estimate = change.plan_file.estimated()
        assert change.gain == found.present.estimated().step_seconds / estimate.step_seconds - 1
        assert lacking_bytes(estimate, change.plan_file.cluster) == 0
        assert change.words
        assert change.keys
        assert change.plan_file.plan.global_batch == found.present.plan.global_batch
    assert found.best is not None
    assert found.best.gain >= max(gains, default=0)


def test_what_is_suggested_runs_in_the_framework(diagnosed: tuple[Imported, Diagnosis]) -> None:
    """Its file says the suggestion, and its stack runs it."""
    imported, found = diagnosed
    runs = found.present.training.software.runs
    for change in (*found.changes, *([found.best] if found.best else [])):
        _, back = express(change.plan_file, imported.target)
        assert choices_of(back) == choices_of(change.plan_file)
        mesh, plan = change.plan_file.plan.mesh, change.plan_file.plan
        assert mesh.pp == 1 or plan.schedule in runs.schedules
        assert mesh.cp == 1 or plan.context_parallel in runs.context_parallel
        assert plan.zero_stage in (0, *runs.zero_stages)
        assert change.plan_file.training.stack == found.present.training.stack


def test_the_keys_that_change_are_those_of_the_framework() -> None:
    found = diagnose(SETUPS["megatron"]())
    first = next(change for change in found.changes if "recompute" in change.words[0])
    assert first.words == ("recompute none instead of full",)
    assert first.keys == (
        "--recompute-granularity: full -> left out",
        "--recompute-method: uniform -> left out",
        "--recompute-num-layers: 1 -> left out",
    )
    assert first.gain > 0.2
    assert list(key_differences(found.present, found.present, SETUPS["megatron"]().target)) == []


def test_a_setup_that_does_not_fit_gets_one_that_does() -> None:
    """ZeRO-1 of 70B without recompute on 16 GPUs."""
    text = setups.MEGATRON_DENSE.replace("--num-layers 32", "--num-layers 80").replace("4096", "8192")
    imported = read(text.replace("--ffn-hidden-size 14336", "--ffn-hidden-size 28672"))
    found = diagnose(imported)
    assert found.lacking is not None
    assert "GiB too much" in found.lacking
    assert found.best is not None
    assert lacking_bytes(found.best.plan_file.estimated(), found.best.plan_file.cluster) == 0


def test_one_change_is_found_on_a_stack_without_the_way_that_idle_axes_name() -> None:
    """A plan with cp 1 says how keys would be exchanged, which DeepSpeed does not run; it exchanges none."""
    text = '{"train_batch_size": 256, "train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": true}, "zero_optimization": {"stage": 3}}'
    found = diagnose(read(text, "ds.json", model="llama-2-13b", seq_len=4096))
    assert found.lacking is not None
    assert ("micro_batch 1 instead of 2",) in [change.words for change in found.changes]
