"""From an encoder-decoder's modules to two plans: one reads sources, the other writes targets.

The reader is the encoder; behind it the keys and values that the decoder's layers look at are computed once and stored
in the reader's cache, behind a layer of its own. The writer is the decoder, whose `READ` operations find them there.
"""

from __future__ import annotations

from typing import cast

from zhixing.models.transformer import Block, Transformer
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder
from zhixing.native.encoder_plan import write_encoder
from zhixing.native.plan import Op, Plan, Slots, Unsupported, transformer_plan


def reader_plan(model: TransformerEncoderDecoder, slots: Slots) -> Plan:
    """Writes down what reads sources; its output, if any is asked for, is the encoder's vector of a token.

    Raises:
        Unsupported: It has a feature that plans do not know.
    """
    plan = Plan()
    width = model.config.encoder.width
    states, norm = write_encoder(plan, model.encoder, slots)
    plan.norm(norm, states, states)
    decoder = model.config.decoder
    narrow = decoder.kv_heads * decoder.head_dim
    both = plan.buffer(2 * narrow)
    for block in model.decoder.blocks:
        attention = cast(Block, block).cross_attention
        assert attention is not None
        key, value = attention.key, attention.value
        plan.linear(both, states, [(slots(key.weight), 0, key.bias), (slots(value.weight), narrow, value.bias)])
        plan.layers.append((decoder.kv_heads, decoder.head_dim))
        plan.add(Op.STORE, len(plan.layers) - 1, both, 0, both, narrow)
    plan.output = plan.buffer(width)
    plan.add(Op.GATHER, plan.output, states)
    return plan


def writer_plan(decoder: Transformer, reader: Plan, slots: Slots) -> Plan:
    """Writes down the decoder behind a reader's plan; its output is the logits of the next token.

    Raises:
        Unsupported: It has a feature that plans do not know.
    """
    if len(reader.layers) != len(decoder.blocks) + 1:
        raise Unsupported("a decoder that does not read in every layer")
    return transformer_plan(decoder, slots, range(1, len(reader.layers)))
