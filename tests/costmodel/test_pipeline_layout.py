"""Megatron-Core's layouts of a pipeline: read, refused in one line, dealt out, and what prediction layers elsewhere cost."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.checks import check_plan
from shardwright.costmodel.evaluate import plan_costs, simulate_plan
from shardwright.costmodel.pipeline_layout import StageLayers, read_layout, with_layout
from shardwright.costmodel.plan_costs import PlanCosts
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model


def test_deepseek_v3s_layout_of_61_layers_and_one_that_predicts() -> None:
    stages = read_layout("Et*3|(tt|)*29,m|L", layers=61, mtp_layers=1, pp=16)
    assert stages == (StageLayers(3, 0), *[StageLayers(2, 0)] * 29, StageLayers(0, 1), StageLayers(0, 0))


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("Ettt|tt|ttL", [3, 2, 2]),
        ("E t*3 | t*2, | t*2 L", [3, 2, 2]),
        ("E|(tt|)*3L", [0, 2, 2, 2, 0]),
        ("E(t*2|)*2ttL", [2, 2, 2]),
        ("E(t|t|)*2tL", [1, 1, 1, 1, 1]),
        ("Et|*2tL", [1, 0, 1]),
    ],
)
def test_repeats_and_commas(text: str, layers: list[int]) -> None:
    found = read_layout(text, layers=sum(layers), mtp_layers=0, pp=1)
    assert [stage.layers for stage in found] == layers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tt|ttL", "must begin with its only E, the embedding, and end with its only L, the loss"),
        ("Ett|EttL", "must begin with its only E"),
        ("", "must begin with its only E"),
        ("Ett|ttx|L", "has 'x'; allowed: E, t, m, L and |"),
        ("E((t|)*2)*2L", "has '('; allowed"),
        ("Et|t|t|tL*0", "must begin with its only E"),
        ("Ett|t|tL", "has 3 stages, which pp 2 does not divide; allowed pp: 1, 3"),
        ("Ettt|ttL", "has 5 t and the job has 4 layers; give 4 t"),
        ("Ett|ttmL", "has 1 m and the job has 0 multi-token prediction layers; give 0 m"),
        ("E(tt|)*999999999L", "give at most 100000"),
        ("E((t*99999|)*99999)*99999L", "give at most 100000"),
    ],
)
def test_a_wrong_layout_is_one_line(text: str, says: str) -> None:
    with pytest.raises(SpecError) as refused:
        read_layout(text, layers=4, mtp_layers=0, pp=2)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def plan(*stages: Stage, pp: int = 2) -> Plan:
    return Plan(mesh=Mesh(pp=pp), micro_batch=1, microbatches=4, stages=stages)


def stage(count: int, mtp_layers: int = 0) -> Stage:
    return Stage(layers=(LayerRun(count=count),) if count else (), mtp_layers=mtp_layers)


def test_layers_keep_their_strategies_and_stages_of_a_rank_interleave() -> None:
    full = LayerRun(count=1, recompute="full")
    dealt = with_layout(
        plan(Stage(layers=(full, LayerRun(count=1))), stage(2)), (StageLayers(1, 0), *[StageLayers(1, 0)] * 3)
    )
    assert [one.layers for one in dealt.stages] == [(full,), *[(LayerRun(count=1),)] * 3]
    assert dealt.schedule == "interleaved-1f1b"
    assert with_layout(dealt, (StageLayers(3, 0), StageLayers(1, 0))).schedule == "1f1b"


def test_a_stage_that_holds_nothing_is_refused() -> None:
    empty = (StageLayers(2, 0), StageLayers(0, 0), StageLayers(1, 0), StageLayers(1, 0))
    with pytest.raises(SpecError, match="stage 1 holds no layer; only the first and the last"):
        with_layout(plan(stage(2), stage(2)), empty)


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((stage(2, 1), stage(0, 1)), "stages 0, 1 hold mtp_layers; put all on one of them"),
        (
            (stage(2, 1), stage(2)),
            "stage 1 holds layers behind the mtp_layers of stage 0; put these on stage 1 or later",
        ),
    ],
)
def test_prediction_layers_lie_together_behind_the_layers(stages: tuple[Stage, ...], says: str) -> None:
    given = {"mesh": Mesh(pp=2), "micro_batch": 1, "microbatches": 4, "stages": stages}
    with pytest.raises(SpecError, match=says):
        Plan.parse(given, source="test")


def test_as_many_as_the_training_has() -> None:
    training = TrainingSpec(seq_len=128, global_batch=4, mtp_layers=2)
    with pytest.raises(SpecError, match="the plan's stages hold 1 mtp_layers and the training has 2"):
        check_plan(plan(stage(2), stage(2, 1)), small_model(), round_cluster(), training)


class TestPlacedPrediction:
    """Four layers of 64 columns, two layers that predict, 1000 words."""

    TRAINING = TrainingSpec(seq_len=128, global_batch=4, mtp_layers=2)

    def costs(self, *stages: Stage) -> PlanCosts:
        given = plan(*stages, pp=len(stages))
        return plan_costs(small_model(), round_cluster(devices_per_node=8), self.TRAINING, given, RoundTimes())

    def test_beside_the_head_it_costs_as_much_as_unsaid(self) -> None:
        """But for the memory of logits: of the two heads that follow, only the largest working memory counts in both."""
        unsaid, said = self.costs(stage(2), stage(2)), self.costs(stage(2), stage(2, 2))
        for name in ("forward", "backward", "weight_gradient"):
            np.testing.assert_allclose(getattr(unsaid.stage_costs(), name), getattr(said.stage_costs(), name))
        np.testing.assert_allclose(unsaid.activation_bytes_per_stage(), said.activation_bytes_per_stage())
        assert said.estimate().model_flops == unsaid.estimate().model_flops

    def test_on_a_stage_of_its_own_it_leaves_its_losses_to_the_head(self) -> None:
        """A layer and a projection each; the last stage has three heads of 64 columns and 1000 words."""
        found = self.costs(stage(2), stage(2), stage(0, 2), stage(0)).stage_costs().forward
        layer, projection = found[0] / 2, 2 * 128 * 2 * 64 * 64 * 1e-12
        assert found == pytest.approx([2 * layer, 2 * layer, 2 * (layer + projection), 3 * 2 * 128 * 64 * 1000 * 1e-12])

    def test_their_states_travel_with_the_hidden_states(self) -> None:
        sends = self.costs(stage(2), stage(2), stage(0, 2), stage(0)).stage_costs().send
        assert sends == pytest.approx(128 * 64 * 2 * 1e-9 * np.array([1, 1, 3]))

    def test_their_stage_holds_a_copy_of_the_embedding(self) -> None:
        model = small_model()
        spread = self.costs(stage(2), stage(2), stage(0, 2), stage(0)).memory()
        alone = self.costs(stage(2), stage(1), stage(1), stage(0, 2)).memory()
        embedding = sum(p.elements for p in model.embedding_parameters())
        layer = sum(p.elements for p in model.layer_classes[0].parameters(64))
        predicting = 2 * (layer + 2 * 64 * 64 + 2 * 64)
        assert spread[2].parameters == pytest.approx(4 * (embedding + predicting))
        head = sum(p.elements for p in model.head_parameters())
        assert spread[3].parameters == pytest.approx(4 * head)
        assert alone[3].parameters == pytest.approx(4 * (head + embedding + predicting))

    def test_the_simulation_takes_as_long_as_the_closed_form(self) -> None:
        given = plan(stage(2), stage(2), stage(0, 2), stage(0), pp=4)
        cluster = round_cluster(devices_per_node=8)
        timeline = simulate_plan(small_model(), cluster, self.TRAINING, given, RoundTimes())
        closed = plan_costs(small_model(), cluster, self.TRAINING, given, RoundTimes()).estimate().step_seconds
        assert timeline.step_seconds == pytest.approx(closed)
