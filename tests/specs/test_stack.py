"""The named stacks: what a name gives, what a wrong one says, and that their page names them all."""

from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.specs.stack import OWN_STACK, named_stack, stack_names
from shardwright.specs.training import Precision, TrainingSpec

PAGE = Path(__file__).parents[2] / "docs" / "stacks.md"


@pytest.mark.parametrize("name", stack_names())
def test_a_stack_has_the_name_it_is_found_by(name: str) -> None:
    assert named_stack(name).name == name
    assert TrainingSpec(seq_len=8, global_batch=1, stack=name).software is named_stack(name)


def test_no_two_stacks_are_the_same() -> None:
    kept = {repr(named_stack(name).model_dump(exclude={"name", "about"})) for name in stack_names()}
    assert len(kept) == len(stack_names())


def test_the_projects_own_is_the_default() -> None:
    assert TrainingSpec(seq_len=8, global_batch=1).stack == OWN_STACK
    assert OWN_STACK in stack_names()


@pytest.mark.parametrize(
    ("given", "meant"), [("megatron_core", "megatron-core"), ("torchtitn", "torchtitan"), ("Nanotron", "nanotron")]
)
def test_an_unknown_stack_is_one_line_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(SpecError) as refused:
        named_stack(given)
    line = str(refused.value)
    assert line.startswith(f"stack '{given}' is not known; allowed: ")
    assert line.endswith(f" Did you mean '{meant}'?")
    assert "\n" not in line
    for name in stack_names():
        assert name in line


def test_a_training_file_with_an_unknown_stack_says_the_same() -> None:
    with pytest.raises(SpecError, match=r"stack 'megatron' is not known.* Did you mean 'megatron-lm'") as refused:
        TrainingSpec.parse({"seq_len": 8, "global_batch": 1, "stack": "megatron"}, source="training.toml")
    assert "\n" not in str(refused.value)


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


def test_releases_of_megatron_core_launch_fewer_kernels_and_keep_less() -> None:
    """Fewer launches with each fusion; experts' outputs until 0.12; split messages until 0.4."""
    releases = [named_stack(f"megatron-core{name}") for name in ("-0.4", "-0.8", "-0.12", "", "-0.15")]
    routers = [(stack.router_kernels_forward, stack.router_kernels_backward) for stack in releases]
    assert routers == [(44, 25), (44, 25), (37, 18), (37, 18), (18, 10)]
    assert [stack.keeps_expert_outputs for stack in releases] == [True, True, True, False, False]
    assert [bool(stack.recompute_modules) for stack in releases] == [False, False, True, True, True]
    assert [stack.fused_permutation for stack in releases] == [False, False, True, True, True]
    assert [stack.counts_ends for stack in releases] == [False, False, True, True, True]
    assert [stack.splits_sends for stack in releases] == [True, False, False, False, False]
    for stack in releases:
        assert stack.router_kernels_forward > stack.gate_kernels_forward
        assert stack.router_kernels_backward > stack.gate_kernels_backward


def test_releases_of_megatron_core_run_more() -> None:
    """Only a ring until 0.8; DeepEP, the host's optimizer and unequal stages after it; 4 bits from 0.15 on."""
    releases = [named_stack(f"megatron-core{name}").runs for name in ("-0.4", "-0.8", "-0.12", "", "-0.15")]
    assert [len(runs.context_parallel) for runs in releases] == [1, 1, 4, 4, 4]
    assert [len(runs.expert_dispatch) for runs in releases] == [0, 1, 2, 2, 2]
    assert [runs.offload_optimizer for runs in releases] == [False, False, True, True, True]
    assert [runs.uneven_stages for runs in releases] == [False, False, True, True, True]
    assert [len(runs.linear_formats) for runs in releases] == [1, 1, 2, 2, 3]


def test_torchtitan_splits_its_loss_and_drops_tensorwise_scales_in_one_release() -> None:
    before, after = named_stack("torchtitan-compiled-loss"), named_stack("torchtitan-0.3")
    assert (before.runs.loss_chunks, after.runs.loss_chunks) == (False, True)
    assert ("fp8" in before.runs.linear_formats, "fp8" in after.runs.linear_formats) == (True, False)
    assert (before.repeats_heads, after.repeats_heads) == (True, False)


def test_software_on_torchs_pipelines_reduces_once_a_step() -> None:
    """torch's stages turn reduction off until the last backward; the project's executor and XLA do not use them."""
    defer = {name for name in stack_names() if named_stack(name).defers_reduction}
    assert defer == {"automodel", "dualpipe", *(name for name in stack_names() if name.startswith("torchtitan"))}


def test_formats_that_a_stack_fixes_are_formats_of_a_precision() -> None:
    assert named_stack(OWN_STACK).fixed_formats == {}
    assert Precision.model_validate(named_stack("torchtune").fixed_formats) == Precision(
        parameters="bf16", gradients="bf16"
    )


@pytest.mark.parametrize("name", stack_names())
def test_the_page_says_what_it_runs(name: str) -> None:
    """The row of the second table, after the schedules."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    zero, tensor, context, experts, uneven, host = (cell.strip() for cell in rows[1].strip("|").split("|")[2:])
    runs = named_stack(name).runs
    assert zero == ", ".join(map(str, runs.zero_stages))
    assert context == (", ".join(runs.context_parallel) or "no")
    assert experts == (", ".join(runs.expert_dispatch) or "no")
    shown = {"yes": True, "in part": True, "no": False}
    assert (host == "in part") == runs.offload_fractions
    assert (shown[tensor], shown[uneven], shown[host]) == (
        runs.tensor_parallel,
        runs.uneven_stages,
        runs.offload_optimizer,
    )
