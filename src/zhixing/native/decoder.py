"""A decoder-only network on the C++ core, as the engine runs it: no PyTorch is imported for it.

`native.network` gives it the interface of every other causal network, for what compares or rereads texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhixing.core.progress import human_bytes
from zhixing.native import library
from zhixing.native.runtime import PAGE, Runtime

if TYPE_CHECKING:
    from zhixing.models.network import NetworkConfig


class NativeDecoder:
    """A decoder that is packed.

    Args:
        config: Its sizes.
        runtime: What computes it.
    """

    def __init__(self, config: NetworkConfig, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime

    def describe(self) -> str:
        """Returns what it computes with, in a few words."""
        kinds = "+".join(sorted(kind.label for kind in self.runtime.program.kinds))
        size = human_bytes(self.runtime.weight_bytes)
        kept = f"{self.runtime.kv_cache} cache, {human_bytes(self.runtime.page_bytes / PAGE)} a token"
        head = ", greedy tokens by way of a head in 4 bits" if self.runtime.program.spared else ""
        return f"{library.kernels()} kernels, {library.threads()} threads, {size} of weights ({kinds}), {kept}{head}"


def decoder_of(network: object) -> NativeDecoder | None:
    """Returns the decoder on the core that a network is, or stands for; None when PyTorch computes it."""
    found = network if isinstance(network, NativeDecoder) else getattr(network, "decoder", None)
    return found if isinstance(found, NativeDecoder) else None
