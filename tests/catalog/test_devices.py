"""The catalog against published figures (each row's source beside it) and against the laws that hardware obeys."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog import devices as catalog
from shardwright.catalog.cluster_file import load_cluster
from shardwright.specs.cluster import Link
from shardwright.specs.profile import Profile, write_profile
from tests.costmodel.op_times.made_up_profile import made_up_profile

REQUIRED = [
    "v100-sxm-16gb",
    "v100-sxm-32gb",
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "a100-pcie-40gb",
    "a100-pcie-80gb",
    "a800-sxm-80gb",
    "h100-sxm",
    "h100-pcie",
    "h200-sxm",
    "h800-sxm",
    "b200-sxm",
    "gb200",
    "b300-sxm",
    "gb300",
    "mi250x",
    "mi300x",
    "mi325x",
    "mi355x",
    "ascend-910b",
    "p100-sxm-16gb",
    "p100-pcie-16gb",
    "h20-sxm",
    "l40s",
    "l4",
    "t4",
    "a10g",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "v100-pcie-16gb",
    "v100-pcie-32gb",
    "a10",
    "a30",
    "a40",
    "h100-nvl",
    "h200-nvl",
    "gh200",
    "h20-141gb",
    "b100-sxm",
    "mi210",
    "mi250",
    "mi350x",
    "l20",
    "l40",
    "rtx-a5000",
    "rtx-6000-ada",
    "rtx-4080",
    "rtx-5080",
    "rtx-pro-6000",
    "cpu-server",
    "cpu-desktop",
]

# stas00/ml-engineering compute/accelerator/README.md@744d01e18b, dense: bf16 and fp8 in TFLOP/s, memory in GB, its bandwidth
# and the link inside a node, one way, in GB/s.
PUBLISHED = [
    ("gb300", 2500, 5000, None, None, 900),
    ("gb200", 2500, 5000, 186, 8000, 900),
    ("b300-sxm", 2250, 4500, 288, 8000, 900),
    ("b200-sxm", 2250, 4500, 180, 8000, 900),
    ("mi355x", 2500, 5000, 288, 8000, 535.5),
    ("mi325x", 1300, 2610, 256, 6000, 448),
    ("mi300x", 1300, 2610, 192, 5300, 448),
    ("h200-sxm", 989, 1979, 141, 4800, 450),
    ("h100-sxm", 989, 1979, 80, 3350, 450),
    ("h100-pcie", 756, 1513, 80, 2000, None),
    ("l40s", 362, 733, 48, 860, None),
    ("a100-sxm-80gb", 312, None, 80, 2000, 300),
    ("tpu-v4", 275, None, 32, 1200, 300),
    ("tpu-v5e", 197, None, 16, 820, 200),
    ("tpu-v5p", 459, None, 95, 2760, 600),
    ("tpu-v6e", 918, None, None, None, 448),
    ("a100-pcie-80gb", 312, None, 80, 1940, None),
    # These rows say "from memory" in the table that collected them.
    ("a100-sxm-40gb", 312, None, 40, 1555, 300),
    ("h800-sxm", 989, 1979, 80, 3350, 200),
    ("a800-sxm-80gb", 312, None, 80, 2039, 200),
]


@pytest.mark.parametrize("name", REQUIRED)
def test_every_required_device_has_a_standard_node(name: str) -> None:
    node = catalog.standard_node(name)
    assert node.device.name == name
    assert node.host.memory_bytes > 0
    assert node.host.nvme_bytes > 0


@pytest.mark.parametrize("name", catalog.device_names())
def test_every_figure_names_its_source(name: str) -> None:
    device = catalog.device(name)
    others = {"name", "kind", "generation", "memory_reserve", "sources", "attention_flops_per_s", "keeps_clock"}
    optional = ("matmul_share_by_format", "power_watts", "matmul_watts", "exponentials_per_s")
    figures = set(type(device).model_fields) - others - {name for name in optional if not getattr(device, name)}
    assert set(device.sources) == figures
    assert all(source.strip() for source in device.sources.values())
    node = catalog.standard_node(name)
    for part in (node.intra_node, node.host_link, node.nic, node.host):
        assert part is not None
        assert part.source != "given by the user"


@pytest.mark.parametrize(("name", "bf16", "fp8", "memory_gb", "bandwidth", "link"), PUBLISHED)
def test_figures_are_the_published_ones(
    name: str, bf16: float, fp8: float | None, memory_gb: float | None, bandwidth: float | None, link: float | None
) -> None:
    """Peaks within 1% (tables round), bandwidth within 2%; memory between 91% and 108%, GB and GiB being mixed in print."""
    node = catalog.standard_node(name)
    device = node.device
    assert device.peak_flops_per_s["bf16"] == pytest.approx(bf16 * 1e12, rel=0.01)
    if fp8 is not None:
        assert device.peak_flops_per_s["fp8"] == pytest.approx(fp8 * 1e12, rel=0.01)
    if bandwidth is not None:
        assert device.memory_bytes_per_s == pytest.approx(bandwidth * 1e9, rel=0.02)
    if memory_gb is not None:
        assert 0.91 * memory_gb * 1e9 < device.memory_bytes < 1.08 * memory_gb * 1e9
    if link is not None:
        assert node.intra_node.bytes_per_s == link * 1e9


def test_an_mi250x_is_half_a_module() -> None:
    """The module: 383 TFLOP/s, 128 GB, 3280 GB/s, 350 GB/s (ml-engineering, lines 272 and 479; network lines 155-167)."""
    node = catalog.standard_node("mi250x")
    assert 2 * node.device.peak_flops_per_s["bf16"] == pytest.approx(383e12, rel=0.01)
    assert 2 * node.device.memory_bytes_per_s == pytest.approx(3280e9, rel=0.02)
    assert 2 * node.intra_node.bytes_per_s == 350e9
    assert node.devices_per_node == 8


@pytest.mark.parametrize("name", [name for name in catalog.device_names() if not name.startswith("cpu")])
def test_peaks_are_dense(name: str) -> None:
    """From a format to the next narrower a dense tensor rate doubles; a figure with sparsity would show as four times."""
    peaks = catalog.device(name).peak_flops_per_s
    if "tf32" in peaks:
        assert peaks["bf16"] == pytest.approx(2 * peaks["tf32"], rel=0.03)
    if "fp8" in peaks:
        assert peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=0.03)
    if "bf16" in peaks and "fp16" in peaks:  # TPUs have no fp16
        assert peaks["bf16"] == peaks["fp16"]


@pytest.mark.parametrize(
    ("name", "duplex_gb_per_s"),
    [
        ("nvlink-1", 160),
        ("nvlink-2", 300),
        ("hccs-910b", 392),
        ("nvlink-3", 600),
        ("nvlink-4", 900),
        ("nvlink-5", 1800),
        ("nvlink-4-h800", 400),
        ("nvlink-3-a800", 400),
        ("pcie-3-x16", 32),
        ("pcie-4-x16", 64),
        ("pcie-5-x16", 128),
    ],
)
def test_links_count_one_direction(name: str, duplex_gb_per_s: float) -> None:
    """Data sheets give both directions together, and PCIe before its encoding."""
    assert 0.98 * duplex_gb_per_s * 1e9 / 2 < catalog.link(name).bytes_per_s <= duplex_gb_per_s * 1e9 / 2


@pytest.mark.parametrize(
    ("name", "gbit_per_s"),
    [
        ("infiniband-edr", 100),
        ("infiniband-hdr", 200),
        ("infiniband-ndr", 400),
        ("infiniband-xdr", 800),
        ("roce-400g", 400),
        ("ethernet-1g", 1),
        ("ethernet-10g", 10),
        ("ethernet-25g", 25),
        ("ethernet-100g", 100),
    ],
)
def test_fabrics_are_named_by_their_line_rate(name: str, gbit_per_s: float) -> None:
    assert catalog.fabric(name).bytes_per_s == gbit_per_s * 1e9 / 8


@pytest.mark.parametrize(
    ("device", "nodes_gbit_per_s"),
    [("h100-sxm", 8 * 400), ("a100-sxm-80gb", 8 * 200), ("v100-sxm-32gb", 4 * 100), ("b300-sxm", 8 * 800)],
)
def test_standard_nodes_have_their_nics(device: str, nodes_gbit_per_s: float) -> None:
    assert catalog.standard_node(device).node_bytes_per_s == nodes_gbit_per_s * 1e9 / 8


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("v100-sxm-16gb", "v100-sxm-32gb"),
        ("a100-sxm-40gb", "a100-sxm-80gb"),
        ("h100-sxm", "h200-sxm"),
        ("h200-sxm", "b200-sxm"),
        ("b200-sxm", "b300-sxm"),
        ("gb200", "gb300"),
        ("mi250x", "mi300x"),
        ("mi300x", "mi325x"),
        ("mi325x", "mi355x"),
        ("rtx-3090", "rtx-5090"),
    ],
)
def test_the_successor_is_at_least_as_good(less: str, more: str) -> None:
    one, other = catalog.device(less), catalog.device(more)
    assert other.memory_bytes > one.memory_bytes
    assert other.memory_bytes_per_s >= one.memory_bytes_per_s
    assert other.peak_flops_per_s["fp16"] >= one.peak_flops_per_s["fp16"]


@pytest.mark.parametrize("name", catalog.device_names())
def test_a_node_is_plausible(name: str) -> None:
    """Device memory is faster than any link, links inside a node are not slower than one device's share of the NICs."""
    node = catalog.standard_node(name)
    assert node.device.memory_bytes_per_s > node.intra_node.bytes_per_s
    assert node.intra_node.bytes_per_s >= node.node_bytes_per_s / node.devices_per_node
    assert node.device.context_bytes < 0.08 * node.device.memory_bytes


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("h100", "h100-sxm"),
        ("H100-SXM-80GB", "h100-sxm"),
        ("H100_SXM", "h100-sxm"),
        ("A100-80GB", "a100-sxm-80gb"),
        ("A100-40GB", "a100-sxm-40gb"),
        ("RTX 4090 24GB", "rtx-4090"),
        ("GeForce RTX 5090", "rtx-5090"),
        ("3090", "rtx-3090"),
        ("P100", "p100-sxm-16gb"),
        ("Tesla T4", "t4"),
        ("Ascend 910B", "ascend-910b"),
        ("TPU v4", "tpu-v4"),
        ("TPU v5p", "tpu-v5p"),
        ("MI355X 288GB", "mi355x"),
        ("V100-SXM-32GB", "v100-sxm-32gb"),
        ("H200-SXM-141GB", "h200-sxm"),
        ("GB200", "gb200"),
        ("A800-80GB", "a800-sxm-80gb"),
        ("H800-80GB", "h800-sxm"),
        ("RTX A6000 48GB", "rtx-a6000"),
        ("B200 (power limited)", "b200-sxm"),
        ("H100-SXM-95GB-HBM2e (lower TDP)", "h100-sxm-96gb"),
        ("H100-SXM-96GB-HBM2e-500W (2.4TB/s)", "h100-sxm-96gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100", "a100-sxm-80gb"),
        ("A100 40GB PCIe", "a100-pcie-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H100-SXM5-80GB", "h100-sxm"),
        ("H100 NVL", "h100-nvl"),
        ("NVIDIA H200 141GB HBM3e", "h200-sxm"),
        ("NVIDIA GB200 NVL72", "gb200"),
        ("Tesla V100-PCIE-16GB", "v100-pcie-16gb"),
        ("V100-SXM3-32GB", "v100-sxm-32gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX 4090 24GB", "rtx-4090"),
    ],
)
def test_devices_have_the_names_people_use(given: str, meant: str) -> None:
    assert catalog.device_name(given) == meant


