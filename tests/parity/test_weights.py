"""Weights come in and go out under every plan: a checkpoint of transformers, trained by plans in turn, is the one that one process trains.

Each plan reads what the one before exported, so that every plan reads and writes.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.data.windows import open_batches
from shardwright.executor.export import ExportOptions, export_weights
from shardwright.executor.model import read_skeleton
from shardwright.executor.options import RunOptions
from shardwright.executor.parallel import build_engine
from shardwright.executor.training import checkpoint, host_optimizer
from shardwright.executor.training.run_folder import RunFolder, RunIdentity
from shardwright.executor.training.trainer import Trainer
from shardwright.executor.weights import Pretrained, elements, read_pretrained, reader
from shardwright.executor.weights.nodes import InFile, Region
from shardwright.specs.plan import Plan
from tests.executor.runs import VOCABULARY, text_file
from tests.parity.cases import GLOBAL_BATCH, SEQ_LEN, layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS
from tests.parity.offload import offloaded
from tests.parity.worlds import RankFailedError, run_in_turn, run_world

LEARNING_RATE = 0.02
STEPS_OF_A_PLAN = 2
TOLERANCE = 1e-5
"""Largest relative error of a weight after twelve steps; good runs show about 1e-6."""

PLANS: dict[str, Plan] = {
    "tp": plan((layers(),), tp=2),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "fsdp": plan((layers(zero=3),), dp_shard=2),
    "ep": plan((layers(zero=2),), dp_shard=2, ep=2),
    "cp": plan((layers(),), cp=2),
    "offload": plan((layers(zero=3),), dp_shard=2, offload=True),
}
WITHOUT_EXPERTS = {**PLANS, "ep": plan((layers(zero=1),), dp_shard=2)}
UNFUSED = {**PLANS, "cp": plan((layers(zero=2),), dp_shard=2)}
"""transformers has no fused attention for gpt-oss, which cp needs."""
CHAINS = {
    "llama": (FAMILIES["llama"], WITHOUT_EXPERTS),
    "qwen3_moe": (FAMILIES["qwen3_moe"], PLANS),
    "gemma": (OTHERS["gemma"], WITHOUT_EXPERTS),
    "gpt2": (FAMILIES["gpt2"], WITHOUT_EXPERTS),
    "deepseek_v3": (FAMILIES["deepseek_v3"], PLANS),
    "gpt_oss": (FAMILIES["gpt_oss"], UNFUSED),
}


def saved(config: dict[str, Any], folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A random checkpoint in transformers' own layout, whose norms, biases and buffers are random too."""
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    model: PreTrainedModel = build(CONFIG_MAPPING[config["model_type"]](**config), dtype=dtype)
    for tensor in model.state_dict().values():
        tensor.add_(torch.empty_like(tensor).uniform_(0.01, 0.1))
    model.save_pretrained(folder, max_shard_size="60KB")
    return model


def _options(
    folder: Path, data: Path, init: Path, *, seed: int = 0, rate: float = LEARNING_RATE, steps: int = STEPS_OF_A_PLAN
) -> RunOptions:
    return RunOptions(
        out=folder,
        data=(data,),
        init_from=init,
        steps=steps,
        learning_rate=rate,
        min_learning_rate_fraction=1,
        warmup_steps=0,
        weight_decay=0,
        clip_norm=None,
        seed=seed,
        timing_warmup_steps=0,
    )


def train_and_export(file: PlanFile, options: RunOptions, to: Path, sabotage: Callable[[], None] | None = None) -> None:
    """Take the steps of a run and export its weights, as one rank of a world that is up."""
    if sabotage is not None:
        sabotage()
    folder = RunFolder(options.out)
    if dist.get_rank() == 0:
        folder.prepare(file, options, RunIdentity(plan_digest="", data_digest="", seed=options.seed))
    dist.barrier()
    Trainer(file, options, folder, device=torch.device("cpu"), progress=lambda _: None).run()
    dist.barrier()
    if dist.get_rank() == 0:
        export_weights(options.out, ExportOptions(to=to, max_shard_size="60KB"), progress=lambda _: None)
    dist.barrier()


