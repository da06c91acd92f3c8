"""The package's public names."""

import subprocess
import sys

import shardwright.benchmarks
from shardwright.compare import side_by_side as compare
from shardwright.reports.plan import report
from shardwright.validation.scores import validate


def test_every_public_name_exists() -> None:
    for name in shardwright.benchmarks.__all__:
        assert hasattr(shardwright.benchmarks, name)
    assert list(shardwright.benchmarks.__all__) == sorted(
        shardwright.benchmarks.__all__, key=lambda n: (not n.isupper(), n)
    )


def test_no_name_hides_a_module() -> None:
    assert callable(compare.compare)
    assert callable(validate.validate_table)
    assert callable(report.write_report)


def test_importing_draws_on_neither_matplotlib_nor_torch() -> None:
    check = (
        "import sys, shardwright.benchmarks; print([m for m in ('matplotlib', 'torch', 'scipy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
