"""Approximations between replicas: offered only by name, taken only where they gain, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel import estimate_plan
from shardwright.planner import OF_OTHER_AXES, TOLERANCE, OpenChoices
from shardwright.planner.best_plan import search
from shardwright.planner.nearby import search_job
from shardwright.planner.nearby.job import FoundJob
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.mesh import PIPELINE_OUTERMOST, Mesh
from shardwright.specs.plan import APPROXIMATIONS, PER_CENTROID, LayerRun, Plan, Stage, Sync, read_sync
from shardwright.specs.training import Precision, TrainingSpec
from tests.planner.brute_force import fastest
from tests.planner.small_problems import random_problem

EXPERTS = load_model("qwen1.5-moe-a2.7b")
GPT2, LLAMA = load_model("gpt2-355m"), load_model("llama-3.2-1b")
ALL = tuple(APPROXIMATIONS)
SHORT, LONG = TrainingSpec(seq_len=512, global_batch=256), TrainingSpec(seq_len=2048, global_batch=64)


def found(cluster: Any, *names: str, model: Any = LLAMA, training: TrainingSpec = LONG, **fixed: Any) -> FoundJob:
    given = load_cluster(cluster) if isinstance(cluster, str) else cluster
    return search_job(
        model, given, training, fixed=Fixed(approximate=names, **fixed), tolerance=TOLERANCE, runners_up=0
    )


class TestWhereTheyWin:
    def test_one_bit_on_10_gigabit_ethernet(self) -> None:
        """GPT-2 of 355 M parameters on 8 nodes: 64 ranks share 1.25 GB/s a node. A replica of a node (dp_shard 8) exchanges fp32
        gradients of 1.42 GB / 8 a rank, whose all-reduce over 8 nodes is 2 x 7/8 x 1.42 GB = 2.5 GB, 2 s, through each node's NIC.
        In one bit that is 1/32, 62 ms, beside about 45 ms of compute. No exact plan comes near."""
        cluster = "a100-sxm-40gb:64@ethernet-10g"
        job = found(cluster, "1-bit-adam", model=GPT2, training=SHORT)
        plan, estimate = job.result.plan, job.result.estimate
        assert plan.sync == APPROXIMATIONS["1-bit-adam"].syncs[0]
        assert plan.mesh.dp_replicate == 8
        exact = estimate_plan(GPT2, load_cluster(cluster), SHORT, plan.model_copy(update={"sync": Sync()}))
        assert exact.step.data_parallel > 2.0
        assert 0.062 < estimate.step.data_parallel < 2 * 0.062 + 0.02
        assert job.result.exact is not None
        assert job.result.exact.step_seconds > 1.04 * estimate.step_seconds

    def test_local_steps_between_two_islands(self, tmp_path: Path) -> None:
        """Two islands of 16 H100 joined by 10 Gb/s: exact gradients of 1.24 G parameters take 2 x 1/2 x 4.94 GB / 1.25 GB/s = 4 s
        a step through the link, and a 500th of that with local steps. Alone an island takes the step of half of the devices."""
        groups = "[[groups]]\ndevice = 'h100-sxm'\ndevices = 16\n" * 2
        path = tmp_path / "islands.toml"
        path.write_text(f"name = 'two islands'\nbetween = 'ethernet-10g'\n{groups}")
        islands = load_cluster(str(path))
        job = found(islands, "diloco", tp=1, cp=1, recompute="none")  # fewer to search; the plan is the same without
        plan, estimate = job.result.plan, job.result.estimate
        assert plan.sync == read_sync("diloco")
        assert sum(group.count for group in plan.replicas) == plan.mesh.dp_replicate
        exact = job.result.exact
        assert exact is not None
        assert not exact.plan.approximate
        assert exact.step_seconds > 1.5 * estimate.step_seconds
        assert any("With an exact reduction the best plan takes" in note and "Quality: " in note for note in job.notes)

    def test_the_fewest_inner_steps_that_hide(self) -> None:
        """CO2's rounds 2, 4, 8 and so on: with the chosen one the exchange is hidden up to the tolerance, and with half not."""
        cluster = load_cluster("h100-sxm:16@ethernet-10g")
        job = found(cluster, "co2", pp=1)
        plan, seconds = job.result.plan, job.result.estimate.step_seconds
        steps = plan.sync.inner_steps
        assert steps is not None
        longest, half = (
            estimate_plan(LLAMA, cluster, LONG, plan.model_copy(update={"sync": read_sync(f"co2:inner_steps={count}")}))
            for count in (512, steps // 2)
        )
        assert seconds <= (1 + TOLERANCE) * longest.step_seconds < half.step_seconds

    def test_means_to_experts_between_single_devices(self, tmp_path: Path) -> None:
        """Qwen1.5-MoE on 8 nodes of one H100 with 100 Gb/s: each of 16 microbatches of 2 x 2,048 tokens sends four copies of 4,096 bytes, 67 MB
        or 16,384 tokens, of which 3/4 leave their rank of ep 4, there and back, in both passes of 24 layers: 77 GB or 6.2 s at line rate. 273
        tokens for each expert are 55 means of five: 1 / 4.97 of that."""
        path = tmp_path / "single.toml"
        path.write_text(
            "name = 'single'\n[[groups]]\ndevice = 'h100-sxm'\nnodes = 8\ndevices_per_node = 1\nnic = 'ethernet-100g'\n"
        )
        cluster, training = load_cluster(str(path)), TrainingSpec(seq_len=2048, global_batch=256)
        job = search_job(
            EXPERTS,
            cluster,
            training,
            fixed=Fixed(pp=1, tp=1, cp=1, zero_stage=1, recompute="none"),
            may_choose=OpenChoices(tokens_per_centroid=True),
            tolerance=TOLERANCE,
            runners_up=0,
        )
        plan, exchange = job.result.plan, job.result.estimate.step.expert_parallel
        assert (job.result.training.tokens_per_centroid, plan.mesh.ep) == (PER_CENTROID, 4)
        every = estimate_plan(EXPERTS, cluster, training, plan)
        assert every.step.expert_parallel > 6.2
        assert exchange == pytest.approx(every.step.expert_parallel / (16384 / 60 / 55), rel=0.05)  # latencies stay
        assert job.result.exact is not None
        assert job.result.exact.step_seconds > 2 * job.result.estimate.step_seconds
        assert any("means of 5 tokens travel to experts" in note and "Quality: " in note for note in job.notes)

    def test_stages_are_left_out_where_layers_outweigh_the_ends(self) -> None:
        """Llama-3.1-8B in four stages: each microbatch leaves out one of the two between, so that these get up to twice the layers of the ends, and the
        busiest rank 3/4 of the work of 1F1B with equal stages, and ramps are a stage shorter. The head, which no microbatch leaves out, takes part of
        the quarter."""
        cluster, training = load_cluster("h100-sxm:64"), TrainingSpec(seq_len=4096, global_batch=128)
        fixed = {"pp": 4, "tp": 2, "cp": 1, "recompute": "none", "zero_stage": 1}
        job, plain = (
            found(cluster, *names, model=load_model("llama-3.1-8b"), training=training, **fixed)
            for names in (("skippipe",), ())
        )
        plan, seconds = job.result.plan, job.result.estimate.step_seconds
        assert plan.schedule == "skippipe-25"
        assert plan.approximate
        counts = [stage.layer_count for stage in plan.stages]
        assert sum(counts) == 32
        assert max(counts[0], counts[-1]) < min(counts[1:-1])
        assert job.result.exact is not None
        assert job.result.exact.step_seconds > 1.04 * seconds
        assert plain.result.plan.schedule != "skippipe-25"
        assert 0.7 < seconds / plain.result.estimate.step_seconds < 0.96
        assert any("microbatches leave out stages" in note and "Quality: " in note for note in job.notes)

    def test_model_flops_are_those_of_the_stages_that_are_passed(self) -> None:
        cluster, training = load_cluster("h100-sxm:4"), TrainingSpec(seq_len=2048, global_batch=8)
        stages = tuple(Stage(layers=(LayerRun(count=count),)) for count in (2, 6, 6, 2))
        every = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=8, stages=stages)
        some = Plan(**{**dict(every), "schedule": "skippipe-25"})
        whole, passed = (estimate_plan(LLAMA, cluster, training, plan) for plan in (every, some))
        head = 3 * 2 * 8 * 2048 * LLAMA.hidden_size * LLAMA.vocab_size
        assert passed.model_flops - head == pytest.approx((whole.model_flops - head) * (4 + 12 / 2) / 16)
        assert passed.hardware_flops == passed.model_flops


