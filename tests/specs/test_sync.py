"""How replicas agree: the methods, what contradicts itself, and the file form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shardwright.base.errors import SpecError
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import APPROXIMATIONS, LayerRun, Outer, Plan, Stage, Sync, quality_of, read_sync, sent_bytes


def plan(sync: Sync = Sync(), *, zero: Any = 0, **degrees: int) -> Plan:  # noqa: B008  # frozen
    mesh = Mesh(**{"dp_replicate": 2, **degrees})
    return Plan(
        mesh=mesh,
        micro_batch=1,
        microbatches=1,
        stages=(Stage(layers=(LayerRun(count=2, zero_stage=zero),)),),
        sync=sync,
    )


class TestMethods:
    @pytest.mark.parametrize(
        ("sync", "method"),
        [
            (Sync(), "exact"),
            (Sync(bits=1, warmup_steps=10), "1-bit-adam"),
            (Sync(bits=8), "8-bit-gradients"),
            (Sync(inner_steps=500, outer=Outer()), "local-steps"),
            (Sync(inner_steps=1, outer=Outer()), "local-steps"),
            (Sync(inner_steps=None), "islands"),
        ],
    )
    def test_method(self, sync: Sync, method: str) -> None:
        assert sync.method == method
        assert sync.approximate == (method != "exact")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"inner_steps": 2}, "inner_steps 2 need an outer optimizer"),
            ({"bits": 1}, "bits 1 needs warmup_steps"),
            ({"bits": 4}, "bits 4 are of an outer optimizer's differences"),
            ({"warmup_steps": 5}, "set bits to 1 or 8"),
            ({"delay": 1}, "delay 1 is of an outer optimizer"),
            ({"inner_steps": 4, "delay": 5, "outer": {}}, "delay 5 is more than inner_steps 4"),
            ({"inner_steps": 4, "fragments": 5, "outer": {}}, "fragments 5 is more than inner_steps 4"),
            ({"inner_steps": 4, "bits": 1, "outer": {}}, "bits 1 is of 1-bit Adam"),
            ({"inner_steps": 4, "warmup_steps": 1, "outer": {}}, "warmup_steps 1 are of compressed gradients"),
            ({"inner_steps": None, "bits": 8}, "bits is of an exchange"),
            ({"inner_steps": 0}, "greater than 0"),
            ({"outer": {"keeps_local": 1}}, "never take the base"),
        ],
    )
    def test_what_is_no_method_is_refused(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(SpecError, match=said) as caught:
            Sync.parse(given, source="plan")
        assert "\n" not in str(caught.value)


class TestInAPlan:
    def test_a_file_says_that_it_is_approximate(self) -> None:
        one = plan(Sync(bits=8))
        held = json.loads(one.model_dump_json())
        assert held["approximate"] is True
        assert Plan.model_validate(held) == one
        assert "approximate" not in json.loads(plan().model_dump_json())

    @pytest.mark.parametrize(("sync", "says"), [(Sync(bits=8), False), (Sync(), True)])
    def test_a_file_that_says_otherwise_is_refused(self, sync: Sync, says: bool) -> None:
        held = json.loads(plan(sync).model_dump_json())
        with pytest.raises(ValidationError, match=f"approximate is {str(says).lower()}"):
            Plan.model_validate(held | {"approximate": says})

    def test_a_file_of_before_reduces_exactly(self) -> None:
        held = json.loads(plan().model_dump_json())
        del held["sync"]
        assert Plan.model_validate(held).sync == Sync()

    @pytest.mark.parametrize(
        ("degrees", "said"),
        [
            ({"dp_replicate": 1}, "dp_replicate is 1"),
            ({"cp": 2}, "cp 2 needs zero_stage 1"),
            ({"tp": 2, "ep": 2}, "ep 2 needs zero_stage 1"),
        ],
    )
    def test_replicas_are_whole(self, degrees: dict[str, int], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            plan(Sync(bits=8), **degrees)


class TestByName:
    def test_each_name_has_methods_and_a_source(self) -> None:
        for approximation in APPROXIMATIONS.values():
            for sync in approximation.syncs:
                assert sync.approximate
                assert quality_of(sync) == approximation.quality
            assert "arXiv" in approximation.quality
        assert quality_of(Sync()) is None

    def test_numbers_after_a_colon(self) -> None:
        assert read_sync("exact") == Sync()
        assert read_sync("diloco:inner_steps=50,bits=8,learning_rate=0.5,nesterov=false") == Sync(
            inner_steps=50, bits=8, outer=Outer(learning_rate=0.5, nesterov=False)
        )
        assert read_sync("co2:inner_steps=3") == Sync(inner_steps=3, delay=3, outer=Outer())

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("dilco", "Did you mean 'diloco'"),
            ("diloco:bits", "write bits as NAME=NUMBER"),
            ("diloco:bits=3", "bits"),
            ("diloco:steps=3", "steps"),
            ("1-bit-adam:warmup_steps=0", "needs warmup_steps"),
        ],
    )
    def test_a_mistake_is_one_line(self, text: str, said: str) -> None:
        with pytest.raises(SpecError, match=said) as caught:
            read_sync(text)
        assert "\n" not in str(caught.value)


class TestSentBytes:
    def test_by_hand(self) -> None:
        """10,000 numbers over 2 ranks: parts of 5,000 with 3 blocks each."""
        assert [float(sent_bytes(10_000, bits, 2)) for bits in (1, 4, 8, 16)] == [2 * 637, 2 * 2512, 2 * 5012, 20_000]

    @given(st.integers(1, 10**9), st.sampled_from([1, 4, 8, 16]), st.integers(2, 4096))
    def test_it_is_the_bits_and_little_more(self, elements: int, bits: int, ranks: int) -> None:
        """At most 8 elements more for each rank, and 4 bytes for each block of 2,048 of its part."""
        least = elements * bits / 8
        most = least + ranks * (bits + 4) + 4 * elements / 2048
        assert least <= float(sent_bytes(elements, bits, ranks)) <= most + 1e-6 * most
