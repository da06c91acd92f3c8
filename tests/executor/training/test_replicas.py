"""Runs whose replicas agree approximately: resumed exactly after a kill, taken over by another plan, exported and merged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.export import ExportOptions, export_weights
from shardwright.executor.replicas.compressed import CompressedGradients
from shardwright.executor.training.run_folder import RunFolder, RunIdentity
from shardwright.specs.plan import Outer, Sync
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan
from tests.parity.worlds import RankFailedError

# step 4 of 6 is saved: inside a warm-up's aftermath, inside a round, and while means are on their way
SYNCS = {
    "8-bit": Sync(bits=8),
    "1-bit Adam": Sync(bits=1, warmup_steps=2),
    "Streaming DiLoCo": Sync(inner_steps=3, fragments=2, bits=4, delay=2, outer=Outer(keeps_local=0.5)),
    "CO2": Sync(inner_steps=3, delay=3, outer=Outer()),
    "islands": Sync(inner_steps=None),
}


def file_of(sync: Sync, *, shards: int = 1) -> PlanFile:
    degrees: dict[str, Any] = {"dp_replicate": 2, "dp_shard": shards}
    return tiny(plan((layers(zero=3 if shards > 1 else 0),), **degrees).model_copy(update={"sync": sync}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint; shards of one name lie in several files, and are joined."""
    found: dict[str, list[torch.Tensor]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            found.setdefault(name, []).append(tensor)
    return {name: torch.cat([one.reshape(-1) for one in parts]) for name, parts in found.items()}


@pytest.mark.parametrize("name", SYNCS)
def test_a_killed_run_goes_on_to_the_bit(name: str, tmp_path: Path, data: Path) -> None:
    file = file_of(SYNCS[name])
    run = options(tmp_path / "whole", data=data, checkpoint_every=4)
    whole = losses(file, run)
    cut = options(tmp_path / "cut", data=data, checkpoint_every=4)
    with pytest.raises(RankFailedError):
        losses(file, cut, stop_after_step=5)
    assert losses(file, cut) == whole
    one, other = (weights(folder / "checkpoints" / "step-000006") for folder in (run.out, cut.out))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_its_state_is_needed(tmp_path: Path, data: Path) -> None:
    """Errors that a resume leaves out show in what follows."""
    file = file_of(SYNCS["1-bit Adam"])
    whole = losses(file, options(tmp_path / "whole", data=data, checkpoint_every=4))
    cut = options(tmp_path / "cut", data=data, checkpoint_every=4)
    with pytest.raises(RankFailedError):
        losses(file, cut, stop_after_step=5)
    assert losses(file, cut, before=_forget_errors) != whole


def _forget_errors() -> None:
    """On a rank: what a checkpoint gives is read into copies, which nobody looks at."""
    held = CompressedGradients.state

    def copies(self: CompressedGradients, step: int) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in held(self, step).items()}

    CompressedGradients.state = copies  # type: ignore[method-assign]  # the process ends with its run


def test_shards_are_resumed_too(tmp_path: Path, data: Path) -> None:
    file = file_of(SYNCS["Streaming DiLoCo"], shards=2)
    whole = losses(file, options(tmp_path / "whole", data=data, checkpoint_every=4))
    cut = options(tmp_path / "cut", data=data, checkpoint_every=4, checkpoint="async")
    with pytest.raises(RankFailedError):
        losses(file, cut, stop_after_step=5)
    assert losses(file, cut) == whole


def test_another_plan_takes_the_first_replica(tmp_path: Path, data: Path) -> None:
    """From islands to an exact plan, and from an exact plan to local steps."""
    run = options(tmp_path / "islands", data=data)
    losses(file_of(SYNCS["islands"]), run)
    exact, told = file_of(Sync()), list[str]()
    on = options(tmp_path / "exact", data=data, steps=8, resume_from=run.out / "checkpoints" / "step-000006")
    losses(exact, on, told=told)
    assert any("continuing from" in line for line in told)
    told.clear()
    back = options(tmp_path / "local", data=data, steps=9, resume_from=on.out / "checkpoints" / "step-000008")
    found = losses(file_of(SYNCS["CO2"]), back, told=told)
    assert any("every replica starts from its first one" in line for line in told)
    assert math.isfinite(found[-1])


def test_islands_are_exported_and_merged(tmp_path: Path, data: Path) -> None:
    file, run = file_of(SYNCS["islands"]), options(tmp_path / "run", data=data)
    RunFolder(run.out).prepare(file, run, RunIdentity(plan_digest="", data_digest="", seed=0))
    losses(file, run)
    said: list[str] = []
    held = weights(run.out / "checkpoints" / "step-000006")
    export_weights(run.out, ExportOptions(to=tmp_path / "first"), progress=said.append)
    assert "of the first of 2 replicas" in said[-1]
    export_weights(run.out, ExportOptions(to=tmp_path / "mean", merge=True), progress=said.append)
    assert "the mean of 2 replicas" in said[-1]
    first, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "mean"))
    for name, value in first.items():
        own, other = held[f"model.{name}"], held[f"replica-1.model.{name}"]
        assert not torch.equal(own, other)
        assert torch.equal(value.reshape(-1), own)
        assert torch.allclose(mean[name].reshape(-1), (own + other) / 2)


def test_one_model_is_not_merged(tmp_path: Path, data: Path) -> None:
    file, run = file_of(SYNCS["8-bit"]), options(tmp_path / "run", data=data)
    RunFolder(run.out).prepare(file, run, RunIdentity(plan_digest="", data_digest="", seed=0))
    losses(file, run)
    with pytest.raises(SpecError, match="weights of one replica, and --merge"):
        export_weights(run.out, ExportOptions(to=tmp_path / "mean", merge=True), progress=lambda _line: None)