def trained_alone(start: Path, data: Path, legs: int, steps: int = STEPS_OF_A_PLAN) -> PreTrainedModel:
    """The same steps by transformers and torch in this process."""
    model = loaded(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for leg in range(legs):
        options = _options(Path(), data, start, seed=leg)
        batches = open_batches(options, seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, vocab_size=VOCABULARY)
        for step in range(1, steps + 1):
            inputs, labels = batches.at(step)
            logits = model(input_ids=inputs).logits.float().flatten(0, 1)
            torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels.flatten()))
            optimizer.step()
            optimizer.zero_grad()
    return model


def loaded(folder: Path) -> PreTrainedModel:
    """What transformers makes of a folder, without a word about its keys."""
    found: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found[1].values()), found[1]
    model: PreTrainedModel = found[0].eval()
    return model


def worst_error(own: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Largest relative error ||own - reference|| / ||reference|| of a tensor."""
    assert own.keys() == reference.keys()
    return max(float((own[name] - value).norm() / value.norm().clamp(min=1e-12)) for name, value in reference.items())


def generated(model: PreTrainedModel) -> Tensor:
    prompt = torch.arange(10, 18)[None]
    tokens: Tensor = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)  # type: ignore[operator]  # transformers'
    return tokens


Call = tuple[PlanFile, RunOptions, Path]


def chain(
    folder: Path, family: str, config: dict[str, Any], plans: Mapping[str, Plan], *, steps: int
) -> dict[str, Call]:
    """Save a checkpoint of a family, and return the calls that train it under each plan in turn, from the export of the one before."""
    config, data, source = {**config, "vocab_size": VOCABULARY}, text_file(folder), folder / f"{family}-start"
    saved(config, source)
    calls = {}
    for index, (name, divided) in enumerate(plans.items()):
        options = _options(folder / f"{family}-run-{name}", data, source, seed=index, steps=steps)
        source = folder / f"{family}-from-{name}"
        calls[f"{family}, {name}"] = (plan_file(config, divided), options, source)
    return calls


def check_chain(folder: Path, family: str, names: list[str], *, steps: int) -> None:
    """The last export is the checkpoint that one process trains, and generates the same tokens."""
    start = folder / f"{family}-start"
    own = loaded(folder / f"{family}-from-{names[-1]}")
    alone = trained_alone(start, folder / "text.txt", len(names), steps)
    assert worst_error(own.state_dict(), loaded(start).state_dict()) > 1e-3, f"{family}: nothing was trained"
    assert worst_error(own.state_dict(), alone.state_dict()) <= TOLERANCE, family
    assert torch.equal(generated(own), generated(alone)), family


def run_chains(folder: Path, chains: Mapping[str, tuple[dict[str, Any], dict[str, Plan]]], *, steps: int) -> None:
    """Run chains in one world, whose processes know how to divide what they divided before, and check each."""
    calls: dict[str, Call] = {}
    for family, (config, plans) in chains.items():
        calls |= chain(folder, family, config, plans, steps=steps)
    run_in_turn(2, train_and_export, calls, timeout_seconds=600.0)
    for family, (_, plans) in chains.items():
        check_chain(folder, family, list(plans), steps=steps)


@pytest.mark.parametrize(
    "families", [["llama", "qwen3_moe", "gpt2"], ["gemma", "deepseek_v3", "gpt_oss"]], ids=", ".join
)
def test_six_plans_in_turn_train_a_checkpoint_as_one_process_does(families: list[str], tmp_path: Path) -> None:
    run_chains(tmp_path, {family: CHAINS[family] for family in families}, steps=STEPS_OF_A_PLAN)


WHOLE = os.environ.get("PARITY_CHAINS") == "all"
"""Whether the other families go through all six plans and twelve steps, too. Without, each takes a step under three of them."""
OTHER_FAMILIES = [family for family in FAMILIES if family not in CHAINS]
EXPERTS = {"mixtral", "qwen2_moe", "deepseek_v2"}


def other_chain(index: int) -> tuple[dict[str, Any], dict[str, Plan]]:
    family = OTHER_FAMILIES[index]
    plans = PLANS if family in EXPERTS else WITHOUT_EXPERTS
    names = list(plans) if WHOLE else list(plans)[index // 2 % 2 :: 2]
    return FAMILIES[family], {name: plans[name] for name in names}


@pytest.mark.parametrize("half", range(2))
def test_the_other_families_too(half: int, tmp_path: Path) -> None:
    chains = {OTHER_FAMILIES[index]: other_chain(index) for index in range(half, len(OTHER_FAMILIES), 2)}
    run_chains(tmp_path, chains, steps=STEPS_OF_A_PLAN if WHOLE else 1)


NO_RATE = 1e-20
"""A learning rate that changes no weight in fp32."""


def test_every_family_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Bit for bit, with fused projections, stacked experts, tied embeddings and buffers, under plans in turn."""
    data, calls, names = text_file(tmp_path), {}, list(WITHOUT_EXPERTS)
    for index, (family, config) in enumerate((FAMILIES | OTHERS).items()):
        config = {**config, "vocab_size": VOCABULARY}
        name = names[
            index % (len(names) if family in FAMILIES else 3)
        ]  # cp does not run with the attention of all others
        divided = UNFUSED[name] if family == "gemma2" else WITHOUT_EXPERTS[name]
        saved(config, tmp_path / family)
        options = _options(tmp_path / f"run-{family}", data, tmp_path / family, rate=NO_RATE)
        calls[family] = (plan_file(config, divided), options, tmp_path / f"from-{family}")
    run_in_turn(2, train_and_export, calls)
    for family in calls:
        own, start = loaded(tmp_path / f"from-{family}").state_dict(), loaded(tmp_path / family).state_dict()
        assert [name for name, value in start.items() if not torch.equal(own[name], value)] == [], family


def write_no_buffers() -> None:
    """As earlier versions did."""
    checkpoint._buffers = lambda trainee: {}


@pytest.mark.parametrize("fault", [None, write_no_buffers])
def test_the_bias_of_a_router_lasts_through_checkpoints(fault: Callable[[], None] | None, tmp_path: Path) -> None:
    """It is a buffer, which no gradient trains. A checkpoint without is read, and not exported before it is written anew."""
    config = {**FAMILIES["deepseek_v3"], "vocab_size": VOCABULARY}
    saved(config, tmp_path / "start")
    first, second = (plan_file(config, PLANS[name]) for name in ("fsdp", "pp"))
    options = _options(tmp_path / "one", text_file(tmp_path), tmp_path / "start", rate=NO_RATE)
    if fault is not None:
        with pytest.raises(RankFailedError, match=r"mlp.gate.e_score_correction_bias', which earlier versions did not"):
            run_world(2, train_and_export, first, options, tmp_path / "none", fault)
    else:
        run_world(2, train_and_export, first, options, tmp_path / "some", fault)
    newest = tmp_path / "one" / "checkpoints" / "step-000002"
    more = {"out": tmp_path / "two", "init_from": None, "resume_from": newest, "steps": 2 * STEPS_OF_A_PLAN}
    run_world(2, train_and_export, second, options.model_copy(update=more), tmp_path / "to")
    own, start = loaded(tmp_path / "to").state_dict(), loaded(tmp_path / "start").state_dict()
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert torch.equal(own[bias], torch.zeros(4) if fault else start[bias])
    assert start[bias].norm() > 0


OFF_DEVICE: dict[str, tuple[Plan, dict[str, float]]] = {
    "host and device": (plan((layers(zero=3),), dp_shard=2), {"optimizer_fraction": 0.5}),
    "drives and host": (plan((layers(zero=3),), dp_shard=2), {"optimizer_fraction": 1, "nvme_fraction": 0.5}),
    "drives and device": (plan((layers(),), tp=2), {"optimizer_fraction": 0.5, "nvme_fraction": 1}),
    "streamed": (plan((layers(1),), (layers(1),), pp=2), {"optimizer_fraction": 1, "parameter_fraction": 1}),
}


def test_shares_off_the_device_come_out_as_they_went_in(tmp_path: Path) -> None:
    """Of a model so large that every place holds whole pages of it, with an optimizer that has state."""
    config = model_config("llama", hidden_size=64, intermediate_size=96, vocab_size=1031)
    data, calls = text_file(tmp_path), {}
    saved(config, tmp_path / "start")
    for index, (name, (divided, shares)) in enumerate(OFF_DEVICE.items()):
        file = offloaded(plan_file(config, divided), **shares)
        file = file.model_copy(update={"training": file.training.model_copy(update={"optimizer": "adamw"})})
        options = _options(tmp_path / f"run-{index}", data, tmp_path / "start", rate=NO_RATE)
        calls[name] = (file, options, tmp_path / name)
    run_in_turn(2, train_and_export, calls)
    start = loaded(tmp_path / "start").state_dict()
    for name in OFF_DEVICE:
        own = loaded(tmp_path / name).state_dict()
        assert [key for key, value in start.items() if not torch.equal(own[key], value)] == [], name


def read_everywhere_the_first_slice() -> None:
    """Every rank reads the slice of the first one."""
    original = elements

    def first(tensor: Tensor, region: Region) -> Tensor:
        return original(tensor, tuple(slice(0, bound.stop - bound.start) for bound in region))

    reader.elements = first  # type: ignore[assignment, attr-defined]


def swap_gates_and_ups() -> None:
    """Stacked gates and ups change places on the way in."""
    original = Pretrained.for_engine

    def swapped(self: Pretrained, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        found = original(self, shapes)
        return {
            name: torch.stack([value[:, 1], value[:, 0]], 1) if value.dim() == 4 else value
            for name, value in found.items()
        }

    Pretrained.for_engine = swapped  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "family", "fault"),
    [
        ("tp", "llama", read_everywhere_the_first_slice),
        ("fsdp", "llama", read_everywhere_the_first_slice),
        ("ep", "qwen3_moe", swap_gates_and_ups),
    ],
)
def test_a_fault_shows(name: str, family: str, fault: Callable[[], None], tmp_path: Path) -> None:
    """The negative controls of this file."""
    config = {**FAMILIES[family], "vocab_size": VOCABULARY}
    saved(config, tmp_path / "start")
    options = _options(tmp_path / "run", text_file(tmp_path), tmp_path / "start", rate=NO_RATE)
    run_world(2, train_and_export, plan_file(config, PLANS[name]), options, tmp_path / "to", fault)
    own, start = loaded(tmp_path / "to").state_dict(), loaded(tmp_path / "start").state_dict()
    assert worst_error(own, start) > 0.1