def test_no_name_means_two_devices() -> None:
    names = list(catalog.device_names())
    for name in catalog.device_names():
        names += catalog._devices()[name].aliases
    assert len(names) == len(set(names))


def test_no_two_devices_have_the_same_words() -> None:
    """Neither their own names, nor other names, nor what drivers report."""
    meant: dict[frozenset[str], set[str]] = {}
    for name, entry in catalog._devices().items():
        for text in (name, *entry.aliases, *entry.reported_as):
            meant.setdefault(catalog._words(text), set()).add(name)
    assert {words: names for words, names in meant.items() if len(names) > 1} == {}


@pytest.mark.parametrize("given", ["A100-80GB-500GB", "NVIDIA", "H100 SXM 64GB", "RTX"])
def test_words_that_no_device_has_are_refused(given: str) -> None:
    with pytest.raises(SpecError, match="no device"):
        catalog.device_name(given)


def test_an_unknown_device_names_the_nearest_and_all() -> None:
    with pytest.raises(SpecError, match=r"no device 'h1000-sxm'.*Did you mean 'h100-sxm'\?.*mi300x") as caught:
        catalog.device("h1000-sxm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["trainium", "trainium2:16"])
def test_what_no_node_can_describe_is_refused_by_name(name: str) -> None:
    with pytest.raises(SpecError, match=f"no device '{name.partition(':')[0]}' in the catalog: .* torus") as caught:
        load_cluster(name if ":" in name else f"{name}:8")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("a100-pcie-80gb", 252.9 / 312),
        ("a100-sxm-80gb", 271.2 / 312),
        ("h100-sxm", 720 / 989),
        ("h200-sxm", 720 / 989),
        ("b200-sxm", 1745 / 2250 * 720 / 794.5),
        ("gb200", 1822 / 2500 * 720 / 794.5),
        ("b300-sxm", 1769 / 2250 * 720 / 794.5),
    ],
)
def test_the_power_limit_explains_sustained_matmuls(name: str, share: float) -> None:
    """Within 5% of what is published: docs/cost-model.md. The best shapes of Blackwells are taken as an H100's, which
    sustains 720 of 794.5 TFLOP/s."""
    device = catalog.device(name)
    assert device.best_matmul_share("bf16") * device.matmul_clock("bf16") == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(
    ("name", "share"),
    [("h100-sxm", 1280 / 1979), ("b200-sxm", 3432.5 / 4500 * 720 / 794.5), ("gb200", 3615.6 / 5000 * 720 / 794.5)],
)
def test_the_power_limit_explains_sustained_matmuls_in_8_bits(name: str, share: float) -> None:
    device = catalog.device(name)
    assert device.best_matmul_share("fp8") * device.matmul_clock("fp8") == pytest.approx(share, rel=0.05)


