"""The training specs that the planner may choose from: what the device and the software have, simplest first."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.planner.space.variants import OpenChoices, changed, training_variants
from shardwright.specs.model import ModelSpec
from shardwright.specs.stack import named_stack, stack_names
from shardwright.specs.training import Precision, TrainingSpec

_MODEL = load_model("deepseek-v3")


_DENSE = load_model("llama-3.1-8b")


def _formats(
    cluster: str, stack: str, allowed: str, given: Precision | None = None, model: ModelSpec = _MODEL
) -> list[str | None]:
    training = TrainingSpec(seq_len=128, global_batch=8, stack=stack, precision=given or Precision())
    found = training_variants(
        model, load_cluster(cluster), training, OpenChoices.parse({"linear_formats": allowed}, source="")
    )
    return [variant.precision.linear for variant in found]


@pytest.mark.parametrize(
    ("cluster", "stack", "formats"),
    [
        ("h100-sxm:8", "megatron-core", ["fp8"]),
        ("b200:8", "megatron-core", ["fp8", "mxfp8"]),
        ("b200:8", "megatron-core-0.15", ["fp8", "mxfp8", "nvfp4"]),
        ("h100-sxm:8", "torchtitan", ["fp8", "fp8-rowwise", "fp8-rowwise-gw-hp"]),
        ("h100-sxm:8", "megatron-core-0.8", ["fp8"]),
    ],
)
def test_all_are_those_of_device_and_software(cluster: str, stack: str, formats: list[str]) -> None:
    assert _formats(cluster, stack, "all") == [None, *formats]


def test_nothing_is_chosen_without_leave() -> None:
    assert _formats("b200:8", "megatron-core", "") == [None]


def test_the_given_format_is_one_of_them_once() -> None:
    gathered = Precision(linear="fp8", gather="fp8")
    assert _formats("b200:8", "megatron-core", "mxfp8,fp8,mxfp8", gathered) == ["fp8", "mxfp8"]
    training = TrainingSpec(seq_len=128, global_batch=8, stack="megatron-core", precision=gathered)
    found = training_variants(_MODEL, load_cluster("b200:8"), training, OpenChoices(linear_formats=("mxfp8",)))
    assert [variant.precision.gather for variant in found] == ["fp8", None]


@pytest.mark.parametrize(
    ("cluster", "stack", "allowed", "words"),
    [
        (
            "h100-sxm:8",
            "shardwright",
            "fp8",
            "stack 'shardwright' runs no linears of a model with experts in fp8, nor in any lower format; stacks",
        ),
        ("h100-sxm:8", "shardwright", "all", "runs no linears of a model with experts in a lower format than bf16"),
        (
            "h100-sxm:8",
            "megatron-core",
            "fp8,nvfp4",
            "runs no linears in nvfp4, only in fp8, mxfp8; stacks that do: torchtitan-0.3, megatron",
        ),
        ("h100-sxm:8", "megatron-core", "mxfp8", "h100-sxm has no matmuls in mxfp8; it has fp8"),
        ("a100-sxm-80gb:8", "megatron-core", "all", "a100-sxm-80gb has no matmuls in fp8, mxfp8, which stack"),
        ("h100-sxm:8", "megatron-core", "fp9", "'linear_formats.0' is 'fp9'"),
    ],
)
def test_refusals(cluster: str, stack: str, allowed: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        _formats(cluster, stack, allowed)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_changes_less_comes_first() -> None:
    training = TrainingSpec(seq_len=128, global_batch=8, stack="torchtitan-0.3")
    may = OpenChoices(linear_formats=("fp8-rowwise",), loss_chunks=True)
    found = training_variants(_MODEL, load_cluster("h100-sxm:8"), training, may)
    assert found[0] == training
    assert [(each.precision.linear, each.loss_chunks) for each in found] == [
        (None, 1),
        (None, 4),
        (None, 16),
        ("fp8-rowwise", 1),
        ("fp8-rowwise", 4),
        ("fp8-rowwise", 16),
    ]
    assert changed(found[-1], training) == ["linear_formats", "loss_chunks"]


def test_pieces_of_the_loss_need_software_that_runs_them() -> None:
    training = TrainingSpec(seq_len=128, global_batch=8, stack="megatron-lm")
    with pytest.raises(SpecError, match="stack 'megatron-lm' runs no loss in pieces; leave out --loss-chunks auto, or"):
        training_variants(_MODEL, load_cluster("h100-sxm:8"), training, OpenChoices(loss_chunks=True))


def test_formats_of_a_stack_are_known_to_some_device() -> None:
    """The 8-bit ones and nvfp4 on Blackwell, all by one check."""
    for name in stack_names():
        formats = named_stack(name).runs.linear_formats
        if formats:
            assert _formats("b200:8", name, ",".join(formats), model=_DENSE) == [None, *formats]


def test_modules_need_software_that_names_them() -> None:
    training = TrainingSpec(seq_len=128, global_batch=8, stack="megatron-core-0.8")
    with pytest.raises(
        SpecError, match="names no modules to recompute; leave out --recompute-modules auto, or choose shardwright, meg"
    ):
        training_variants(_MODEL, load_cluster("h100-sxm:8"), training, OpenChoices(recompute_modules=True))
