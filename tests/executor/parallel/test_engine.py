import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.parallel import Engine, build_engine
from shardwright.executor.parallel.meshes import MESH_AXES
from shardwright.specs.plan import Plan
from tests.parity.cases import GLOBAL_BATCH, SEQ_LEN, layers, model_config, plan, plan_file
from tests.parity.worlds import run_world

CPU = torch.device("cpu")


def _refusal(file: PlanFile) -> str:
    try:
        build_engine(file, device=CPU, seed=0)
    except SpecError as error:
        return str(error)
    return "none"


def test_another_number_of_ranks_is_refused() -> None:
    file = plan_file(model_config("llama"), plan((layers(1),), (layers(1),), pp=2, tp=2))
    assert (
        run_world(2, _refusal, file)
        == ["the plan is for 4 ranks (pp2 x tp2), 2 are running; start 4 or plan for 2"] * 2
    )


def _layout(file: PlanFile) -> tuple[int, int, tuple[int, ...], list[set[str]]]:
    engine = build_engine(file, device=CPU, seed=0)
    assert engine.mesh.mesh_dim_names == MESH_AXES
    coordinate = engine.mesh.get_coordinate()
    assert coordinate is not None
    names = [{name for name, _ in part.named_parameters()} for part in engine.model_parts]
    return engine.dp_rank, engine.dp_size, tuple(coordinate), names


def test_ranks_differ_in_tp_first_and_in_pp_last() -> None:
    file = plan_file(model_config("llama"), plan((layers(1, zero=2),), (layers(1, zero=2),), pp=2, dp_shard=2, tp=2))
    results = run_world(8, _layout, file)
    assert [coordinate for _, _, coordinate, _ in results] == [
        (pp, 0, shard, tp) for pp in range(2) for shard in range(2) for tp in range(2)
    ]
    assert [rank for rank, _, _, _ in results] == [0, 0, 1, 1] * 2
    assert {size for _, size, _, _ in results} == {2}


def test_data_parallel_ranks_count_replicas_first() -> None:
    file = plan_file(model_config("llama"), plan((layers(2, zero=1),), dp_replicate=2, dp_shard=2))
    assert [rank for rank, _, _, _ in run_world(4, _layout, file)] == [0, 1, 2, 3]


def test_interleaved_stages_go_round_the_ranks_under_the_models_names() -> None:
    file = plan_file(model_config("llama", layers=4), plan(*[(layers(1),)] * 4, pp=2, schedule="interleaved-1f1b"))
    first, second = (names for _, _, _, names in run_world(2, _layout, file))
    layers_of = [
        [{name.split(".")[2] for name in part if ".layers." in name} for part in own] for own in (first, second)
    ]
    assert layers_of == [[{"0"}, {"2"}], [{"1"}, {"3"}]]
    assert "model.embed_tokens.weight" in first[0]
    assert {"lm_head.weight", "model.norm.weight"} <= second[1]


def _losses(file: PlanFile, labels: str) -> float | str:
    engine = build_engine(file, device=CPU, seed=0)
    return _loss(engine, labels)


def _loss(engine: Engine, labels: str) -> float | str:
    inputs = torch.zeros(GLOBAL_BATCH // engine.dp_size, SEQ_LEN, dtype=torch.int64)
    targets = {"none": torch.full_like(inputs, -100), "short": inputs[:, :-1]}[labels]
    try:
        return float(engine.forward_backward(inputs, targets))
    except SpecError as error:
        return str(error)


def test_a_batch_without_labels_has_loss_zero() -> None:
    file = plan_file(model_config("llama"), plan((layers(2, zero=3),), dp_shard=2))
    assert run_world(2, _losses, file, "none") == [0.0, 0.0]


def test_a_batch_of_another_shape_is_refused() -> None:
    file = plan_file(model_config("llama"), plan((layers(2),)))
    assert run_world(1, _losses, file, "short") == ["labels have shape (8, 15); this plan's ranks take (8, 16) each"]


def _accumulated(file: PlanFile) -> tuple[float, float, float]:
    engine = build_engine(file, device=CPU, seed=0)
    inputs = torch.arange(GLOBAL_BATCH * SEQ_LEN).reshape(GLOBAL_BATCH, SEQ_LEN) % 100
    norms = []
    for _ in range(2):
        engine.forward_backward(inputs, inputs.roll(1))
        norms.append(engine.clip_gradients(None))
    engine.zero_gradients()
    engine.forward_backward(inputs, inputs.roll(1))
    return norms[0], norms[1], engine.clip_gradients(None)


@pytest.mark.parametrize(
    "divided", [plan((layers(2),)), plan((layers(1),), (layers(1),), pp=2)], ids=["whole", "tied stages"]
)
def test_gradients_accumulate_until_they_are_zeroed(divided: Plan) -> None:
    once, twice, again = run_world(divided.mesh.ranks, _accumulated, plan_file(model_config("gpt2"), divided))[0]
    assert twice == pytest.approx(2 * once, rel=1e-5)
    assert again == pytest.approx(once, rel=1e-6)
