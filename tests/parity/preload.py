"""What the forkserver loads once, so that a rank starts in a moment."""

import gc
import os
from contextlib import suppress
from importlib import import_module

# else each rank that compiles starts a process that loads torch again, to compile in
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

for _name in (
    "torch._dynamo.backends.debugging",
    "torch._dynamo.backends.inductor",
    "torch._dynamo.repro.after_aot",
    "torch._inductor.compile_fx",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.experimental",
    "torch.distributed.tensor.parallel",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mixtral.modeling_mixtral",
    "transformers.models.qwen3.modeling_qwen3",
    "tests.executor.runs",
    "tests.parity.putting_back",
    "tests.parity.updates",
):
    import_module(_name)
for _name in ("pytorch_optimizer", "peft"):
    with suppress(ImportError):  # an extra
        import_module(_name)

gc.collect()
gc.freeze()  # a rank's collections pass over what it shares with the server, and copy none of its pages
