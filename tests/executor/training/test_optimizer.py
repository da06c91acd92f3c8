import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shardwright.executor.options import RunOptions
from shardwright.executor.training.optimizer import build_optimizer, learning_rate_at, set_learning_rate


def options(**given: Any) -> RunOptions:
    return RunOptions(out=Path("run"), **given)


class TestLearningRate:
    def test_golden_schedule(self) -> None:
        """Two warm-up steps, then four along the cosine to a tenth of the peak."""
        run = options(steps=6, warmup_steps=2, learning_rate=1.0, min_learning_rate_fraction=0.1)
        rates = [learning_rate_at(step, run) for step in range(1, 7)]
        root = math.sqrt(0.5)
        assert rates == pytest.approx([0.5, 1.0, 0.55 + 0.45 * root, 0.55, 0.55 - 0.45 * root, 0.1])

    def test_without_warm_up_it_begins_on_the_cosine(self) -> None:
        run = options(steps=2, warmup_steps=0, learning_rate=1.0, min_learning_rate_fraction=0.0)
        assert [learning_rate_at(step, run) for step in (1, 2)] == pytest.approx([0.5, 0.0])

    def test_all_warm_up(self) -> None:
        run = options(steps=4, warmup_steps=4, learning_rate=1.0)
        assert [learning_rate_at(step, run) for step in range(1, 5)] == pytest.approx([0.25, 0.5, 0.75, 1.0])

    @given(st.integers(1, 60).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps))))
    def test_rises_to_the_peak_then_falls_to_the_floor(self, shape: tuple[int, int]) -> None:
        steps, warmup = shape
        run = options(steps=steps, warmup_steps=warmup, learning_rate=2.0, min_learning_rate_fraction=0.25)
        rates = [learning_rate_at(step, run) for step in range(1, steps + 1)]
        assert rates[:warmup] == sorted(rates[:warmup])
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
        assert all(0 < rate <= 2.0 for rate in rates)
        assert rates[-1] == pytest.approx(2.0 if warmup == steps else 0.5)


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
