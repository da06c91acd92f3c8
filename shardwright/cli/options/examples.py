"""Commands to try, at the end of each command's `--help`."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "plan": (
        "shardwright plan llama-3.1-70b --cluster h100-sxm:64 --seq-len 8k --global-batch 512 --out plan.json",
        "shardwright plan qwen3-8b --cluster rtx-4090:1 --seq-len 4k --global-batch 16 --trainable lora",
        "shardwright plan gpt2-355m --cluster a100-sxm-40gb:64@ethernet-10g --seq-len 512 --global-batch 256 --allow-approximate 1-bit-adam",
        "shardwright plan deepseek-v3 --cluster h800-sxm:2048 --seq-len 4k --global-batch 15360 --stack megatron-core",
    ),
    "explain": ("shardwright explain plan.json --report plan.html",),
    "compare": (
        "shardwright compare llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128",
        "shardwright compare llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128 --strategy zero3 --strategy best",
    ),
    "simulate": ("shardwright simulate plan.json --trace trace.json",),
    "run": (
        "shardwright run plan.json --steps 1000 --data text/ --out run",
        "shardwright run plan.json --init-from weights/ --tokenizer weights/ --data chat.jsonl --steps 200 --out tuned",
        "shardwright run plan.json --dry",
    ),
    "launch": ("shardwright launch plan.json --slurm -- --data text/ --out run --steps 1000",),
    "export": (
        "shardwright export plan.json --to megatron --out train.sh",
        "shardwright export plan.json --to deepspeed --closest --out ds.json",
    ),
    "import": ("shardwright import ds_config.json --like plan.json --out present.json",),
    "diagnose": ("shardwright diagnose train.sh --cluster h100-sxm:64",),
    "export-weights": (
        "shardwright export-weights run --to weights",
        "shardwright export-weights islands --to merged --merge",
    ),
    "export-adapters": ("shardwright export-adapters run --to adapters",),
    "validate": ("shardwright validate shardwright/calibration/published/training.csv",),
    "doctor": ("shardwright doctor",),
}


def epilog(name: str) -> str | None:
    """Return the lines below a command's options; None where there are no examples."""
    if name not in EXAMPLES:
        return None
    return "\n".join(("\b", f"Example{'s' * (len(EXAMPLES[name]) > 1)}:", *(f"  {line}" for line in EXAMPLES[name])))
