"""Small GGUF files for the tests: written by the `gguf` package, or byte by byte where they have to lie."""

import struct

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

KINDS = {
    int: (4, "<I"), float: (6, "<f"), bool: (7, "<?"),
}  # fmt: skip


def byte_spelling():
    """GPT-2's printable spelling of the 256 bytes, by byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + index) for index, byte in enumerate(moved)}


def text(value):
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def value_bytes(value):
    """A metadata value with its type in front."""
    if isinstance(value, bytes):  # as it stands: type and all
        return value
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        kind, form = (5, "<i") if not value or isinstance(value[0], int) else (6, "<f")
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(struct.pack(form, item) for item in value)
    kind, form = KINDS[type(value)]
    return struct.pack("<I", kind) + struct.pack(form, value)


def tensor_entry(name, shape, kind, offset, dimensions=None):
    count = len(shape) if dimensions is None else dimensions
    sizes = b"".join(struct.pack("<Q", size) for size in reversed(shape))
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


def raw_file(metadata, tensors=(), *, magic=b"GGUF", version=3, entries=None, count=None, align=32):
    """A file whose every part can be wrong.

    metadata: (key, value) pairs. tensors: (name, array or (shape, kind, content)) pairs; entries: the tensors' own
    descriptions, where they shall not fit.
    """
    head = b"".join(text(key) + value_bytes(value) for key, value in metadata)
    described, blob = [], b""
    for name, tensor in tensors:
        shape, kind, content = (
            (tensor.shape, 0, tensor.astype("<f4").tobytes()) if isinstance(tensor, np.ndarray) else tensor
        )
        described.append(tensor_entry(name, shape, kind, len(blob)))
        blob += content + b"\0" * (-len(content) % align)
    listed = entries if entries is not None else described
    head += b"".join(listed)
    counts = (len(listed) if count is None else count[0], len(metadata) if count is None else count[1])
    whole = magic + struct.pack("<IQQ", version, *counts) + head
    return whole + b"\0" * (-len(whole) % align) + blob


def tiny_tokens():
    """A byte-level vocabulary with two merges and two control tokens behind it."""
    spelling = byte_spelling()
    tokens = [spelling[byte] for byte in range(256)] + ["he", "ll", "<|endoftext|>", "<|im_end|>"]
    return tokens, ["h e", "l l"], [1] * 258 + [3, 3]


def llama_metadata(tokens=260, **changes):
    """The metadata of a tiny Llama with `tiny_tokens` as its vocabulary."""
    names, merges, types = tiny_tokens()
    values = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": names[:tokens],
        "tokenizer.ggml.token_type": types[:tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 258,
    }
    values.update({key.replace("__", "."): value for key, value in changes.items()})
    return {key: value for key, value in values.items() if value is not None}


def llama_tensors(seed=0, vocabulary=260, width=32, hidden=64, layers=2, kv=16):
    """The tensors of the same, under GGUF's names."""
    random = np.random.default_rng(seed)

    def draw(*shape):
        return (random.normal(size=shape) * 0.1).astype(np.float32)

    tensors = {"token_embd.weight": draw(vocabulary, width), "output_norm.weight": 1 + draw(width)}
    for layer in range(layers):
        shapes = {
            "attn_norm": (width,), "attn_q": (width, width), "attn_k": (kv, width), "attn_v": (kv, width),
            "attn_output": (width, width), "ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }  # fmt: skip
        tensors |= {f"blk.{layer}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
    return tensors


def write(path, metadata, tensors, kinds=None):
    """Writes a file with the `gguf` package; kinds: tensor name -> name of its number format (F32 unless given)."""
    writer = GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        add = {
            bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
            list: writer.add_array,
        }[type(value)]  # fmt: skip
        add(key, value)
    for name, array in tensors.items():
        kind = GGMLQuantizationType[(kinds or {}).get(name, "F32")]
        if kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
