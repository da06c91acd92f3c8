"""Commands to try, at the end of each command's `--help`."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "plan": (
        "shardwright plan llama-3.1-70b --cluster h100-sxm:64 --seq-len 8k --global-batch 512 --out plan.json",
        "shardwright plan qwen3-8b --cluster rtx-4090:1 --seq-len 4k --global-batch 16 --trainable lora",
        "shardwright plan gpt2-355m --cluster a100-sxm-40gb:64@ethernet-10g --seq-len 512 --global-batch 256 --allow-approximate 1-bit-adam",
        "shardwright plan llama-3.2-1b --cluster h100-sxm:8 --phases phases.toml --out phases.json",
        "shardwright plan deepseek-v3 --cluster h800-sxm:2048 --seq-len 4k --global-batch 15360 --stack megatron-core",
    ),
    "explain": (
        "shardwright explain plan.json --report plan.html",
        "shardwright explain phases.json",
        "shardwright explain phases.json:2",
    ),
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
    "ask longest-sequence": (
        "shardwright ask longest-sequence llama-3.1-8b --cluster h100-sxm:16 --global-batch-tokens 4M",
    ),
    "ask largest-batch": (
        "shardwright ask largest-batch llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128",
    ),
    "ask largest-model": (
        "shardwright ask largest-model llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128 --by depth",
    ),
    "ask fewest-gpus": (
        "shardwright ask fewest-gpus llama-3.1-8b --cluster h100-sxm:256 --seq-len 8k --global-batch 512 --tokens 1T --deadline 30d",
    ),
    "ask cost": (
        "shardwright ask cost llama-3.1-8b --cluster h100-sxm:64 --seq-len 8k --global-batch 512 --tokens 1T --price 2.5",
    ),
    "ask shape": ("shardwright ask shape llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128",),
    "ask packing": (
        "shardwright ask packing llama-3.1-8b --cluster h100-sxm:16 --seq-len 8k --global-batch 128 --lengths uniform:512..8k",
    ),
    "profile": (
        "shardwright profile --budget 60",
        "shardwright profile --model llama-3.2-1b --seq-len 2k --out here.json",
    ),
    "profile show": ("shardwright profile show here.json --report here.html",),
    "profile diff": ("shardwright profile diff here.json there.json",),
}


def epilog(name: str) -> str | None:
    """Return the lines below the options of a command, named by its words; None where there are no examples."""
    if name not in EXAMPLES:
        return None
    return "\n".join(("\b", f"Example{'s' * (len(EXAMPLES[name]) > 1)}:", *(f"  {line}" for line in EXAMPLES[name])))
