"""What a family is, and what its file is written with: a strict configuration reader and a table of weight names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.models.config import Activation, TransformerConfig

Weights = dict[str, Tensor]
T = TypeVar("T")

MOST_LAYERS = 1000
"""Far above every published model: more would only keep the machine busy until the weights are found not to fit."""

HARMLESS = frozenset(
    """architectures model_type torch_dtype dtype transformers_version use_cache bos_token_id eos_token_id pad_token_id
    sep_token_id decoder_start_token_id initializer_range _name_or_path name_or_path _commit_hash auto_map id2label
    label2id num_labels _num_labels problem_type task_specific_params tokenizer_class return_dict output_attentions
    output_hidden_states is_encoder_decoder is_decoder chunk_size_feed_forward gradient_checkpointing pretraining_tp
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout classifier_dropout
    torchscript finetuning_task prefix attn_implementation _attn_implementation _attn_implementation_autoset
    keys_to_ignore_at_inference cache_implementation transformers.js_config is_llama_config max_sequence_length
    unsloth_version unsloth_fixed
    temperature top_k top_p typical_p do_sample num_beams num_beam_groups num_return_sequences max_length min_length
    max_new_tokens length_penalty repetition_penalty diversity_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids suppress_tokens begin_suppress_tokens forced_bos_token_id
    forced_eos_token_id exponential_decay_length_penalty early_stopping output_scores return_dict_in_generate
    remove_invalid_values""".split()
)
"""Fields of a published config.json that do not change the logits of a decoder: bookkeeping, and what old versions of
the library kept there about generation."""

OF_FEW = frozenset({"cross_width", "head_bias", "logit_scale", "position_offset"})
"""Fields of our configuration that few decoders have; a family names those that it can express."""

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "relu": "relu", "relu2": "relu2",
}  # fmt: skip
"""Published names of the non-linearities."""


class ConfigReader:
    """Reads a published config.json so that no field is overlooked: what nobody asked for is refused by name.

    Args:
        values: The parsed file.
        where: Its path, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where
        self._read: set[str] = set()

    def take(self, key: str, default: T | None = None, *, required: bool = False) -> Any:
        """Returns a field, or the default where it is absent or null.

        Raises:
            BadInput: It is required and absent.
        """
        self._read.add(key)
        value = self.values.get(key)
        if value is None:
            if required:
                raise BadInput(f"the field {key!r} is missing", where=self.where)
            return default
        return value

    def size(self, key: str, default: int | None = None, most: int = 1 << 30) -> int:
        """Returns a positive whole number, required when there is no default."""
        value = self.take(key, default, required=default is None)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise BadInput(
                f"the field {key!r} must be a whole number from 1 to {most}, got {value!r}", where=self.where
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise BadInput(f"the field {key!r} must be true or false, got {value!r}", where=self.where)
        return value

    def optional_size(self, key: str, absent: int | None) -> int | None:
        """Returns a positive whole number, None for an explicit null, `absent` where there is no such field."""
        self._read.add(key)
        return None if self.values.get(key, absent) is None else self.size(key, absent)

    def number(self, key: str, default: float) -> float:
        """Returns a number."""
        return self.as_number(key, self.take(key, default))

    def optional_number(self, key: str, absent: float | None) -> float | None:
        """Returns a number, None for an explicit null, `absent` where there is no such field."""
        value = self.values.get(key, absent)
        self._read.add(key)
        return None if value is None else self.as_number(key, value)

    def as_number(self, key: str, value: Any) -> float:
        """Returns a value as a number, refusing what is none under the name of its field."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"the field {key!r} must be a number, got {value!r}", where=self.where)
        return float(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Returns a mapping, empty where it is absent or null."""
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise BadInput(f"the field {key!r} must be a mapping, got {value!r}", where=self.where)
        return value

    def expect(self, key: str, *allowed: Any) -> None:
        """Refuses a value that this program would not compute; absent and null count as the first allowed value."""
        value = self.take(key, allowed[0])
        if value not in allowed:
            raise BadInput(
                f"the field {key!r} is {value!r}, which is not supported here (only {', '.join(map(repr, allowed))})",
                where=self.where,
            )

    def activation(self, key: str, default: str) -> Activation:
        """Returns a non-linearity by its published name."""
        name = self.take(key, default)
        if not isinstance(name, str) or name not in ACTIVATIONS:
            self.refuse(key, f"is not supported here (only {', '.join(ACTIVATIONS)})")
        return ACTIVATIONS[name]

    def refuse(self, key: str, why: str) -> NoReturn:
        """Refuses the value of a field.

        Raises:
            BadInput: Always.
        """
        raise BadInput(f"the field {key!r} is {self.values.get(key)!r}, which {why}", where=self.where)

    def finish(self) -> None:
        """Refuses fields that nobody asked for and that are not known to be harmless."""
        unknown = sorted(
            key for key, value in self.values.items()
            if key not in self._read and key not in HARMLESS
            and value is not None and value is not False and value not in ("", [], {})
        )  # fmt: skip
        if unknown:
            raise BadInput(
                f"unknown configuration field {unknown[0]!r} = {self.values[unknown[0]]!r}",
                where=self.where,
                remedy="it may change the result, so the model is refused rather than run wrongly"
                + (f"; also unknown: {', '.join(unknown[1:])}" if unknown[1:] else ""),
            )


class Names:
    """A two-way table of weight names; `{i}` stands for the layer's number.

    Args:
        pairs: (our name, their name).
    """

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._theirs = [(self._pattern(theirs), ours) for ours, theirs in pairs]
        self._ours = [(self._pattern(ours), theirs) for ours, theirs in pairs]

    @staticmethod
    def _pattern(name: str) -> re.Pattern[str]:
        return re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)") + r"\Z")

    @staticmethod
    def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
        for pattern, target in table:
            if match := pattern.match(name):
                return target.replace("{i}", match[1]) if match.groups() else target
        return None

    def to_ours(self, name: str) -> str | None:
        """Translates a published name, or returns None when it is not in the table."""
        return self._translate(name, self._theirs)

    def to_theirs(self, name: str) -> str | None:
        """Translates one of our names, or returns None when it is not in the table."""
        return self._translate(name, self._ours)