def elements_read_and_held(file: PlanFile, folder: Path) -> tuple[int, int]:
    """Elements that a rank reads of the files, and those of its parameters and buffers."""
    engine = build_engine(file, device=torch.device("cpu"), seed=0, draw=False)
    optimizer = host_optimizer(engine.model_parts, "sgd", RunOptions(out=Path()), engine.offload)
    trainee = checkpoint.Trainee(engine.model_parts, optimizer, engine.tied_names)
    pretrained = read_pretrained(folder, file, read_skeleton(file))
    read: list[int] = []
    original = InFile.read

    def counted(self: InFile, region: Region) -> Tensor:
        found = original(self, region)
        read.append(found.numel())
        return found

    InFile.read = counted  # type: ignore[method-assign]
    checkpoint.load_pretrained(pretrained, trainee)
    tensors = checkpoint.tensors_of(trainee, None).values()
    held = sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel() for tensor in tensors)
    return sum(read), held


@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "gpt2", "phi3"])
def test_a_rank_reads_the_elements_of_its_own_shards_and_no_others(family: str, tmp_path: Path) -> None:
    config = {**FAMILIES[family], "vocab_size": VOCABULARY}
    saved(config, tmp_path)
    names = [name for name in PLANS if name not in ("offload", *([] if family == "deepseek_v3" else ["ep"]))]
    found = run_in_turn(2, elements_read_and_held, {name: (plan_file(config, PLANS[name]), tmp_path) for name in names})
    for name in names:
        for read, held in found[name]:
            assert read == held > 0, name
