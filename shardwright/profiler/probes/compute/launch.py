"""The time to start kernels, which is the lower bound of a layer: the host-bound floor."""

import statistics
from dataclasses import dataclass

import torch

from shardwright.profiler.timing import Machine, UnavailableError, Work, random_tensor
from shardwright.specs import Figure

_CHAIN = 64
_REPEATS = 30
_AHEAD = 4.0  # time the device is busy, over the time the host needs to queue the chain
# Side of a square matrix. On a GPU it is large enough that a few matmuls outlast the queueing. On a CPU it is small, so
# that little noise remains.
_BUSY_SIZES = {"cpu": 256}
_BUSY_SIZE = 2048


def _figure(samples: list[float], meaning: str) -> Figure:
    """Return the median and the quartiles around it."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return Figure(value=max(0.0, middle), unit="s", meaning=meaning, low=max(0.0, low), high=max(0.0, high))


@dataclass(frozen=True)
class LaunchProbe:
    """Seconds to start kernels.

    `host_seconds_per_kernel`: the host's time to start one. `launch_seconds`: the device's time from one tiny kernel to
    the next when both are queued.
    """

    name: str = "launch"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        x = torch.ones(8, device=machine.device)

        def chain() -> None:
            for _ in range(_CHAIN):
                x.add_(1.0)

        chain()
        host = [seconds / _CHAIN for seconds in machine.host_seconds(chain, _REPEATS)]
        queued = self._queued_seconds(machine, chain, _CHAIN * statistics.median(host))
        return {
            "host_seconds_per_kernel": _figure(host, "the host's time to start one kernel"),
            "launch_seconds": _figure(queued, "from one tiny kernel to the next, both queued, its own run included"),
        }

    def _queued_seconds(self, machine: Machine, chain: Work, host_seconds: float) -> list[float]:
        """Time the chain behind work that keeps the device busy until all of
        it is queued, less that work's own time."""
        size = _BUSY_SIZES.get(machine.device.type, _BUSY_SIZE)
        matrix = random_tensor((size, size), torch.float32, machine.device)
        once = statistics.median(machine.seconds(lambda: matrix @ matrix, 5))
        count = max(1, round(_AHEAD * host_seconds / max(once, 1e-9)))

        def busy() -> None:
            for _ in range(count):
                matrix @ matrix

        def both() -> None:
            busy()
            chain()

        alone = statistics.median(machine.seconds(busy, _REPEATS))
        return [(seconds - alone) / _CHAIN for seconds in machine.seconds(both, _REPEATS)]


@dataclass(frozen=True)
class DispatchProbe:
    """`dispatch_seconds`: one small operation under autograd, per direction."""

    name: str = "dispatch"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        x = torch.ones(8, device=machine.device, requires_grad=True)

        def chain() -> object:
            y = x
            for _ in range(_CHAIN):
                y = y * 1.0
            return torch.autograd.grad(y.sum(), x)

        chain()
        samples = [seconds / (2 * (_CHAIN + 1)) for seconds in machine.seconds(chain, _REPEATS)]
        return {"dispatch_seconds": _figure(samples, "one small operation under autograd, per direction")}


@dataclass(frozen=True)
class LayerOverheadProbe:
    """Seconds of a real Llama layer that is so small that only the start of its kernels counts.

    `layer_overhead_forward_seconds` and `layer_overhead_backward_seconds`.
    """

    name: str = "layer-overhead"
    hidden: int = 64
    tokens: int = 16

    def measure(self, machine: Machine) -> dict[str, Figure]:
        forward, backward = self._passes(machine.device)
        meaning = f"a Llama layer of hidden size {self.hidden} on {self.tokens} tokens"
        return {
            "layer_overhead_forward_seconds": _figure(machine.seconds(forward, _REPEATS), f"{meaning}, forward"),
            "layer_overhead_backward_seconds": _figure(machine.seconds(backward, _REPEATS), f"{meaning}, backward"),
        }

    def _passes(self, device: torch.device) -> tuple[Work, Work]:
        try:
            from transformers import LlamaConfig
            from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
        except ImportError as error:
            raise UnavailableError(f"a real layer needs transformers: {error}") from None
        config = LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_hidden_layers=1,
        )
        config._attn_implementation = "sdpa"
        with torch.device(device):
            layer, rotary = LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)
            x = torch.randn(1, self.tokens, self.hidden, requires_grad=True)
            positions = rotary(x, torch.arange(self.tokens)[None])
        leaves = [x, *layer.parameters()]

        def forward() -> torch.Tensor:
            out: torch.Tensor = layer(x, position_embeddings=positions)
            return out

        out = forward()
        gradient = torch.randn_like(out)
        return forward, lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True)
