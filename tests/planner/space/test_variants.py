"""The training specs that the planner may choose from: what the device and the software have, simplest first."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.planner.best_plan import search
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.variants import OpenChoices, changed, training_variants
from shardwright.planner.why.sentences import what_was_chosen
from shardwright.specs.model import ModelSpec
from shardwright.specs.stack import named_stack, stack_names
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import round_cluster, small_model

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
        ("h100-sxm:8", "shardwright", ["fp8"]),
    ],
)
def test_all_are_those_of_device_and_software(cluster: str, stack: str, formats: list[str]) -> None:
    assert _formats(cluster, stack, "all") == [None, *formats]


@pytest.mark.parametrize(
    ("memory_bytes", "allowed", "chosen"),
    [
        (23e9, "", "adamw"),
        (22e9, "", None),
        (22e9, "adamw8bit", "adamw8bit"),
        (16e9, "adamw8bit,galore:rank=64,period=100", "adamw8bit"),
        (15e9, "adamw8bit", None),
        (15e9, "adamw8bit,galore:rank=64,period=100", "galore:rank=64,period=100"),
        (13.8e9, "adamw8bit,galore:rank=64,period=100", None),
    ],
)
def test_an_optimizer_that_fits_is_chosen_with_leave(memory_bytes: float, allowed: str, chosen: str | None) -> None:
    """1.216G parameters take 10 bytes each as master, gradient and bf16 copy, and 0.6 GB go to the process.

    AdamW adds 8: 22.49 GB. In 8 bits it adds 2 (1 + 4/256): 15.23 GB. GaLore at rank 64 adds for each of the eight layers, whose
    matrices are 2 x 4096^2, 2 x 2048 x 4096 and 3 x 8192 x 4096, 4 (s r + 2 r l) each, 8 for each of the rest, and while a matrix
    of 8192 x 4096 is updated four copies of it, two of its decomposition, one of 4096^2 and three of 64 x 8192, in fp32: 13.93 GB.
    """
    model = small_model(layers=8, hidden=4096)
    cluster = round_cluster(nodes=1, devices_per_node=1, memory_bytes=memory_bytes)
    group = cluster.groups[0]
    free = group.model_copy(update={"device": group.device.model_copy(update={"memory_reserve": 0.0})})
    cluster = cluster.model_copy(update={"groups": (free,)})
    asked = OpenChoices.parse({"optimizers": allowed}, source="test")
    given = TrainingSpec(seq_len=128, global_batch=1)
    if chosen is None:
        with pytest.raises(InfeasibleError):
            search(model, cluster, given, fixed=Fixed(offload_optimizer=0), may_choose=asked, explain_none="limit")
        return
    found = search(model, cluster, given, fixed=Fixed(offload_optimizer=0), may_choose=asked)
    assert str(found.training.method) == chosen
    said = " ".join(what_was_chosen(found))
    assert ("arXiv" in said and "no plan was found that fits" in said) == (chosen != "adamw")


def test_the_bytes_of_that_choice_by_hand() -> None:
    parameters = 8 * (9 * 4096**2 + 2 * 4096) + 2 * 1000 * 4096 + 4096
    state = 8 * 4 * 64 * (2 * 3 * 4096 + 2 * (2048 + 2 * 4096) + 3 * (4096 + 2 * 8192)) + 8 * (2 * 1000 + 17) * 4096
    update = 4 * (6 * 8192 * 4096 + 4096**2 + 3 * 64 * 8192)
    assert 10 * parameters + state + update + 0.6e9 == pytest.approx(13.925e9, rel=1e-4)
    training = TrainingSpec.parse({"seq_len": 128, "global_batch": 1, "optimizer": "galore:rank=64"}, source="test")
    found = search(small_model(layers=8, hidden=4096), round_cluster(nodes=1, devices_per_node=1), training)
    memory = found.estimate.memory[0]
    assert memory.optimizer_state == pytest.approx(state)
    assert memory.optimizer_step == pytest.approx(update)


def test_seven_billion_weights_train_on_one_card_of_24_gb_with_galore_alone() -> None:
    """What Zhao et al. 2024 (abstract) show on an RTX 4090: GaLore in 8 bits with updates of each layer, in bf16, 256 tokens.

    By hand: 2 bytes a weight; a layer's matrices are 4 x 4096^2 and 3 x 11008 x 4096, each with a projection of 4096 x 1024 in bf16 and
    two moments of 1024 x l in 8 bits; embedding, head and norms have two moments in bf16.
    """
    model, card = load_model("llama-2-7b"), load_cluster("rtx-4090:1")
    formats = {"parameters": "bf16", "gradients": "bf16"}
    given = {"seq_len": 256, "global_batch": 1, "stack": "torchtune", "precision": formats}
    alone = Fixed(offload_optimizer=0)

    def plan(optimizer: str) -> SearchResult:
        training = TrainingSpec.parse({**given, "optimizer": optimizer}, source="test")
        return search(model, card, training, fixed=alone, explain_none="limit")

    for other in ("adamw", "adamw8bit", "adamw8bit:layerwise=1", "galore:rank=1024,bits=8"):
        with pytest.raises(InfeasibleError):
            plan(other)
    memory = plan("galore:rank=1024,bits=8,layerwise=1").estimate.memory[0]
    layer = 7 * 4096 * 1024 * 2 + 2 * 1024 * (4 * 4096 + 3 * 11008) * (1 + 4 / 256)
    rest = 2 * 32000 * 4096 + 65 * 4096
    assert memory.parameters == 2 * model.parameter_count
    assert memory.optimizer_state == pytest.approx(32 * layer + 4 * rest)
    assert (memory.gradients, memory.optimizer_step) == (0, 0)
    assert 19.7e9 < memory.total < 24 * 2**30


def test_updates_in_the_backward_pass_take_one_microbatch() -> None:
    model, asked = (
        small_model(layers=8, hidden=4096),
        OpenChoices.parse({"optimizers": "adamw8bit:layerwise=1"}, source=""),
    )
    given = TrainingSpec(seq_len=128, global_batch=4)
    found = search(model, round_cluster(nodes=1, devices_per_node=1), given, may_choose=asked)
    assert (found.training.method.layerwise, found.plan.microbatches) == (True, 1)
    several = Fixed(micro_batch=1)
    found = search(model, round_cluster(nodes=1, devices_per_node=1), given, fixed=several, may_choose=asked)
    assert str(found.training.method) == "adamw"
    with pytest.raises(SpecError, match="adamw8bit:layerwise=1 updates a layer in its only backward pass"):
        search(
            model,
            round_cluster(nodes=1, devices_per_node=1),
            found.training.model_copy(
                update={"optimizer": "adamw8bit", "optimizer_settings": asked.optimizers[0].settings}
            ),
            fixed=several,
        )


def test_no_optimizer_of_variants_leaves_the_device() -> None:
    """The space of the given AdamW has plans with its state on the host; others keep theirs."""
    asked, given = OpenChoices.parse({"optimizers": "lion"}, source="test"), TrainingSpec(seq_len=128, global_batch=1)
    model = small_model(layers=8, hidden=4096)
    found = search(model, round_cluster(nodes=1, devices_per_node=1, memory_bytes=12e9), given, may_choose=asked)
    assert (found.training.optimizer, found.plan.offload.optimizer_fraction) == ("adamw", 1)
    with pytest.raises(SpecError, match="optimizer lion has no update off the device"):
        search(model, round_cluster(), given.model_copy(update={"optimizer": "lion"}), fixed=Fixed(offload_optimizer=1))


def test_names_and_settings_are_told_apart() -> None:
    read = OpenChoices.parse({"optimizers": "adamw8bit, galore:rank=64,period=100,lion"}, source="test").optimizers
    assert [str(each) for each in read] == ["adamw8bit", "galore:rank=64,period=100", "lion"]
    with pytest.raises(SpecError, match=r"'muno' is not known.*Did you mean 'muon'"):
        OpenChoices.parse({"optimizers": "muno"}, source="test")


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
        ("h100-sxm:8", "megatron-lm", "fp8", "stack 'megatron-lm' runs no linears in fp8, nor in any lower"),
        ("h100-sxm:8", "megatron-lm", "all", "runs no linears in a lower format than bf16; allow none"),
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


@pytest.mark.parametrize(
    ("optimizer", "choice", "told"),
    [
        ("adamw8bit:layerwise=1", {"offload_optimizer": 1}, "has no update off the device"),
        ("adamw8bit:layerwise=1", {"pp": 2}, "does not go with pp and approximate sync; leave out"),
        ("galore:layerwise=1", {"tp": 2}, "nor with matrices that tp or ZeRO splits"),
        ("adamw8bit:layerwise=1", {"micro_batch": 1}, "takes several"),
        ("muon", {"offload_optimizer": 1}, "has no update off the device"),
    ],
)
def test_what_the_optimizer_cannot_update_is_left_out_and_told(
    optimizer: str, choice: dict[str, int], told: str
) -> None:
    model, cluster = small_model(layers=8, hidden=1024), round_cluster(nodes=1, devices_per_node=4)
    given = TrainingSpec.parse({"seq_len": 128, "global_batch": 16, "optimizer": optimizer}, source="test")
    with pytest.raises(SpecError, match=told):
        search(model, cluster, given, fixed=Fixed.parse(choice, source="test"))
