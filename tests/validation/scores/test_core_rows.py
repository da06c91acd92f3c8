"""Which rows carry a target."""

import pytest

from shardwright.validation.scores.core_rows import is_core
from tests.validation.made_up_rows import row


@pytest.mark.parametrize(
    ("changes", "core"),
    [
        ({}, True),
        ({"framework": None, "gpu": None}, True),
        ({"framework": "nanotron v0.5"}, False),
        ({"framework": "Megatron-LM + DeepSpeed ZeRO-3", "zero_or_fsdp": "3"}, False),
        ({"framework": "Megatron-DeepSpeed", "zero_or_fsdp": "1"}, True),
        ({"gpu": "V100-SXM-32GB"}, False),
        ({"gpu": "H100-SXM-80GB", "framework": "Megatron-LM"}, True),
    ],
)
def test_core(changes: dict[str, object], core: bool) -> None:
    assert is_core(row(**changes)) is core
