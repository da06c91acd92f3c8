"""What `plan` keeps free, which devices it takes, and what it may choose."""

import inspect
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.cli.plan import plan as plan_command
from shardwright.costmodel.intervals import safe_reserve
from shardwright.costmodel.plan_file import read_plan_file
from shardwright.jobs.options import PLAN_DEFAULTS
from shardwright.jobs.reading import read_may_choose
from shardwright.specs.choices import CHOICES
from tests.cli.command import JOB, Command, assert_one_line


def test_a_plan_keeps_memory_free_for_a_90_percent_chance_to_fit(command: Command, tmp_path: Path) -> None:
    """Unless the option or a cluster file says how much; a CPU, whose memory no published run tells of, keeps its own."""
    given, cpu = tmp_path / "given.toml", tmp_path / "cpu.toml"
    given.write_text('name = "given"\ndevices = 8\ndevice = { like = "h100-sxm", memory_reserve = 0.2 }\n')
    cpu.write_text('name = "cpu"\ndevices = 2\ndevice = "cpu-server"\n')
    reserves = {}
    for name, cluster in (("catalog", "h100-sxm:8"), ("given", given), ("cpu", cpu)):
        options = ("--cluster", cluster, "--seq-len", "1024", "--global-batch", "16", "--json")
        printed = command("plan", "llama-3.2-1b", *options).json()["plan_file"]
        reserves[name] = printed["cluster"]["groups"][0]["device"]["memory_reserve"]
    assert reserves == {"catalog": pytest.approx(safe_reserve()), "given": 0.2, "cpu": None}
    assert safe_reserve() > 0.06


@pytest.mark.parametrize(
    ("model", "options", "attention"),
    [
        ("gemma-2-2b", (), "unfused"),
        ("gpt-oss-20b", (), "unfused"),
        ("gemma-2-2b", ("--attention", "flash"), "flash"),
        ("gemma-2-2b", ("--stack", "torchtitan"), "flash"),
        ("qwen3-0.6b", (), "flash"),
    ],
)
def test_attention_is_planned_as_this_executor_computes_it(
    command: Command, model: str, options: tuple[str, ...], attention: str
) -> None:
    done = command(
        "plan", model, "--cluster", "h100-sxm:8", "--seq-len", "4096", "--global-batch", "8", *options, "--json"
    )
    training = done.json()["plan_file"]["training"]
    assert training.get("attention", "flash") == attention
    assert ("no fused attention" in done.err) == (attention == "unfused")


@pytest.mark.parametrize(
    ("cluster", "options", "compute"),
    [
        ("v100:8", (), "fp16"),
        ("t4:1", (), "fp16"),
        ("v100:8", ("--precision", "fp32"), "fp32"),
        ("a100:8", (), "bf16"),
        ("a100:8+v100:8", (), "fp16"),
    ],
)
def test_matmuls_are_in_16_bits_that_the_device_has(
    command: Command, cluster: str, options: tuple[str, ...], compute: str
) -> None:
    job = ("--cluster", cluster, "--seq-len", "512", "--global-batch", "16", "--json")
    done = command("plan", "llama-3.2-1b", *job, *options)
    assert done.json()["plan_file"]["training"]["precision"]["compute"] == compute
    assert ("planned with --precision fp16, whose loss is scaled" in done.err) == (compute == "fp16")


@pytest.mark.parametrize(("bf16_share", "compute"), [(0.03, "fp32"), (0.8, "bf16"), (2.0, "bf16")])
def test_a_cpu_without_instructions_for_bf16_gets_fp32(
    command: Command, tmp_path: Path, bf16_share: float, compute: str
) -> None:
    cluster = tmp_path / "cpu.toml"
    rates = f"peak_flops_per_s = {{ fp32 = 1e11, bf16 = {bf16_share * 1e11} }}"
    cluster.write_text(
        f'name = "cpu"\ndevices = 1\ndevice = {{ like = "a100-sxm-80gb", name = "some CPU", {rates} }}\n'
    )
    job = ("--cluster", cluster, "--seq-len", "256", "--global-batch", "4", "--json")
    done = command("plan", "qwen3-demo", *job)
    assert done.json()["plan_file"]["training"]["precision"]["compute"] == compute
    told = "some CPU multiplies bf16 more slowly than fp32: planned with --precision fp32"
    assert (told in done.err) == (compute == "fp32")