class TestWhereTheyDoNot:
    def test_stages_are_left_out_only_by_name_and_where_it_gains(self) -> None:
        job = found("rtx-4090:8", "skippipe", training=LONG, pp=4)  # a head as large as 8 of 16 layers
        assert not job.result.plan.approximate
        with pytest.raises(SpecError, match="does not run schedule skippipe-25"):
            found("h100-sxm:8", schedule="skippipe-25", pp=4)
        with pytest.raises(SpecError, match="skippipe is a schedule, which --allow-approximate skippipe offers"):
            read_sync("skippipe")

    def test_means_are_taken_only_by_name_and_where_experts_are(self) -> None:
        cluster = load_cluster("h100-sxm:16@ethernet-10g")
        job = search_job(EXPERTS, cluster, SHORT, fixed=Fixed(pp=2, tp=1, cp=1), runners_up=0)
        assert not job.result.training.approximate
        with pytest.raises(SpecError, match=r"llama-3\.2-1b has none; leave it out"):
            search_job(LLAMA, cluster, SHORT, may_choose=OpenChoices(tokens_per_centroid=True))
        other = SHORT.model_copy(update={"stack": "megatron-core"})
        with pytest.raises(SpecError, match="stack 'megatron-core' sends every token to its experts, and lsh-moe"):
            search_job(EXPERTS, cluster, other, may_choose=OpenChoices(tokens_per_centroid=True))

    @pytest.mark.parametrize("cluster", ["h100-sxm:8", "h100-sxm:16", "a100-sxm-80gb:16"])
    def test_nothing_is_gained_on_nvlink_and_infiniband(self, cluster: str) -> None:
        """The fastest exact plan is within what counts as none of the fastest approximate one."""
        job = found(cluster, *ALL)
        assert not job.result.plan.approximate
        of_all, exact = (
            search(
                LLAMA, load_cluster(cluster), LONG, fixed=Fixed(approximate=names), runners_up=0
            ).estimate.step_seconds
            for names in (ALL, ())
        )
        assert of_all <= exact <= (1 + OF_OTHER_AXES * TOLERANCE) * of_all

    @pytest.mark.parametrize("cluster", ["a100-sxm-40gb:64@ethernet-10g", "rtx-4090:64@ethernet-10g"])
    def test_nothing_is_offered_without_a_name(self, cluster: str) -> None:
        assert not found(cluster, model=GPT2, training=SHORT).result.plan.approximate

    def test_names_are_read(self) -> None:
        with pytest.raises(SpecError, match=r"'dilocco' is no approximation .* Did you mean 'diloco'"):
            Fixed.parse({"approximate": "dilocco"}, source="options")

    def test_other_software_reduces_exactly(self) -> None:
        other = LONG.model_copy(update={"stack": "megatron-core"})
        with pytest.raises(SpecError, match="stack 'megatron-core' reduces gradients exactly, and diloco is asked for"):
            found("h100-sxm:16", "diloco", training=other)

    def test_no_replicas(self) -> None:
        with pytest.raises(SpecError, match="allow dp_replicate of 2 or more"):
            found("h100-sxm:16", sync=read_sync("diloco"), dp_replicate=1)

    def test_errors_are_not_fed_back_in_fp16(self) -> None:
        half = SHORT.model_copy(update={"precision": Precision(compute="fp16")})
        with pytest.raises(SpecError, match="gradients in fp16 are not finite at times; give --precision bf16 or fp32"):
            found("h100-sxm:16", sync=read_sync("1-bit-adam"), training=half)

    def test_one_bit_needs_adam(self) -> None:
        plain = SHORT.model_copy(update={"optimizer": "sgd"})
        job = found("a100-sxm-40gb:64@ethernet-10g", "1-bit-adam", model=GPT2, training=plain)
        assert not job.result.plan.approximate


@pytest.mark.parametrize("seed", range(12))
def test_a_search_with_approximations_equals_brute_force(seed: int) -> None:
    model, cluster, training = random_problem(seed)
    fixed = Fixed(
        approximate=("diloco", "8-bit-gradients"), schedule="1f1b", recompute="none", order=PIPELINE_OUTERMOST
    )
    best = fastest(model, cluster, training, fixed)
    if best is None:
        pytest.skip("nothing fits")
    result = search(model, cluster, training, fixed=fixed)
    assert result.estimate.step_seconds == pytest.approx(best, rel=1e-9)
