"""Runs in phases: each phase's steps under its own plan, as one process takes them that knows no phases of ranks."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardwright.base.errors import SpecError
from shardwright.base.stopping import StopRequest
from shardwright.costmodel.phases import Phase, PhasesFile, write_phases_file
from shardwright.executor.data.token_streams import TextFiles
from shardwright.executor.data.windows import Begins, shuffled
from shardwright.executor.loop import schedules
from shardwright.executor.options import RunOptions
from shardwright.executor.run.launching import launch
from shardwright.executor.run.rank import run_rank
from shardwright.executor.training import Trainee, checkpoint, handing_over, trainer
from shardwright.executor.training.manifest import MANIFEST
from shardwright.executor.training.run_folder import RunFolder
from shardwright.specs.plan import Plan
from tests.executor.runs import VOCABULARY, Stopped, options, text_file
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import SEED, reference_model
from tests.parity.worlds import run_world

LENGTHS = (16, 32)
BATCHES = (8, 2)
STEPS = (3, 4)


def phased(first: Plan, second: Plan) -> PhasesFile:
    """Three steps of 8 sequences of 16 tokens, and then four of 2 of 32, with AdamW, whose state a new phase needs. The model has as many layers
    as the plan."""
    files = [
        plan_file(model_config("llama", layers=each.layer_count, vocab_size=VOCABULARY), each, seq_len=length)
        for each, length in zip((first, second), LENGTHS, strict=True)
    ]
    trained = [
        file.model_copy(update={"training": file.training.model_copy(update={"optimizer": "adamw"})}) for file in files
    ]
    return PhasesFile(
        phases=tuple(Phase(steps=steps, plan_file=file) for steps, file in zip(STEPS, trained, strict=True))
    )


def sharded(batch: int, microbatches: int = 2) -> Plan:
    return plan((layers(zero=3),), dp_shard=2, microbatches=microbatches, global_batch=batch)


def piped(batch: int, *stages: int) -> Plan:
    return plan(*((layers(count),) for count in stages or (1, 1)), pp=2, global_batch=batch)


WAYS = {
    "in-memory": (sharded(BATCHES[0]), sharded(BATCHES[1], microbatches=1)),
    "by-checkpoint": (sharded(BATCHES[0]), piped(BATCHES[1])),
    "grown": (sharded(BATCHES[0]), piped(BATCHES[1], 3, 2)),
}


def run_options(folder: Path) -> RunOptions:
    every = {"checkpoint_every": 2, "steps": sum(STEPS), "seed": SEED, "clip_norm": None, "keep_checkpoints": 9}
    return options(folder / "run", data=text_file(folder), **every)


def reference(phases: PhasesFile, run: RunOptions) -> list[float]:
    """The curriculum in one process, by transformers and torch alone: the losses of its steps."""
    first, second = (phase.plan_file for phase in phases.phases)
    model, losses, tokens = reference_model(first), list[float](), 0
    optimizer = _adamw(model, run)
    stream = TextFiles(list(run.data), VOCABULARY)
    for number, (steps, length, batch) in enumerate(zip(STEPS, LENGTHS, BATCHES, strict=True)):
        if number and second.plan.layer_count > first.plan.layer_count:
            model, optimizer = _grown(model, optimizer, reference_model(second), run)
        windows, start = (stream.length - 1) // length, -(-tokens // length)
        for step in range(steps):
            rows = []
            for sequence in range(start + step * batch, start + (step + 1) * batch):
                epoch, place = divmod(sequence, windows)
                window = shuffled(place, windows, key=f"{run.seed}/{epoch}")
                rows.append(torch.from_numpy(stream.read(window * length, length + 1)))
            taken = torch.stack(rows)
            logits = model(input_ids=taken[:, :-1]).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, taken[:, 1:].flatten())
            torch.autograd.backward(loss)
            for group in optimizer.param_groups:
                group["lr"] = schedules.learning_rate_at(len(losses) + 1, run)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        tokens += steps * batch * length
    return losses


def _adamw(model: torch.nn.Module, run: RunOptions) -> torch.optim.AdamW:
    kinds = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    groups = [{"params": of, "weight_decay": decay} for of, decay in zip(kinds, (run.weight_decay, 0.0), strict=True)]
    return torch.optim.AdamW(groups, lr=run.learning_rate, betas=run.betas, eps=run.eps)


def _grown(
    small: torch.nn.Module, before: torch.optim.AdamW, large: torch.nn.Module, run: RunOptions
) -> tuple[torch.nn.Module, torch.optim.AdamW]:
    """From two layers to five: the first is followed by one copy, the second by two, and copies begin with outputs of zero."""
    own, optimizer = dict(small.named_parameters()), _adamw(large, run)
    sources = {0: (0, True), 1: (0, False), 2: (1, True), 3: (1, False), 4: (1, False)}
    for name, parameter in large.named_parameters():
        source, kept = name, True
        if ".layers." in name:
            layer = int(name.split(".layers.")[1].split(".")[0])
            source, kept = name.replace(f".layers.{layer}.", f".layers.{sources[layer][0]}."), sources[layer][1]
        silent = not kept and name.endswith(("o_proj.weight", "down_proj.weight"))
        parameter.data.copy_(torch.zeros_like(parameter) if silent else own[source].data)
        if kept:
            optimizer.state[parameter] = {key: value.clone() for key, value in before.state[own[source]].items()}
    return large, optimizer


def losses(
    phases: PhasesFile, run: RunOptions, stop_after: int | None = None, fault: Callable[[], None] | None = None
) -> tuple[list[float], list[str]]:
    """The losses of the run's steps on the ranks of its plans, and what was told."""
    run.out.mkdir(parents=True, exist_ok=True)
    store = run.out.parent / f"store-{stop_after}"
    return run_world(phases.phases[0].plan_file.plan.mesh.ranks, _run, phases, run, store, stop_after, fault)[0]


