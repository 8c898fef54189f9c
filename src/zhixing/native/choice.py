"""Which path a model takes on this machine: the C++ core or PyTorch, and the sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from zhixing.core.errors import BadInput, MissingResource, unknown_name
from zhixing.native import library
from zhixing.native.decoder import NativeDecoder
from zhixing.native.packing import QUANTISERS
from zhixing.native.runtime import HEADS, KV_CACHES

if TYPE_CHECKING:
    from zhixing.models.encoder_decoder import EncoderDecoder
    from zhixing.models.network import CausalNetwork
    from zhixing.native.network import NativeNetwork
    from zhixing.native.seq2seq import NativeEncoderDecoder

Engine = Literal["auto", "native", "torch"]
ENGINES = ("auto", "native", "torch")


class Choice(NamedTuple):
    """A path.

    Attributes:
        decoder: The network on the core, or None when PyTorch computes.
        note: A sentence that says which, and why.
    """

    decoder: NativeDecoder | None
    note: str

    @property
    def network(self) -> NativeNetwork | None:
        """The same with the interface of every causal network."""
        from zhixing.native.network import NativeNetwork

        return None if self.decoder is None else NativeNetwork(self.decoder)


class Seq2SeqChoice(NamedTuple):
    """A path for an encoder-decoder.

    Attributes:
        network: The network on the core, or None when PyTorch computes.
        note: A sentence that says which, and why.
    """

    network: NativeEncoderDecoder | None
    note: str


def check_engine(engine: str, quantize: str | None, kv_cache: str | None = None, head: str | None = None) -> None:
    """Refuses names that are not known, and options of the core that PyTorch would have to follow.

    Raises:
        BadInput: Naming the value.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if quantize is not None and quantize not in QUANTISERS:
        raise unknown_name("quantisation", quantize, QUANTISERS)
    if quantize is not None and engine == "torch":
        raise BadInput(
            f"quantisation ({quantize}) is for the native engine", remedy="leave out one of --quantize, --engine torch"
        )
    if kv_cache is not None and kv_cache not in KV_CACHES:
        raise unknown_name("format of the key-value cache", kv_cache, KV_CACHES)
    if kv_cache is not None and engine == "torch":
        raise BadInput(
            f"a key-value cache in {kv_cache} is for the native engine",
            remedy="leave out one of --kv-cache, --engine torch",
        )
    if head is not None and head not in HEADS:
        raise unknown_name("way to the head", head, HEADS)
    if head is not None and engine == "torch":
        raise BadInput("--head is for the native engine", remedy="leave out one of --head, --engine torch")


def core_note(decoder: NativeDecoder) -> str:
    """Returns the sentence that says that the core computes."""
    return f"computed by the native core: {decoder.describe()}"


def choose(
    model: CausalNetwork,
    engine: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
    head: str | None = None,
) -> Choice:
    """Puts a network on the C++ core where that can be done.

    Args:
        model: The network, with its weights.
        engine: "auto" falls back to PyTorch and says why; "native" refuses to; "torch" does not try.
        quantize: "q8" or "q4": quantise what is not quantised yet.
        kv_cache: "f16", "q8" or "f32": how the core keeps keys and values; None: see `native.runtime.Runtime`.
        head: "q4": find greedy tokens by way of a head in 4 bits; see csrc/refine.cpp.

    Raises:
        BadInput: The network cannot run on the core, and was asked to.
        MissingResource: The core is not there, and was asked for.
    """
    from zhixing.models.transformer import Transformer
    from zhixing.native.network import pack_decoder, why_not
    from zhixing.native.plan import Unsupported

    check_engine(engine, quantize, kv_cache, head)
    if engine == "torch":
        _help_pytorch()
        return Choice(None, "computed by PyTorch, as asked")
    reason = why_not(model)
    if reason is None:
        assert isinstance(model, Transformer)
        try:
            decoder = pack_decoder(model, quantize, kv_cache, head)
            return Choice(decoder, core_note(decoder))
        except Unsupported as error:
            reason = str(error)
    note = _fallback(reason, engine, quantize or kv_cache or head)
    _help_pytorch()
    return Choice(None, note)


def choose_seq2seq(
    model: EncoderDecoder, engine: str = "auto", quantize: str | None = None, kv_cache: str | None = None
) -> Seq2SeqChoice:
    """Puts an encoder-decoder on the C++ core where that can be done; see `choose`."""
    from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder
    from zhixing.native import seq2seq
    from zhixing.native.plan import Unsupported
    from zhixing.native.seq2seq import NativeEncoderDecoder

    check_engine(engine, quantize, kv_cache)
    if engine == "torch":
        _help_pytorch()
        return Seq2SeqChoice(None, "computed by PyTorch, as asked")
    reason = seq2seq.why_not(model)
    if reason is None:
        assert isinstance(model, TransformerEncoderDecoder)
        try:
            network = NativeEncoderDecoder(model, quantize, kv_cache)
            return Seq2SeqChoice(network, f"computed by the native core: {network.describe()}")
        except Unsupported as error:
            reason = str(error)
    note = _fallback(reason, engine, quantize or kv_cache)
    _help_pytorch()
    return Seq2SeqChoice(None, note)


def _help_pytorch() -> None:
    """Gives what PyTorch computes at least the core's passes over rows, where it is there."""
    from zhixing.native.row_kernels import use_row_kernels  # a start on the core alone imports no PyTorch

    use_row_kernels()


def _fallback(reason: str, engine: str, option: str | None) -> str:
    """Returns the sentence that says why PyTorch computes; raises when the core, or an option of it, was asked for."""
    if engine == "auto" and option is None:
        return f"computed by PyTorch: {reason}"
    if (missing := library.absence()) is not None:
        raise MissingResource(missing, remedy=library.REMEDY)
    raise BadInput(f"the native engine cannot run this model: {reason}", remedy="use --engine torch, or auto")
