"""Updates of adapters: by PEFT in one process, and by the engine under a plan, both from one folder in PEFT's format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import ReadAdapters, is_adapter, peft_adapters, read_peft_folder
from shardwright.executor.model import read_skeleton
from shardwright.executor.parallel import Engine, build_engine
from shardwright.executor.parallel import compiled as compiler
from shardwright.specs.trainable import FEED_FORWARD_MODULES
from tests.parity import updates
from tests.parity.updates import LEARNING_RATE, SEED, STEPS, Run, batch, reference_model
from tests.parity.worlds import run_again

RANK, ALPHA = 4, 6.0


def peft_model(plan_file: PlanFile, targets: list[str] | str) -> Any:
    """The plain model with the engine's initial weights, beside adapters of which no matrix is zero."""
    torch.manual_seed(3)
    transposed = plan_file.model_config_json["model_type"] == "gpt2"
    plain = reference_model(plan_file)
    parameters = expert_parameters(plan_file, plain)
    if parameters:
        targets = [name for name in targets if name not in FEED_FORWARD_MODULES]
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,  # type: ignore[arg-type]  # PEFT only multiplies by it
        target_modules=targets,
        target_parameters=parameters or None,
        init_lora_weights=False,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(plain, config)


def expert_parameters(plan_file: PlanFile, model: torch.nn.Module) -> list[str]:
    """What PEFT adapts of stacked experts for the targets of the plan, and as parameters the linears beside them, whose names it
    would read as those of experts. Routers are called otherwise."""
    adapts = plan_file.training.trainable.adapts
    names = [name for name, _ in model.named_parameters()]
    if not any(name.endswith("experts.gate_up_proj") for name in names):
        return []
    found = ["gate_up_proj"] * adapts("gate_proj", "up_proj") + ["down_proj"] * adapts("down_proj")
    linears = tuple(f".{name}.weight" for name in FEED_FORWARD_MODULES if adapts(name))
    return [name for name in names if name.endswith((*(f"experts.{weight}" for weight in found), *linears))]


def peft_run(plan_file: PlanFile, targets: list[str] | str, folder: Path, *, scale: float = 1.0) -> Run:
    """Train by PEFT alone: one process, the whole batch at once. `folder` receives the adapters that it starts from.

    `scale`: a fault, by which the scale of the adapters is off.
    """
    model = peft_model(plan_file, targets)
    model.save_pretrained(folder)
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= scale
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE)
    before, losses, norms = _adapters(model), [], []
    for step in range(STEPS):
        inputs, labels = batch(step, plan_file)
        logits = model(input_ids=inputs).logits.float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels.flatten())
        torch.autograd.backward(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, torch.inf)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return Run(before, _adapters(model), tuple(losses), tuple(norms))


def _adapters(model: Any) -> dict[str, Tensor]:
    named = ((name.replace(".default", ""), value) for name, value in model.named_parameters() if value.requires_grad)
    return {name: value.detach().clone() for name, value in named}


def engine_adapter_runs(
    plan_file: PlanFile, folder: Path, *, compiled: bool = False, sabotage: Callable[[], None] | None = None
) -> list[Run]:
    """Train under the plan, from the adapters in `folder`."""
    return run_again(plan_file.plan.mesh.ranks, adapter_run, plan_file, folder, compiled, sabotage)


def adapter_run(
    plan_file: PlanFile, folder: Path, compiled: bool = False, sabotage: Callable[[], None] | None = None
) -> Run:
    """Train as one rank of a world that is up."""
    if sabotage is not None:
        sabotage()
    if compiled:  # graphs and no code, which takes seconds, not a minute
        torch._dynamo.reset()  # other shapes than those of an earlier plan would be compiled for every shape
        compiler.BACKEND = "aot_eager"
    run = updates.train(adapter_engine(plan_file, folder, compiled=compiled), plan_file)
    return Run(peft_adapters(run.before), peft_adapters(run.after), run.losses, run.norms)


def adapter_engine(plan_file: PlanFile, folder: Path, *, compiled: bool = False) -> Engine:
    read, cpu = read_peft_folder(folder, plan_file, read_skeleton(plan_file)), torch.device("cpu")
    initial = ReadAdapters(read.settings, read.pairs, cpu)
    return build_engine(plan_file, device=cpu, seed=SEED, adapters=initial, compile_layers=compiled)


def frozen_tensors(engine: Engine) -> dict[str, Tensor]:
    """The frozen weights whole, by name."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for part in engine.model_parts
        for name, value in part.named_parameters()
        if not is_adapter(name) and not value.requires_grad
    }