def test_a_plan_leaves_host_memory_to_the_system(command: Command, tmp_path: Path) -> None:
    """By GKE's formula, also of a memory that the user states; unless the option or the file says how much."""
    stated, given = tmp_path / "stated.toml", tmp_path / "given.toml"
    job = 'devices = 8\ndevice = "h100-sxm"\n'
    stated.write_text(f'name = "stated"\n{job}host = {{ memory_bytes = 137438953472 }}\n')
    given.write_text(f'name = "given"\n{job}host = {{ memory_bytes = 137438953472, memory_reserve = 0.3 }}\n')

    def reserve(cluster: Path, *options: str) -> float:
        job = ("--cluster", cluster, "--seq-len", "1024", "--global-batch", "16", "--offload-optimizer", "1", "--json")
        printed = command("plan", "llama-3.2-1b", *job, *options).json()
        share = printed["plan_file"]["cluster"]["groups"][0]["host"]["memory_reserve"]
        (said,) = [line for line in printed["why"] if line.startswith("On the host")]
        assert f"{128 / 8 * (1 - share):.1f} usable GiB" in said
        return float(share)

    assert reserve(stated) == pytest.approx((1 + 0.8 + 0.8 + 6.72) / 128)
    assert reserve(given) == 0.3
    assert reserve(given, "--host-memory-reserve", "0.1") == 0.1


def test_a_plan_on_fewer_devices_is_a_plan_of_the_smaller_cluster(command: Command, tmp_path: Path) -> None:
    """8 sequences do not divide over 7 devices without a pipeline; explain, simulate and compare read the plan."""
    path = str(tmp_path / "plan.json")
    job = ("--cluster", "h100-sxm:7", "--seq-len", "1024", "--global-batch", "8", "--forbid", "pp,cp")
    assert_one_line(command("plan", "llama-3.2-1b", *job), "--allow-fewer-devices", "a global batch of 7 or 14")
    found = command("plan", "llama-3.2-1b", *job, "--allow-fewer-devices", "--out", path)
    assert "idle" in found.out
    written = read_plan_file(Path(path))
    assert written.cluster.devices == written.plan.mesh.ranks < 7
    assert command("explain", path).code == 0
    assert command("simulate", path).code == 0


def test_every_choice_of_a_plan_is_an_option() -> None:
    """But for the stages, which a plan file holds."""
    options = set(inspect.signature(plan_command).parameters)
    assert {choice.name for choice in CHOICES} - options == {"stages"}


def test_context_and_expert_parallelism_can_be_set(command: Command) -> None:
    options = ("--cp", "2", "--context-parallel", "ring", "--ep", "4", "--dp-shard", "4", "--zero-stage", "3")
    printed = command("plan", "qwen3-30b-a3b", *JOB, *options, "--json").json()["plan_file"]["plan"]
    assert (printed["mesh"]["cp"], printed["mesh"]["ep"], printed["context_parallel"]) == (2, 4, "ring")
    split = (*options, "--tp", "2", "--cp", "1", "--context-parallel", "all-gather", "--ep", "2", "--etp", "2")
    mesh = command("plan", "qwen3-30b-a3b", *JOB, *split, "--json").json()["plan_file"]["plan"]["mesh"]
    assert (mesh["tp"], mesh["ep"], mesh["etp"]) == (2, 2, 2)
    assert_one_line(command("plan", "qwen3-30b-a3b", *JOB, "--ep", "1", "--etp", "2"), "etp 2", "set ep")
    assert_one_line(command("plan", "llama-3.1-8b", *JOB, "--ep", "2"), "ep 2", "has none")
    assert_one_line(command("plan", "qwen3-30b-a3b", *JOB, "--ep", "3"), "ep 3", "128 experts", "allowed")


def test_experts_are_spread_where_that_is_faster(command: Command) -> None:
    mesh = command("plan", "qwen3-30b-a3b", *JOB, "--json").json()["plan_file"]["plan"]["mesh"]
    assert mesh["ep"] > 1


def test_an_unknown_approximation_is_told_with_all_that_are_known() -> None:
    for given, nearest in (("dilocco", "diloco"), ("mouon", "muon")):
        with pytest.raises(
            SpecError, match=rf"'{given}' is not known; allowed: 8-bit-gradients, .*, muon, .*Did you mean '{nearest}'"
        ):
            read_may_choose({**PLAN_DEFAULTS, "allow_approximate": given})