def test_cards_of_one_chip_differ_in_power_alone() -> None:
    """500 W and 700 W of one H100: the cube root of their ratio. A card that draws less than its limit keeps its clock."""
    less, more = catalog.device("h100-sxm-96gb"), catalog.device("h100-sxm")
    assert less.matmul_watts == more.matmul_watts
    assert less.matmul_clock("bf16") / more.matmul_clock("bf16") == pytest.approx((500 / 700) ** (1 / 3))
    for name in ("h20-sxm", "a100-sxm-80gb", "a100-sxm-40gb", "rtx-4090"):
        assert catalog.device(name).matmul_clock("bf16") == 1


@pytest.mark.parametrize("name", [name for name in catalog.device_names() if catalog.device(name).matmul_watts])
def test_a_clock_is_the_peaks(name: str) -> None:
    """Peak over multiprocessors and clock is a power of two: what one multiprocessor does at once."""
    entry = catalog._devices()[name]
    assert entry.boost_hz is not None
    at_once = entry.peak_flops_per_s["bf16"] / (entry.multiprocessors * entry.boost_hz)
    nearest = 2 ** round(math.log2(at_once))
    assert at_once == pytest.approx(nearest, rel=0.02)


def test_blackwell_ultra_has_twice_the_exponentials() -> None:
    """10.7 against 5 tera-exponentials a second (verda.com/blog/gb300-nvl72-architecture)."""
    for plain, ultra in (("b200-sxm", "b300-sxm"), ("gb200", "gb300")):
        rates = [catalog.device(name).exponential_rate for name in (plain, ultra)]
        assert rates[1] == pytest.approx(2 * rates[0])
        assert rates[0] == pytest.approx(5e12, rel=0.15)


