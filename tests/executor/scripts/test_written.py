"""Scripts that start runs on several machines: they run here, with stand-ins for Slurm and ssh."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile, write_plan_file
from shardwright.executor.scripts import by_hand, kubernetes_job, nodes_of, over_ssh, slurm_script
from shardwright.specs.results.measurement import read_measurement
from tests.executor.runs import text_file, tiny
from tests.parity.cases import layers, plan

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=0 "$@" & done
worst=0
for _ in 0 1; do wait -n; code=$?; [ $code -gt $worst ] && worst=$code; done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" > requeued; else echo 127.0.0.1; fi
"""


def two_machines() -> PlanFile:
    file = tiny(plan((layers(zero=1),), dp_shard=2))
    (group,) = file.cluster.groups
    apart = group.model_copy(update={"nodes": 2, "devices_per_node": 1, "nic": group.intra_node})
    return file.model_copy(update={"cluster": file.cluster.model_copy(update={"groups": (apart,)})})


def run_script(folder: Path, script: str, commands: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, where `commands` stand in for what a cluster has."""
    for name, text in commands.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (folder / "job.sh").write_text(script)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    environment |= {"SLURM_JOB_NODELIST": "node[0-1]", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "job.sh"], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_batch_script_trains_on_two_machines(tmp_path: Path) -> None:
    write_plan_file(tmp_path / "plan.json", two_machines())
    command = ["shardwright", "run", "plan.json", "--out", "run", "--steps", "2", "--data", str(text_file(tmp_path))]
    script = slurm_script(nodes_of(two_machines()), command, name="job")
    assert "--gpus-per-node" not in script
    done = run_script(tmp_path, script, {"srun": SRUN, "scontrol": SCONTROL})
    assert done.returncode == 0, done.stderr
    assert [record.step for record in read_measurement(tmp_path / "run/measurement.json").steps] == [1, 2]
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (1, False), (0, False)])
def test_a_job_that_was_stopped_goes_back_into_the_queue(code: int, requeued: bool, tmp_path: Path) -> None:
    script = slurm_script(nodes_of(two_machines()), ["shardwright"], name="job", time="1:00:00", partition="long")
    done = run_script(tmp_path, script, {"srun": f"#!/bin/bash\nexit {code}\n", "scontrol": SCONTROL})
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == requeued
    assert "#SBATCH --time=1:00:00\n#SBATCH --partition=long\n" in script


def test_a_job_of_kubernetes_has_a_pod_for_each_machine() -> None:
    found = yaml.safe_load(
        kubernetes_job(nodes_of(two_machines()), ["shardwright", "run", "my plan.json"], name="job", image="a/b:1")
    )
    replicas = found["spec"]["pytorchReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in replicas.items()} == {"Master": 1, "Worker": 1}
    (container,) = replicas["Worker"]["template"]["spec"]["containers"]
    assert container["args"] == ["--nproc-per-node", "1", "-m", "shardwright", "run", "my plan.json"]
    one = nodes_of(tiny(plan((layers(),), tp=2)))
    assert "Worker" not in kubernetes_job(one, ["shardwright"], name="job", image="a")


def test_lines_to_type() -> None:
    first, second = by_hand(nodes_of(two_machines()), ["shardwright", "run", "my plan.json"], master="node0")
    assert first == (
        "torchrun --nnodes 2 --node-rank 0 --nproc-per-node 1 --master-addr node0 --master-port 29500 -m shardwright run 'my plan.json'"
    )
    assert second == first.replace("node-rank 0", "node-rank 1")


SSH = """#!/bin/bash
echo "$2: $3" >> hosts
case $2 in good) exit 0;; bad) exit 3;; *) exec sleep 100;; esac
"""


@pytest.mark.parametrize(("hosts", "code"), [(["good", "good"], 0), (["slow", "bad"], 3)])
def test_hosts_of_ssh_end_together(hosts: list[str], code: int, tmp_path: Path) -> None:
    script = over_ssh(nodes_of(two_machines()), ["shardwright", "run", "it's.json"], hosts=hosts, folder="/my data")
    done = run_script(tmp_path, script, {"ssh": SSH})
    assert done.returncode == code, done.stderr
    told = (tmp_path / "hosts").read_text()
    assert f"{hosts[1]}: cd '/my data' && exec torchrun --nnodes 2 --node-rank 1" in told
    assert "run 'it'\"'\"'s.json'" in told


def test_machines_that_the_plan_does_not_fill_are_refused() -> None:
    file = two_machines()
    (group,) = file.cluster.groups
    other = group.model_copy(update={"device": group.device.model_copy(update={"name": "other", "memory_bytes": 2e9})})
    mixed = file.model_copy(update={"cluster": file.cluster.model_copy(update={"groups": (group, other)})})
    with pytest.raises(SpecError, match="is a mixed cluster"):
        nodes_of(mixed)
    with pytest.raises(SpecError, match="needs 2 machines, and 1 hosts are named; name 2"):
        over_ssh(nodes_of(file), ["x"], hosts=["a"], folder=".")
