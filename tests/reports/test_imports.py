"""What printing a plan needs."""

import subprocess
import sys


def test_printing_a_plan_loads_neither_torch_nor_benchmarks() -> None:
    slow = "('torch', 'scipy', 'shardwright.benchmarks', 'shardwright.validation')"
    check = f"import sys, shardwright.reports.plan; print([m for m in {slow} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_command_plan_loads_no_solver_and_nothing_that_draws() -> None:
    slow = "('torch', 'scipy', 'networkx', 'pulp', 'highspy', 'shardwright.validation')"
    job = "'llama-3.2-1b', '--cluster', 'h100-sxm:8', '--seq-len', '1024', '--global-batch', '16'"
    code = (
        "import sys; from shardwright.cli import main\n"
        f"sys.argv = ['shardwright', 'plan', {job}]\n"
        "try:\n main()\nexcept SystemExit as ended:\n assert not ended.code\n"
        f"print([m for m in {slow} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
