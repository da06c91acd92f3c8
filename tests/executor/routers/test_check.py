"""The loss on routers is that of each class of transformers, and refused where a class has none."""

from typing import Any

import pytest
import torch

from shardwright.base import SpecError
from shardwright.executor.model import read_skeleton
from shardwright.executor.routers import check, check_router_loss, load_balancing_loss, sums_of
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES

_ASKED = {"output_router_logits": True}


def _check(config: dict[str, Any], **training: Any) -> None:
    given = plan_file(config, plan((layers(),)), **training)
    check_router_loss(given, read_skeleton(given))


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])
def test_the_loss_is_that_of_the_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(FAMILIES[name] | _ASKED)
    monkeypatch.setattr(check, "load_balancing_loss", lambda sums, rows: 1.001 * load_balancing_loss(sums, rows))
    with pytest.raises(SpecError, match=r"computes another loss on routers .*; set output_router_logits to false"):
        _check(FAMILIES[name] | _ASKED)


@pytest.mark.parametrize(
    ("config", "training", "words"),
    [
        (
            FAMILIES["deepseek_v3"] | _ASKED,
            {},
            "DeepseekV3ForCausalLM has no loss on routers; set output_router_logits",
        ),
        (FAMILIES["mixtral"] | _ASKED, {"trainable": "layers:1"}, "is not trained beside frozen weights"),
    ],
)
def test_refusals(config: dict[str, Any], training: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        _check(config, **training)
    assert "\n" not in str(refused.value)


def test_even_routing_costs_as_much_as_a_token_has_experts() -> None:
    """Each of E experts is chosen k / E times a token, with a probability of 1 / E: E * E * k / E / E."""
    logits = [torch.eye(4).roll(shift, 1) for shift in range(2)]
    assert float(load_balancing_loss(sums_of(logits, 2), rows=8.0)) == pytest.approx(2.0)
