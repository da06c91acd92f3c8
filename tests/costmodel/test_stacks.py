"""The named stacks, and that their page names them all."""

from pathlib import Path

import pytest

from shardwright.costmodel.errors import SpecError
from shardwright.costmodel.stacks import OWN_STACK, named_stack, stack_names
from shardwright.costmodel.training import Precision

PAGE = Path(__file__).parents[2] / "docs" / "stacks.md"


def test_an_unknown_one_is_one_line_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"stack 'megatron-cor' is not known; .* Did you mean 'megatron-core'\?$"):
        named_stack("megatron-cor")


@pytest.mark.parametrize("name", stack_names())
def test_the_page_says_what_it_holds(name: str) -> None:
    """Its row has the numbers of the table."""
    stack = named_stack(name)
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |"))
    _, _, fused, launches, hidden, _, logits, besides, _ = (cell.strip() for cell in row.split("|"))
    assert launches == f"{stack.kernels_forward:g} + {stack.kernels_backward:g}"
    words = {"norms": stack.fused_norms, "elementwise": stack.fused_elementwise, "loss": stack.fused_loss}
    assert {word for word in words if word in fused} == {word for word, is_so in words.items() if is_so}
    assert ("reduction" in hidden, "gathers" in hidden) == (stack.overlaps_reduction, stack.overlaps_gather)
    assert ("tp" in hidden) == (stack.tensor_parallel_overlap > 0)
    assert float(logits) == stack.fp32_logit_copies + stack.keeps_logits / 2
    assert ("in bf16" in besides) == bool(stack.fixed_formats)
    assert ("dropout" in besides, "gradient buffer" in besides) == (stack.dropout, stack.keeps_gradient_buffer)


def test_formats_that_a_stack_fixes_are_formats_of_a_precision() -> None:
    assert named_stack(OWN_STACK).fixed_formats == {}
    assert Precision.model_validate(named_stack("torchtune").fixed_formats) == Precision(
        parameters="bf16", gradients="bf16"
    )