def activation_name(activation: Activation) -> str:
    """Returns the published name of a non-linearity, the most common where there are several."""
    return next(name for name, ours in ACTIVATIONS.items() if ours == activation)


def split_rows(weights: Weights, fused: str, parts: Mapping[str, int]) -> Weights:
    """Cuts fused tensors into consecutive rows.

    Args:
        weights: Published tensors.
        fused: The part of a name that marks a fused tensor, such as `qkv_proj`.
        parts: What stands there for each piece, and its number of rows.

    Returns:
        The tensors, each fused one replaced by its pieces. One with another number of rows stays as it is; it has no
        place in the family's table of names and is refused there.
    """
    result: Weights = {}
    for name, tensor in weights.items():
        if f".{fused}." in name and tensor.dim() and tensor.shape[0] == sum(parts.values()):
            pieces = torch.split(tensor, list(parts.values()))
            result.update({name.replace(fused, part): piece for part, piece in zip(parts, pieces, strict=True)})
        else:
            result[name] = tensor
    return result


def join_rows(weights: Weights, fused: str, parts: Sequence[str]) -> Weights:
    """Undoes `split_rows`."""
    result: Weights = {}
    for name, tensor in weights.items():
        if f".{parts[0]}." in name:
            pieces = [weights[name.replace(parts[0], part)] for part in parts]
            result[name.replace(parts[0], fused)] = torch.cat(pieces)
        elif not any(f".{part}." in name for part in parts):
            result[name] = tensor
    return result


def _unchanged(weights: Weights, config: TransformerConfig) -> Weights:
    return weights


