"""Good inputs of the commands that plan, and those that read what was measured."""

import contextlib
import json
from pathlib import Path
from typing import Any

from .kinds import Input
from .outcomes import run

_JOB = ("--cluster", "h100-sxm:8", "--seq-len", "2048", "--global-batch", "16")
_CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
}
_CLUSTER = """name = "ours"
oversubscription = 2.0
device = { like = "h100-sxm", memory_bytes = 84e9 }
nodes = 2
nic = { like = "roce-200g", bytes_per_s = 25e9 }
nics_per_node = 4
intra_node = { like = "nvlink-4", latency_seconds = 5e-6 }
host = { memory_bytes = 1e12 }
"""
_TABLE = """id,source,framework,model,layers,hidden,heads,kv_heads,ffn_hidden,vocab,seq_len,gpu,gpus,precision,tp,pp,dp,micro_batch,global_batch,recompute,\
zero_or_fsdp,metric_name,metric_value,metric_unit,peak_mem_gb,year,provenance,params_b,notes
a,ours,Megatron-LM,Llama-2-7B,32,4096,32,32,11008,32000,4096,A100-SXM-80GB,8,bf16,2,1,4,1,64,none,zero1,step_time_s,12.5,s,60,2024,read,6.7,
b,ours,torchtitan,Llama-3.1-8B,32,4096,32,8,14336,128256,8192,H100-SXM-80GB,16,bf16,2,2,4,1,128,full,fsdp-full,tokens_per_s_per_gpu,5000,tokens/s/GPU,55,2025,read,8,x
"""
OPTIONS = (
    "--seq-len", "--global-batch", "--micro-batch", "--tp", "--pp", "--cp", "--ep", "--fix", "--forbid", "--stack", "--cluster",
    "--precision", "--schedule", "--recompute", "--memory-reserve", "--loss-chunks", "--order", "--trainable", "--lengths", "--linear-precision",
    "--offload-optimizer", "--attention", "--zero-stage", "--time-limit", "--optimizer", "--avoid",
)  # fmt: skip
INPUTS = (
    Input("plan.json", (("explain", "{}"), ("explain", "{}", "--json"), ("simulate", "{}"), ("simulate", "{}", "--trace", "trace.json", "--force"),
                        ("compare", "llama-3.2-1b", *_JOB, "--plan", "{}"), ("explain", "{}", "--report", "page.html", "--force"))),
    Input("offload.json", (("explain", "{}"), ("explain", "{}", "--json"), ("simulate", "{}", "--trace", "trace.json", "--force"))),
    Input("config.json", (("plan", "{}", *_JOB), ("plan", "{}", *_JOB, "--json"), ("compare", "{}", *_JOB))),
    Input("cluster.toml", (("plan", "llama-3.2-1b", "--cluster", "{}", *_JOB[2:]), ("plan", "llama-3.2-1b", "--cluster", "{}", *_JOB[2:], "--json"))),
    Input("profile.json", (("profile", "show", "{}"), ("profile", "show", "{}", "--json"), ("profile", "show", "{}", "--report", "page.html", "--force"),
                           ("profile", "diff", "{}", "profile.json"), ("plan", "llama-3.2-1b", *_JOB, "--profile", "{}"))),
    Input("measurement.json", (("explain", "plan.json", "--measurement", "{}"), ("explain", "plan.json", "--measurement", "{}", "--json"),
                               ("explain", "plan.json", "--measurement", "{}", "--report", "page.html", "--force"))),
    Input("table.csv", (("validate", "{}"), ("validate", "{}", "--json"), ("validate", "{}", "--report", "page.html", "--force"))),
    Input("options", (("plan", "llama-3.2-1b", *_JOB), ("plan", "llama-3.2-1b", *_JOB, "--json"), ("compare", "llama-3.2-1b", *_JOB),
                      ("ask", "cost", "llama-3.2-1b", *_JOB, "--tokens", "1T"))),
)  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Write the good inputs into `folder`."""
    with contextlib.chdir(folder):
        for name, options in (
            ("plan.json", ("--pp", "2")),
            ("offload.json", ("--offload-optimizer", "0.5", "--tp", "2")),
        ):
            outcome = run(("plan", "llama-3.2-1b", *_JOB, *options, "--out", name))
            if outcome.code:
                raise SystemExit(f"{name}: {outcome.stderr}{outcome.error or ''}")
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "cluster.toml").write_text(_CLUSTER)
    (folder / "table.csv").write_text(_TABLE)
    (folder / "profile.json").write_text(json.dumps(_profile()))
    (folder / "measurement.json").write_text(json.dumps(_measurement()))


def _profile() -> dict[str, Any]:
    point = {"seconds": 1e-3, "low_seconds": 0.9e-3, "high_seconds": 1.2e-3, "repeats": 9}
    shapes = [(m, k, n) for m in (128, 512) for k in (128, 512) for n in (128, 512)]
    curve = {
        "form": "line",
        "parameters": {"start_seconds": 1e-6, "bytes_per_s": 1e10},
        "residual_median": 0.1,
        "residual_p90": 0.2,
    }
    return {
        "kind": "shardwright-profile",
        "schema_version": 1,
        "fingerprint": {
            "device": "h100-sxm", "kind": "gpu", "device_memory_bytes": 8e10, "torch": "2.13.0", "python": "3.11", "host": "here", "cores": 8,
            "threads": 8, "ranks": 1, "date": "2026-01-01T00:00:00+00:00",
        },
        "series": [
            {"operation": "matmul", "variant": "forward", "format": "bf16", "axes": ["m", "k", "n"], "points": [{"at": at, **point} for at in shapes]},
            {"operation": "copy", "axes": ["bytes"], "points": [{"at": [size], **point} for size in (1e3, 1e6, 1e9)], "curve": curve},
        ],
        "figures": {"launch_seconds": {"value": 5e-6, "unit": "s", "meaning": "one launch"}},
        "remarks": ["made up"],
    }  # fmt: skip


def _measurement() -> dict[str, Any]:
    step = {"loss": 2.0, "gradient_norm": 1.0, "learning_rate": 1e-4, "seconds": 1.0}
    return {
        "kind": "shardwright-measurement", "schema_version": 1, "ranks": 8, "warmup_steps": 1, "step_seconds": 1.0, "step_seconds_low": 0.9,
        "step_seconds_high": 1.1, "part_seconds": {"forward_backward": 0.8, "optimizer": 0.2}, "tokens_per_s": 3e4, "mfu": 0.4,
        "peak_memory_bytes": [1e10] * 8, "memory_kind": "allocated", "steps": [{"step": number, **step} for number in range(1, 4)],
        "fingerprint": {"device": "h100", "host": "here", "python": "3.11", "torch": "2.13.0", "date": "2026-01-01"},
    }  # fmt: skip
