"""What the published encoder-decoder families share: reading and writing their configurations and weight names.

Each family (T5, BART, Marian) is a file of its own beside this one; decoders are in `families.base`, encoders in
`families.encoders`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zhixing.core.errors import BadInput
from zhixing.families.base import ConfigReader, Names, Weights
from zhixing.models.transformer_seq2seq import TransformerSeq2SeqConfig

Pairs = list[tuple[str, str]]

FLAT = "decoder.head_bias"
"""Our one vector that the published layouts keep as a row."""


@dataclass(frozen=True)
class Seq2SeqFamily:
    """One published encoder-decoder architecture.

    Attributes:
        name: Its `model_type`.
        architecture: The class name that `transformers` loads it with.
        trunk: The class name of the same network without its head, whose names have no prefix.
        examples: Published models.
        read_config: Translates config.json to our configuration.
        write_config: Translates back; raises BadInput for what the architecture cannot express.
        names: Weight names of a configuration, ours and theirs; of several for one of ours the first is written.
        begin: Sources begin with the tokenizer's begin token.
        end: Sources end with its end token.
        ignored: Published names that carry no information (fixed tables), as a regular expression.
        prefix: What the names begin with, and do not in some published files.
    """

    name: str
    architecture: str
    trunk: str
    examples: str
    read_config: Callable[[ConfigReader], TransformerSeq2SeqConfig]
    write_config: Callable[[TransformerSeq2SeqConfig], dict[str, Any]]
    names: Callable[[TransformerSeq2SeqConfig], Pairs]
    begin: bool = False
    end: bool = True
    ignored: str = r"(?!)"
    prefix: str = ""

    def config_from(self, values: Mapping[str, Any], where: str) -> TransformerSeq2SeqConfig:
        """Reads a published configuration, refusing every field that is not understood."""
        named = values.get("architectures")
        for name in named if isinstance(named, list) else []:
            if name not in (self.architecture, self.trunk):
                raise BadInput(
                    f"the architecture {name!r} is not supported; of the family {self.name!r}, {self.architecture} is",
                    where=where,
                    remedy="choose a release of the model that writes text",
                )
        reader = ConfigReader(values, where)
        try:
            config = self.read_config(reader)
        except BadInput as error:  # sizes that contradict one another are found where no file is known
            raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
        reader.finish()
        return config

    def config_to(self, config: TransformerSeq2SeqConfig) -> dict[str, Any]:
        """Writes the published configuration, refusing what the architecture cannot express.

        Every field is checked by reading the result again: what comes out otherwise was not expressed.
        """
        written = {
            "architectures": [self.architecture], "model_type": self.name, "is_encoder_decoder": True,
            "decoder_start_token_id": config.start, **self.write_config(config),
        }  # fmt: skip
        again = self.config_from(written, f"the family {self.name!r}")
        for side in ("encoder", "decoder"):
            ours, theirs = getattr(config, side), getattr(again, side)
            for field in type(ours).__dataclass_fields__:
                wanted, got = getattr(ours, field), getattr(theirs, field)
                if wanted != got and field not in ("init_std", "zero_init_outputs", "attention_dropout"):
                    raise BadInput(
                        f"the family {self.name!r} needs the {side}'s {field} = {got!r}, got {wanted!r}",
                        remedy="change the field, or choose another model.family",
                    )
        if again.shared != config.shared:
            raise BadInput(f"the family {self.name!r} needs shared = {again.shared}, got {config.shared}")
        return written

    def weights_from(self, published: Weights, config: TransformerSeq2SeqConfig, where: str) -> Weights:
        """Translates published tensors to our names.

        Raises:
            BadInput: A tensor has no place in this architecture, or two copies of a shared table differ.
        """
        table, ignored = Names(self.names(config)), re.compile(self.ignored)
        ours: Weights = {}
        for full_name, tensor in published.items():
            name = full_name.removeprefix(self.prefix)
            if ignored.fullmatch(name):
                continue
            found = table.to_ours(name)
            if found is None:
                raise BadInput(f"the tensor {full_name!r} has no place in the family {self.name!r}", where=where)
            value = tensor.reshape(-1) if found == FLAT else tensor
            if found in ours and not (ours[found].is_meta or torch.equal(ours[found], value)):
                raise BadInput(
                    f"the tensor {full_name!r} differs from another one that it should share its values with",
                    where=where,
                    remedy="config.json says that both are tied; mend it, or the file",
                )
            ours[found] = value
        return ours

    def weights_to(self, ours: Weights, config: TransformerSeq2SeqConfig) -> Weights:
        """Translates our tensors to published names."""
        table = Names(self.names(config))
        theirs: Weights = {}
        for name, tensor in ours.items():
            found = table.to_theirs(name)
            if found is None:
                raise BadInput(f"the family {self.name!r} has no place for our tensor {name!r}")
            bare = name == FLAT or found.startswith("lm_head.")
            theirs[found if bare else self.prefix + found] = tensor[None] if name == FLAT else tensor
        return theirs


def tables(config: TransformerSeq2SeqConfig, shared: str = "shared.weight") -> Pairs:
    """Returns the names of the token embeddings and of the head, with those under which they are found again."""
    encoder, decoder = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    source = [("encoder.embedding.weight", name) for name in ([shared] if config.shared else []) + [encoder]]
    target = "encoder.embedding.weight" if config.shared else "decoder.embedding.weight"
    pairs = [*source, (target, decoder)]
    pairs.append((target if config.decoder.tied else "decoder.head.weight", "lm_head.weight"))
    return pairs


def layers(side: str, parts: Mapping[str, str], theirs: str) -> Pairs:
    """Returns the names inside the layers of one side.

    Args:
        side: "encoder" or "decoder".
        parts: Our part to theirs.
        theirs: The prefix of their layers, with `{i}`.
    """
    return [
        (f"{side}.blocks.{{i}}.{ours}.{kind}", f"{theirs}.{part}.{kind}")
        for ours, part in parts.items()
        for kind in ("weight", "bias")
    ]
