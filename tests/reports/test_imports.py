"""What printing a plan needs."""

import subprocess
import sys


def test_printing_a_plan_loads_neither_matplotlib_nor_torch_nor_benchmarks() -> None:
    slow = "('matplotlib', 'torch', 'scipy', 'shardwright.benchmarks', 'shardwright.validation')"
    check = f"import sys, shardwright.reports.plan; print([m for m in {slow} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