@dataclass(frozen=True)
class Family:
    """One published architecture.

    Attributes:
        name: Its `model_type` in config.json.
        architecture: The class name that `transformers` loads it with.
        examples: Published models of this family.
        read_config: Translates config.json to our configuration; raises BadInput for what is not supported.
        write_config: Translates back; raises BadInput for a configuration that the architecture cannot express.
        names: Weight names, ours and theirs.
        fixed: Fields of our configuration that this architecture fixes.
        defaults: Fields that it leaves open, with the values that a new model starts from.
        optional: Those of `OF_FEW` that it can express.
        split: Turns published tensors into ones that the table names (where theirs are fused or transposed). Works on
            whole rows wherever that is possible, so that tensors whose rows are quantised can go through it as bytes.
        fuse: The inverse of `split`.
        prefix: What the names begin with, and do not in some published files.
        ignored: Published names that carry no information of ours (buffers), as a regular expression.
    """

    name: str
    architecture: str
    examples: str
    read_config: Callable[[ConfigReader], TransformerConfig]
    write_config: Callable[[TransformerConfig], dict[str, Any]]
    names: Names
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    split: Callable[[Weights, TransformerConfig], Weights] = _unchanged
    fuse: Callable[[Weights, TransformerConfig], Weights] = _unchanged
    prefix: str = "model."
    ignored: str = r".*\.rotary_emb\.inv_freq"

    @property
    def start(self) -> dict[str, Any]:
        """The fields that a new model of this family starts from, besides its sizes."""
        return {**self.defaults, **self.fixed}

    def config_from(self, values: Mapping[str, Any], where: str) -> TransformerConfig:
        """Reads a published configuration, refusing every field that is not understood."""
        self._check_architecture(values.get("architectures"), where)
        if values.get("quantization_config"):
            raise BadInput(
                "these weights are quantised in a format that is not supported",
                where=where,
                remedy="choose the release in float16 or bfloat16, or a GGUF file of the model",
            )
        reader = ConfigReader(values, where)
        try:
            config = self.read_config(reader)
        except BadInput as error:  # sizes that contradict one another are found where no file is known
            raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
        reader.finish()
        return config

    def _check_architecture(self, named: Any, where: str) -> None:
        """Refuses a network of this family with another purpose, such as a classifier."""
        base = self.architecture.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
        known = {name.lower() for name in (self.architecture, f"{base}Model", f"{base}TextModel")}
        for name in named if isinstance(named, list) else []:
            if str(name).lower() not in known:
                raise BadInput(
                    f"the architecture {name!r} is not supported; of the family {self.name!r}, {self.architecture} is",
                    where=where,
                    remedy="choose a release of the model that writes text",
                )

    def config_to(self, config: TransformerConfig) -> dict[str, Any]:
        """Writes the published configuration, refusing what the architecture cannot express."""
        for key, value in self.fixed.items():
            if getattr(config, key) != value:
                raise BadInput(
                    f"the family {self.name!r} needs model.{key} = {value!r}, got {getattr(config, key)!r}",
                    remedy="change the field, or choose another model.family",
                )
        for key in OF_FEW - self.optional:
            if getattr(config, key) not in (None, False, 0):
                raise BadInput(f"the family {self.name!r} cannot have model.{key} = {getattr(config, key)!r}")
        return {"architectures": [self.architecture], "model_type": self.name, **self.write_config(config)}

    def weights_from(self, published: Weights, config: TransformerConfig, where: str) -> Weights:
        """Translates published tensors to our names.

        Args:
            published: The tensors under their published names.
            config: The network that they belong to, from which the sizes of fused parts follow.
            where: Where they stand, for messages.

        Raises:
            BadInput: A tensor has no place in this architecture.
        """
        ours: Weights = {}
        ignored = re.compile(self.ignored)
        for name, tensor in self.split(self.complete(published), config).items():
            if ignored.fullmatch(name):
                continue
            translated = self.names.to_ours(name)
            if translated is None:
                raise BadInput(f"the tensor {name!r} has no place in the family {self.name!r}", where=where)
            ours[translated] = tensor
        return ours

    def complete(self, published: Weights) -> Weights:
        """Adds the leading part of the names where the file was saved without the output head's class around it.

        The order stays. What is complete stays as it is, also when it is only a part of all tensors.
        """
        if not self.prefix or any(name.startswith(self.prefix) for name in published):
            return published
        heads = ("lm_head.", "embed_out.")
        return {name if name.startswith(heads) else self.prefix + name: tensor for name, tensor in published.items()}

    def weights_to(self, ours: Weights, config: TransformerConfig) -> Weights:
        """Translates our tensors to published names."""
        theirs: Weights = {}
        for name, tensor in ours.items():
            translated = self.names.to_theirs(name)
            if translated is None:
                raise BadInput(f"the family {self.name!r} has no place for our tensor {name!r}")
            theirs[translated] = tensor
        return self.fuse(theirs, config)