def test_an_unknown_link_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no link 'nvlink-44'.*Did you mean 'nvlink-4'\?"):
        catalog.link("nvlink-44")


def test_a_link_inside_a_node_is_no_fabric() -> None:
    with pytest.raises(SpecError, match="no fabric 'nvlink-4'"):
        catalog.fabric("nvlink-4")
    assert all(isinstance(catalog.fabric(name), Link) for name in catalog.fabric_names())


@pytest.mark.parametrize(
    ("reported", "mib", "meant"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA H200", 143771, "h200-sxm"),
        ("NVIDIA B200", 183359, "b200-sxm"),
        ("NVIDIA GB200", 189471, "gb200"),
        ("NVIDIA GB300", 284208, "gb300"),
        ("NVIDIA B300 SXM6 AC", 275040, "b300-sxm"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-sxm-40gb"),
        ("Tesla V100-SXM2-32GB", 32768, "v100-sxm-32gb"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", 32607, "rtx-5090"),
        ("Tesla T4", 15360, "t4"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA A10G", 23028, "a10g"),
        ("NVIDIA H100 80GB HBM3", 40960, None),
        ("NVIDIA GeForce GTX 1080", 8192, None),
    ],
)
def test_what_the_driver_reports_is_recognised(reported: str, mib: float, meant: str | None) -> None:
    """A known name with other memory is another part (a slice of one, say)."""
    assert catalog.device_reported_as(reported, mib * 2**20) == meant


class TestShippedProfiles:
    """What was measured on a card becomes the catalog's default for it."""

    @pytest.fixture(autouse=True)
    def catalog_with_a_profile(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
        """A copy of the catalog, to put profiles into."""
        folder = tmp_path / "catalog"
        shutil.copytree(str(catalog._folder()), folder)
        (folder / "profiles").mkdir(exist_ok=True)
        monkeypatch.setattr(catalog, "_folder", lambda: folder)
        catalog.shipped_profile.cache_clear()
        yield folder / "profiles"
        catalog.shipped_profile.cache_clear()

    def measured_on(self, device: str) -> Profile:
        whole = made_up_profile()
        return whole.model_copy(update={"fingerprint": whole.fingerprint.model_copy(update={"device": device})})

    def test_of_its_card(self, catalog_with_a_profile: Path) -> None:
        profile = self.measured_on("NVIDIA H100 80GB HBM3")
        write_profile(catalog_with_a_profile / "h100-sxm.json", profile)
        assert load_cluster("h100-sxm:16").groups[0].profile == profile
        assert load_cluster("a100-sxm-80gb:16").groups[0].profile is None

    def test_not_of_a_device_that_the_user_changed(self, catalog_with_a_profile: Path, tmp_path: Path) -> None:
        write_profile(catalog_with_a_profile / "h100-sxm.json", self.measured_on("NVIDIA H100 80GB HBM3"))
        for device, known in (('"h100-sxm"', True), ('{ like = "h100-sxm", memory_bytes_per_s = 2e12 }', False)):
            file = tmp_path / "cluster.toml"
            file.write_text(f"device = {device}\nnodes = 2\n")
            assert (load_cluster(str(file)).groups[0].profile is not None) == known

    def test_a_file_under_another_cards_name_is_refused(self, catalog_with_a_profile: Path) -> None:
        write_profile(catalog_with_a_profile / "h200-sxm.json", self.measured_on("NVIDIA H100 80GB HBM3"))
        with pytest.raises(SpecError, match="NVIDIA H100 80GB HBM3, which is not h200-sxm"):
            load_cluster("h200-sxm:8")
