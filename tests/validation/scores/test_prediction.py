"""Which of the plans that a row can mean stands for it, and what the others add to the interval."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.results.estimate import Estimate
from shardwright.specs.training import TrainingSpec
from shardwright.validation.scores.outcome import interval_bounds
from shardwright.validation.scores.prediction import predict_run
from tests.validation.fake_costs import MEMORY_BYTES, estimate_plan
from tests.validation.made_up_rows import run

# 13B parameters of 16 bytes: 26 GB on each of 8 sharding devices, and 1 GB of activations a sequence
EIGHT: dict[str, object] = {"gpus": 8, "dp": 8, "global_batch": 128}


def _recomputes(plan: Plan) -> set[str]:
    return {layer.recompute for stage in plan.stages for layer in stage.layers}


def test_a_complete_row_has_one_reading() -> None:
    given = run()
    found = predict_run(given, estimate_plan)
    assert found.prediction.plan == given.readings[0].plan
    assert found.prediction.assumptions == ()
    assert found.others == ()


def test_unknown_recompute_is_the_least_that_fits() -> None:
    fits = predict_run(run(**EIGHT, recompute=None, micro_batch=4), estimate_plan)
    assert _recomputes(fits.prediction.plan) == {"none"}
    assert fits.prediction.assumptions == ("recompute: none",)


def test_all_of_the_memory_counts_because_the_run_ran() -> None:
    """26.03 GB of parameters and 1 GB for each of 53 sequences are 79 GB of 80, within the planner's reserve."""

    def estimate(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        whole = estimate_plan(model, cluster, training, plan)
        room = MEMORY_BYTES - whole.memory[0].parameters - 1e9
        memory = tuple(part.model_copy(update={"activations": room}) for part in whole.memory)
        return whole.model_copy(update={"memory": memory})

    found = predict_run(run(**EIGHT, recompute=None), estimate)
    assert _recomputes(found.prediction.plan) == {"none"}
    assert found.prediction.too_large is not None


def test_layers_are_recomputed_whole_only_where_nothing_less_fits() -> None:
    """16 sequences of 4 GB each: 90 GB with nothing recomputed, 83.6 with the attention core, 26 with everything."""

    def estimate(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        whole = estimate_plan(model, cluster, training, plan)
        memory = tuple(part.model_copy(update={"activations": 4 * part.activations}) for part in whole.memory)
        return whole.model_copy(update={"memory": memory})

    found = predict_run(run(**EIGHT, recompute=None, micro_batch=16), estimate)
    assert _recomputes(found.prediction.plan) == {"full"}
    assert [other.choice for other in found.others] == ["recompute: selective"]  # within a tenth of the memory


def test_megatron_recomputes_whole_layers_in_part_before_all() -> None:
    """40 layers on one stage: half of them recomputed leave 48 of 96 GB of activations beside 30."""

    def estimate(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        whole = estimate_plan(model, cluster, training, plan)
        memory = tuple(part.model_copy(update={"parameters": 30e9}) for part in whole.memory)
        scaled = tuple(part.model_copy(update={"activations": 6 * part.activations}) for part in memory)
        return whole.model_copy(update={"memory": scaled})

    given = run(**EIGHT, framework="Megatron-LM", zero_or_fsdp="1", recompute=None, micro_batch=16)
    found = predict_run(given, estimate)
    layers = [(layer.count, layer.recompute) for layer in found.prediction.plan.stages[0].layers]
    assert layers == [(20, "full"), (20, "none")]
    assert found.prediction.assumptions == ("recompute: full in half of the layers",)


def test_an_unknown_micro_batch_fills_the_memory_without_a_pipeline() -> None:
    found = predict_run(run(**EIGHT, micro_batch=None), estimate_plan)
    assert found.prediction.plan.micro_batch == 16
    assert [other.choice for other in found.others] == ["micro batch: 8"]


def test_an_unknown_micro_batch_is_one_in_a_pipeline() -> None:
    given = run(framework="Megatron-LM", zero_or_fsdp="1", pp=4, dp=16, micro_batch=None, vpp=1)
    found = predict_run(given, estimate_plan)
    assert found.prediction.plan.micro_batch == 1


def test_where_nothing_fits_the_least_memory_stands_for_the_run() -> None:
    # 13B parameters with 16 bytes each on one device: the fake says 208 GB of 80
    found = predict_run(run(zero_or_fsdp="0", recompute=None), estimate_plan)
    assert found.prediction.too_large is not None
    assert _recomputes(found.prediction.plan) == {"full"}
    assert found.prediction.assumptions == ("recompute: full, the least memory, as nothing is predicted to fit",)


def test_the_interval_holds_those_of_the_other_readings() -> None:
    """Twice the micro batch takes 10% longer for each further sequence, in the fake: 2.5 of 1 for 16, 1.7 for 8."""
    alone = predict_run(run(**EIGHT, micro_batch=16), estimate_plan).prediction.estimate
    smaller = predict_run(run(**EIGHT, micro_batch=8), estimate_plan).prediction.estimate
    found = predict_run(run(**EIGHT, micro_batch=None), estimate_plan)
    held, its_own, of_other = (interval_bounds(one, 0.8) for one in (found.prediction.estimate, alone, smaller))
    assert held is not None
    assert its_own is not None
    assert of_other is not None
    assert held == (of_other[0], its_own[1])
    assert found.others[0].step_seconds == pytest.approx(smaller.step_seconds)


def test_no_valid_plan_says_why() -> None:
    def refuse(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
        raise SpecError("tp 3 does not divide 40 heads")

    with pytest.raises(SpecError, match="tp 3"):
        predict_run(run(), refuse)
