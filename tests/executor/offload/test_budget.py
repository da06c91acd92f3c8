"""Over random plans, what the engine holds on host and drives never passes what the plan states."""

import os
import random
from pathlib import Path

import pytest

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.plan import Plan
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.offload import Trained, offloaded, train
from tests.parity.worlds import run_world

PLANS = int(os.environ.get("OFFLOAD_PLANS", "24"))


def random_file(ranks: int, seed: int) -> PlanFile:
    """A plan of a small model with random widths, mesh, microbatches and shares."""
    draw = random.Random(f"{ranks} {seed}")
    config = model_config(
        draw.choice(["llama", "qwen3", "gpt2"]), layers=draw.choice([2, 4]), vocab_size=draw.randint(90, 1500)
    )
    file = plan_file(
        config, _random_plan(draw, ranks, config["n_layer" if "n_layer" in config else "num_hidden_layers"])
    )
    training = file.training.model_copy(update={"optimizer": draw.choice(["adamw", "sgd"])})
    file = file.model_copy(update={"training": training})
    on_host = draw.choice([0.125, 0.25, draw.random(), 0.75, 1])
    alone = file.plan.mesh.data_ranks == 1
    return offloaded(
        file,
        optimizer_fraction=on_host,
        gradient_fraction=on_host if alone and draw.random() < 0.5 else 0,
        parameter_fraction=draw.random() if alone and on_host == 1 else 0,
        nvme_fraction=(drives := draw.choice([0, 0, draw.random(), 1])),
        activations=draw.choice([0, draw.random(), 1]),
        delayed_update=not drives and draw.random() < 0.5,
    )


def _random_plan(draw: random.Random, ranks: int, count: int) -> Plan:
    microbatches, recompute = draw.choice([1, 2, 4]), draw.choice(["none", "full"])
    mesh = draw.choice(["dp_shard", "dp_replicate", "tp", "pp"]) if ranks > 1 else "tp"
    zero = draw.choice([1, 2, 3]) if mesh == "dp_shard" else 0
    run = layers(count // 2 if mesh == "pp" else count, zero=zero, recompute=recompute)  # type: ignore[arg-type]  # drawn from the choices
    return plan(*[(run,)] * (ranks if mesh == "pp" else 1), microbatches=microbatches, **{mesh: ranks})  # type: ignore[arg-type]  # degrees by name


def train_all(files: list[PlanFile], folder: Path) -> list[Trained]:
    """Train under each plan in turn, in one world."""
    return [train(file, 0.5 if index % 2 else None, folder) for index, file in enumerate(files)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_plan_passes_its_bytes(ranks: int, tmp_path: Path) -> None:
    files = [random_file(ranks, seed) for seed in range(PLANS // 2)]
    for rank, trained in enumerate(run_world(ranks, train_all, files, tmp_path)):
        for file, found in zip(files, trained, strict=True):
            estimate, stage = file.estimated(), rank // (ranks // file.plan.mesh.pp)
            assert found.host_limit_bytes == estimate.host_bytes[stage]
            assert found.host_peak_bytes <= estimate.host_bytes[stage], file.plan
            on_drives = sum(held for (_, place), held in found.held.items() if place == "nvme")
            assert on_drives <= estimate.nvme_bytes[stage], file.plan


def test_most_of_what_a_plan_states_is_used(tmp_path: Path) -> None:
    """Nothing holds back without need: all but what rounding and buffers take leaves the device."""
    file = plan_file(model_config("llama", layers=4, hidden_size=64, vocab_size=1031), plan((layers(4),)))
    training = file.training.model_copy(update={"optimizer": "adamw"})
    file = offloaded(file.model_copy(update={"training": training}), optimizer_fraction=0.5)
    (found,) = run_world(1, train, file, None, tmp_path)
    assert found.host_peak_bytes > 0.999 * found.host_limit_bytes
