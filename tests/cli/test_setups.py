"""Other frameworks' files beside strategies."""

from pathlib import Path

from tests.cli.command import Command


def test_a_setup_is_compared(command: Command, tmp_path: Path) -> None:
    """Beside strategies, on the stack that its framework is."""
    path = tmp_path / "ds.json"
    path.write_text(
        '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": true}, "zero_optimization": {"stage": 3}}'
    )
    job = ("compare", "llama-3.1-8b", "--cluster", "h100-sxm:16", "--seq-len", "4096", "--global-batch", "64")
    options = ("--plan", path, "--strategy", "zero3", "--json")
    assert "give --stack hf-deepspeed" in command(*job, *options).err
    rows = command(*job, *options, "--stack", "hf-deepspeed").json()["rows"]
    assert [row["name"] for row in rows] == ["zero3", "ds.json"]
    assert rows[1]["plan"]["micro_batch"] == 1
    path.write_text('{"train_batch_sise": 64}')
    assert "train_batch_sise" in command(*job, *options).err
