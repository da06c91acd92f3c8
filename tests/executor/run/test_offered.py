"""The planner leaves out of the own executor's space what its run refuses, and nothing else, family by family."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.checks import check_plan as check_offer
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.run.checks import check_plan as check_run
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES, HYBRIDS, OTHERS, UNDIVIDED

DIVIDED = {
    "tp": plan((layers(),), tp=2),
    "cp": plan((layers(),), cp=2),
    "ep": plan((layers(zero=2),), dp_shard=2, ep=2),
}


def _accepts(check: object, *given: object) -> bool:
    try:
        check(*given)  # type: ignore[operator]  # one of the two above
    except SpecError:
        return False
    return True


def _offered(file: PlanFile) -> bool:
    model = model_from_config(file.model_config_json, name="tiny", source="config.json")
    return _accepts(check_offer, file.plan, model, file.cluster, file.training)


@pytest.mark.parametrize("axis", DIVIDED)
def test_what_is_offered_runs(axis: str) -> None:
    families = FAMILIES | OTHERS | UNDIVIDED | HYBRIDS
    files = {name: plan_file(config, DIVIDED[axis]) for name, config in families.items()}
    offered = {name for name, file in files.items() if _offered(file)}
    assert offered == {name for name, file in files.items() if _accepts(check_run, file)}
    assert 0 < len(offered) < len(files)
