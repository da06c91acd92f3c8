from pathlib import Path
from typing import Any

import torch
from torch import nn

from shardwright.executor.options import RunOptions
from shardwright.executor.training.optimizer import build_optimizer, host_optimizer, set_learning_rate


def options(**given: Any) -> RunOptions:
    return RunOptions(out=Path("run"), **given)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)


class TestOptimizer:
    def test_a_stacked_bias_does_not_decay(self) -> None:
        """GPT-2's of (3, hidden), and gpt-oss' of (experts, columns)."""
        model = nn.Module()
        for name in ("gate_up_proj", "gate_up_proj_bias", "bias"):
            model.register_parameter(name, nn.Parameter(torch.ones(3, 2)))
        optimizer = build_optimizer([model], "adamw", options(weight_decay=0.5))
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert [decays[id(parameter)] for parameter in model.parameters()] == [0.5, 0.0, 0.0]

    def test_decay_acts_on_matrices_alone(self) -> None:
        """With zero gradients a step moves nothing but by decay."""
        model = Model()
        for parameter in model.parameters():
            nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        build_optimizer([model], "adamw", options(weight_decay=0.5, learning_rate=0.1)).step()
        for name, parameter in model.named_parameters():
            expected = 1 - 0.1 * 0.5 if name == "matrix.weight" else 1.0
            assert torch.allclose(parameter, torch.full_like(parameter, expected)), name

    def test_adamw_takes_its_constants_from_the_options(self) -> None:
        given = options(betas=(0.8, 0.7), eps=1e-3, learning_rate=0.01, weight_decay=0.2)
        ours, reference = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        reference.load_state_dict(ours.state_dict())
        theirs = torch.optim.AdamW(reference.parameters(), lr=0.01, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.2)
        optimizer = build_optimizer([ours], "adamw", given)
        for step in range(3):
            gradient = torch.full((3, 3), 0.1 * (step + 1))
            ours.weight.grad, reference.weight.grad = gradient.clone(), gradient.clone()
            optimizer.step()
            theirs.step()
        torch.testing.assert_close(ours.weight, reference.weight)

    def test_sgd_is_plain(self) -> None:
        model = nn.Linear(2, 2, bias=False)
        before = model.weight.detach().clone()
        optimizer = build_optimizer([model], "sgd", options(learning_rate=0.5, weight_decay=0.0))
        for _ in range(2):
            model.weight.grad = torch.ones(2, 2)
            optimizer.step()
        torch.testing.assert_close(model.weight.detach(), before - 1.0)

    def test_the_rate_of_the_step_reaches_every_group(self) -> None:
        model = Model()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = build_optimizer([model], "sgd", options(learning_rate=1.0, weight_decay=0.0))
        set_learning_rate(optimizer, 0.25)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] - 0.25, msg=name)

    def test_a_rank_without_norms_or_without_matrices_is_fine(self) -> None:
        for model in (nn.LayerNorm(4), nn.Linear(2, 2, bias=False)):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            build_optimizer([model], "adamw", options()).step()

    def test_frozen_parameters_stay(self) -> None:
        model = Model()
        model.norm.requires_grad_(False)
        optimizer = build_optimizer([model], "adamw", options())
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in model.matrix.parameters()}


def test_state_that_is_made_early_is_that_of_before_the_first_step() -> None:
    torch.manual_seed(0)
    models = [Model(), Model()]
    models[1].load_state_dict(models[0].state_dict())
    early, late = (host_optimizer([model], "adamw", options(), None, scaled=model is models[0]) for model in models)
    assert len(early.device_state) == 4
    assert not late.device_state
    for model, optimizer in zip(models, (early, late), strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
    for own, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(own, other)
