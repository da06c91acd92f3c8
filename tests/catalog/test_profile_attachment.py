"""A profile put to a cluster."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.profile_attachment import shared_cpu_name, what_profile_lacks, with_profile
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.profile import Figure, Format, Profile, Series
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import small_experts, small_model
from tests.reports.made_up_profile import fingerprint, point, profile

SXM = {"kind": "gpu", "device": "NVIDIA H100 80GB HBM3", "device_memory_bytes": 85.0e9, "ranks": 8}


def cpu_cluster(ranks: int, name: str = "Cray-1") -> ClusterSpec:
    """A cluster of one host whose two cores `ranks` ranks share."""
    group = load_cluster("h100-sxm:1").groups[0]
    shared = shared_cpu_name(name, 2 // ranks, 2)
    device = group.device.model_copy(update={"name": shared, "kind": "cpu"})
    return ClusterSpec(name="local", groups=(group.model_copy(update={"device": device, "devices_per_node": ranks}),))


def measured_on(**changes: object) -> Profile:
    return Profile(fingerprint=fingerprint(**changes))


class TestFit:
    def test_a_card_by_the_name_that_its_driver_reports(self) -> None:
        attached = with_profile(load_cluster("h100-sxm:64"), measured_on(**SXM), source="p.json")
        assert [group.profile for group in attached.groups] == [measured_on(**SXM)]
        assert attached.devices == 64

    def test_a_cpu_shared_by_as_many_ranks(self) -> None:
        one, two = measured_on(ranks=1), measured_on(ranks=2, threads=1)
        assert with_profile(cpu_cluster(1), one, source="p.json").groups[0].profile == one
        assert with_profile(cpu_cluster(2), two, source="p.json").groups[0].profile == two

    def test_ranks_count_per_node(self) -> None:
        four = measured_on(ranks=4, nodes=2, threads=1)
        assert with_profile(cpu_cluster(2), four, source="p.json").groups[0].profile == four

    def test_a_near_miss_names_both(self) -> None:
        pcie = measured_on(**(SXM | {"device": "NVIDIA H100 PCIe"}))
        with pytest.raises(
            SpecError,
            match=r"^p\.json: was measured on NVIDIA H100 PCIe \(h100-pcie in the catalog\), the cluster's device is h100-sxm; "
            r"give --cluster h100-pcie:8, or a profile of h100-sxm$",
        ):
            with_profile(load_cluster("h100-sxm:8"), pcie, source="p.json")

    def test_a_card_that_the_catalog_lacks(self) -> None:
        with pytest.raises(
            SpecError, match=r"measured on Voodoo 2, the cluster's device is h100-sxm; give a profile of"
        ):
            with_profile(load_cluster("h100-sxm:8"), measured_on(**(SXM | {"device": "Voodoo 2"})), source="p.json")

    def test_a_card_of_the_same_name_with_other_memory(self) -> None:
        with pytest.raises(SpecError, match="the cluster's device is h100-sxm"):
            with_profile(
                load_cluster("h100-sxm:8"), measured_on(**(SXM | {"device_memory_bytes": 64e9})), source="p.json"
            )

    def test_a_cpu_is_no_card(self) -> None:
        with pytest.raises(
            SpecError, match="Cray-1, 2 of 2 cores, the cluster's device is h100-sxm; give --cluster local:1"
        ):
            with_profile(load_cluster("h100-sxm:8"), measured_on(), source="p.json")

    def test_a_cpu_is_no_card_even_of_its_name(self) -> None:
        with pytest.raises(SpecError, match="was measured on h100-sxm, 2 of 2 cores"):
            with_profile(load_cluster("h100-sxm:1"), measured_on(device="h100-sxm"), source="p.json")

    def test_another_cpu(self) -> None:
        with pytest.raises(SpecError, match="the cluster's device is Cray-2, 2 of 2 cores"):
            with_profile(cpu_cluster(1, "Cray-2"), measured_on(), source="p.json")

    def test_more_ranks_than_cores_share_otherwise(self) -> None:
        """One thread each, by two or by four ranks: the name is the same, the rates are not."""
        with pytest.raises(
            SpecError, match=r"by 4 ranks of a CPU at once, the cluster has 2 ranks; give --cluster local:4"
        ):
            with_profile(cpu_cluster(2), measured_on(ranks=4, threads=1), source="p.json")


class TestWhatIsLacking:
    def training(self, precision: str = "fp32", **changes: object) -> TrainingSpec:
        values = {"seq_len": 64, "global_batch": 4, "precision": {"compute": precision}, **changes}
        return TrainingSpec.parse(values, source="test")

    def attached(self, held: Profile, ranks: int = 1) -> ClusterSpec:
        held = held.model_copy(
            update={"fingerprint": fingerprint(ranks=ranks, threads=2 // ranks)},
        )
        return with_profile(cpu_cluster(ranks), held, source="p.json")

    def test_nothing_without_a_profile(self) -> None:
        assert what_profile_lacks(cpu_cluster(1), self.training()) is None

    def test_nothing_where_all_is_there(self) -> None:
        assert what_profile_lacks(self.attached(profile()), self.training()) is None

    def test_another_format(self) -> None:
        sentence = what_profile_lacks(self.attached(profile()), self.training("fp16"))
        assert sentence == (
            "The profile holds no matmul in fp16, no attention in fp16, no memory-bound operators in fp16 (its matmuls are in "
            "bf16, fp32); the catalog's figures replace them."
        )

    def test_what_is_not_used_is_not_missed(self) -> None:
        assert "attention" not in str(
            what_profile_lacks(self.attached(profile()), self.training("bf16", attention="unfused"))
        )

    def test_another_optimizer(self) -> None:
        sentence = what_profile_lacks(self.attached(profile()), self.training(optimizer="sgd"))
        assert sentence == "The profile holds no sgd in fp32; the catalog's figures replace them."

    def test_collectives_only_count_between_ranks(self) -> None:
        alone = profile(series=tuple(series for series in profile().series if series.operation != "all_reduce"))
        assert what_profile_lacks(self.attached(alone), self.training()) is None
        assert "no collectives" in str(what_profile_lacks(self.attached(alone, ranks=2), self.training()))

    def series(self, operation: str, variant: str, format: Format) -> Series:
        at = (8.0, 8.0, 8.0, 2.0) if operation == "matmul" else (8.0, 64.0)
        axes = ("m", "k", "n", "groups") if operation == "matmul" else ("rows", "width")
        return Series(operation=operation, variant=variant, format=format, axes=axes, points=(point(at, 1.0),))

    def holding(self, *series: Series) -> ClusterSpec:
        return self.attached(profile(series=(*profile().series, *series)))

    @pytest.mark.parametrize(("stack", "way"), [("shardwright", "grouped"), ("megatron-core", "looped")])
    def test_experts_as_the_software_runs_them(self, stack: str, way: str) -> None:
        training, model = self.training(stack=stack), small_experts()
        sentence = str(what_profile_lacks(self.attached(profile()), training, model))
        assert f"no {way} matmul of experts in fp32" in sentence
        held = self.holding(self.series("matmul", f"{way}_forward", "fp32"))
        assert "experts" not in str(what_profile_lacks(held, training, model))
        assert "experts" not in str(what_profile_lacks(self.attached(profile()), training, small_model()))

    @pytest.mark.parametrize(("stack", "variant"), [("shardwright", "fp8"), ("torchtitan", "fp8-compiled")])
    def test_casts_as_the_software_runs_them(self, stack: str, variant: str) -> None:
        precision = {"compute": "bf16", "linear": "fp8"}
        training = TrainingSpec.parse(
            {"seq_len": 64, "global_batch": 4, "stack": stack, "precision": precision}, source="test"
        )
        sentence = str(what_profile_lacks(self.attached(profile()), training))
        assert f"no matmul in fp8, no cast to {variant}" in sentence
        held = self.holding(self.series("cast", variant, "bf16"), self.series("matmul", "forward", "fp8"))
        sentence = str(what_profile_lacks(held, training))
        assert "fp8" not in sentence.partition(" (")[0]

    def test_what_collectives_take_and_a_sustained_rate_of_a_gpu(self) -> None:
        measured = profile(fingerprint=fingerprint(**SXM))
        training = self.training("bf16")
        sentence = str(
            what_profile_lacks(with_profile(load_cluster("h100-sxm:8"), measured, source="p.json"), training)
        )
        assert "no share of compute that collectives take" in sentence
        assert sentence.endswith("measure their sustained rate with --sustained 30.")
        names = ("compute_slowdown_beside_collective", "sustained_matmul_share")
        figures = {name: Figure(value=0.5, unit="share", meaning=name) for name in names}
        whole = measured.model_copy(update={"figures": figures})
        sentence = str(what_profile_lacks(with_profile(load_cluster("h100-sxm:8"), whole, source="p.json"), training))
        assert "share of compute" not in sentence
        assert "sustained" not in sentence
        alone = with_profile(load_cluster("h100-sxm:1"), measured, source="p.json")
        assert "share of compute" not in str(what_profile_lacks(alone, training))

    def test_a_series_without_points_holds_nothing(self) -> None:
        emptied = profile(series=tuple(series.model_copy(update={"points": ()}) for series in profile().series))
        sentence = str(what_profile_lacks(self.attached(emptied), self.training()))
        assert "no matmul in fp32, no attention" in sentence
        assert "its matmuls" not in sentence