def _run(
    phases: PhasesFile, run: RunOptions, store: Path, stop_after: int | None, fault: Callable[[], None] | None
) -> tuple[list[float], list[str]]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), SHARDWRIGHT_STORE=str(store))
    if fault is not None:
        fault()
    told: list[str] = []

    def progress(line: str) -> None:
        told.append(line)
        if line.startswith(f"step {stop_after}/"):
            raise Stopped

    folder = RunFolder(run.out)
    folder.failures.mkdir(exist_ok=True)
    measurement = run_rank(phases, run, folder, progress, StopRequest())
    return [record.loss for record in measurement.steps], told


@pytest.mark.parametrize("way", WAYS)
def test_the_losses_of_two_phases_are_those_of_one_process(way: str, tmp_path: Path) -> None:
    """16 tokens x 8 x 3 are 384 tokens: the second phase begins at the sequence 12 of 32 tokens."""
    phases, run = phased(*WAYS[way]), run_options(tmp_path)
    assert [span.sequences_before for span in phases.spans] == [0, 12]
    assert [span.from_memory for span in phases.spans] == [False, way == "in-memory"]
    own, told = losses(phases, run)
    assert own == pytest.approx(reference(phases, run), rel=1e-5)
    read = [line for line in told if line.startswith("continuing from")]
    assert len(read) == (way != "in-memory")
    assert [line for line in told if line.startswith("phase 2")] == [
        f"phase 2 of 2: steps 4 to 7, 2 sequences of 32 tokens, {WAYS[way][1].mesh}"
    ]
    kept = {int(path.name.removeprefix("step-")) for path in (run.out / "checkpoints").glob("step-*")}
    assert kept == {2, 4, 6, 7} | (set() if way == "in-memory" else {3})


def _forget_the_optimizer() -> None:
    """What is handed over lacks the moments: the next phase begins with those of a new optimizer."""
    whole = handing_over.take_over

    def forgetful(held: handing_over.HandedOver, trainee: Trainee) -> None:
        for name, tensor in held.tensors.items():
            if name.startswith("optimizer."):
                tensor.zero_()
        whole(held, trainee)

    vars(trainer)["take_over"] = forgetful


def _begin_at_the_first_sequence() -> None:
    Begins.first = lambda self, step, global_batch: (step - 1) * global_batch  # type: ignore[method-assign]


def _speak_at_once() -> None:
    """New layers begin with the outputs of what they are copies of."""
    vars(checkpoint)["Growth"].silence = lambda self, tensors: None


@pytest.mark.parametrize(
    ("fault", "way"),
    [(_forget_the_optimizer, "in-memory"), (_begin_at_the_first_sequence, "in-memory"), (_speak_at_once, "grown")],
)
def test_a_phase_that_begins_wrongly_shows(fault: Callable[[], None], way: str, tmp_path: Path) -> None:
    phases, run = phased(*WAYS[way]), run_options(tmp_path)
    own, _ = losses(phases, run, fault=fault)
    expected = reference(phases, run)
    assert own[:3] == pytest.approx(expected[:3], rel=1e-5)
    assert own[4:] != pytest.approx(expected[4:], rel=1e-3)


@pytest.mark.parametrize(("way", "killed"), [("by-checkpoint", 5), ("grown", 4)])
def test_a_run_that_is_killed_in_its_second_phase_goes_on_there(way: str, killed: int, tmp_path: Path) -> None:
    """A grown model whose own checkpoint is not written yet grows again."""
    phases, run = phased(*WAYS[way]), run_options(tmp_path)
    with pytest.raises(AssertionError, match=r"died with exit code -9|Stopped"):
        losses(phases, run, stop_after=killed)
    own, told = losses(phases, run)
    assert own == pytest.approx(reference(phases, run), rel=1e-5)
    assert any(line.endswith(f"after step {killed - 1}") for line in told)
    assert not any(line.startswith("phase 1") for line in told)


def test_a_damaged_checkpoint_of_the_second_phase_leads_back_into_the_first(tmp_path: Path) -> None:
    phases, run = phased(*WAYS["in-memory"]), run_options(tmp_path)
    with pytest.raises(AssertionError, match=r"died with exit code -9|Stopped"):
        losses(phases, run, stop_after=5)
    newest = run.out / "checkpoints" / "step-000004"
    largest = max((path for path in newest.iterdir() if path.name != MANIFEST), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    own, told = losses(phases, run)
    assert own == pytest.approx(reference(phases, run), rel=1e-5)
    begun = [line.partition(":")[0] for line in told if line.startswith("phase")]
    assert begun == ["phase 2 of 2", "phase 1 of 2", "phase 2 of 2"]


def test_options_that_contradict_the_phases_are_refused(tmp_path: Path) -> None:
    write_phases_file(tmp_path / "phases.json", phased(*WAYS["by-checkpoint"]))
    run = run_options(tmp_path)
    for changes, words in (
        ({"steps": 5}, "its phases have 7 steps"),
        ({"until_tokens": 500}, "its phases have 7 steps"),
        ({"checkpoint_every": None}, "begins with a checkpoint"),
    ):
        given = {**run.model_dump(include=run.model_fields_set), **changes}
        with pytest.raises(SpecError, match=words):
            launch(tmp_path / "phases.json", RunOptions(**given))
    assert not run.out.exists()
    assert json.loads((tmp_path / "phases.json").read_text())["kind"] == "shardwright-phases"
