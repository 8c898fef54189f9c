"""What a family is, and what its file is written with: a strict configuration reader and a table of weight names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig

Weights = dict[str, Tensor]
T = TypeVar("T")

MOST_LAYERS = 1000
"""Far above every published model: more would only keep the machine busy until the weights are found not to fit."""

HARMLESS = frozenset(
    """architectures model_type torch_dtype dtype transformers_version use_cache bos_token_id eos_token_id pad_token_id
    sep_token_id decoder_start_token_id initializer_range _name_or_path name_or_path id2label label2id num_labels
    problem_type task_specific_params tokenizer_class return_dict output_attentions output_hidden_states
    is_encoder_decoder chunk_size_feed_forward gradient_checkpointing pretraining_tp summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout torchscript finetuning_task prefix
    attn_implementation _attn_implementation keys_to_ignore_at_inference cache_implementation""".split()
)
"""Fields of a published config.json that do not change the logits of a decoder."""


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

    def number(self, key: str, default: float) -> float:
        """Returns a number."""
        return self._number(key, self.take(key, default))

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"the field {key!r} must be a number, got {value!r}", where=self.where)
        return float(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Returns a mapping, empty where it is absent."""
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

    def rope_theta(self, default: float) -> float:
        """Returns the base of the rotary frequencies from either published layout, refusing scaled frequencies."""
        scaling, parameters = self.mapping("rope_scaling"), self.mapping("rope_parameters")
        theta = self.number("rope_theta", self._number("rope_parameters", parameters.get("rope_theta", default)))
        for source in (scaling, parameters):
            kind = source.get("rope_type", source.get("type", "default"))
            if kind != "default":
                raise BadInput(f"rope scaling of type {kind!r} is not supported", where=self.where)
        return theta

    def finish(self) -> None:
        """Refuses fields that nobody asked for and that are not known to be harmless."""
        unknown = sorted(
            key for key, value in self.values.items()
            if key not in self._read and key not in HARMLESS and value not in (None, False)
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


@dataclass(frozen=True)
class Family:
    """One published architecture.

    Attributes:
        name: Its `model_type` in config.json.
        architecture: The class name that `transformers` loads it with.
        read_config: Translates config.json to our configuration; raises BadInput for what is not supported.
        write_config: Translates back; raises BadInput for a configuration that the architecture cannot express.
        names: Weight names, ours and theirs.
        split: Turns published tensors into ones that the table names (where theirs are fused or transposed).
        fuse: The inverse of `split`.
        ignored: Published names that carry no information of ours (buffers), as a regular expression.
        fixed: Fields of our configuration that this architecture fixes; `model_for_depth` starts from them.
    """

    name: str
    architecture: str
    read_config: Callable[[ConfigReader], TransformerConfig]
    write_config: Callable[[TransformerConfig], dict[str, Any]]
    names: Names
    fixed: Mapping[str, Any]
    split: Callable[[Weights], Weights] = dict
    fuse: Callable[[Weights], Weights] = dict
    ignored: str = r"(?!)"

    def config_from(self, values: Mapping[str, Any], where: str) -> TransformerConfig:
        """Reads a published configuration, refusing every field that is not understood."""
        reader = ConfigReader(values, where)
        try:
            config = self.read_config(reader)
        except BadInput as error:  # sizes that contradict one another are found where no file is known
            raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
        reader.finish()
        return config

    def config_to(self, config: TransformerConfig) -> dict[str, Any]:
        """Writes the published configuration, refusing what the architecture cannot express."""
        for key, value in self.fixed.items():
            if getattr(config, key) != value:
                raise BadInput(
                    f"the family {self.name!r} needs model.{key} = {value!r}, got {getattr(config, key)!r}",
                    remedy="change the field, or choose another model.family",
                )
        return {"architectures": [self.architecture], "model_type": self.name, **self.write_config(config)}

    def weights_from(self, published: Weights, where: str) -> Weights:
        """Translates published tensors to our names.

        Raises:
            BadInput: A tensor has no place in this architecture.
        """
        ours: Weights = {}
        ignored = re.compile(self.ignored)
        for name, tensor in self.split(published).items():
            if ignored.fullmatch(name):
                continue
            translated = self.names.to_ours(name)
            if translated is None:
                raise BadInput(f"the tensor {name!r} has no place in the family {self.name!r}", where=where)
            ours[translated] = tensor
        return ours

    def weights_to(self, ours: Weights) -> Weights:
        """Translates our tensors to published names."""
        theirs: Weights = {}
        for name, tensor in ours.items():
            translated = self.names.to_theirs(name)
            if translated is None:
                raise BadInput(f"the family {self.name!r} has no place for our tensor {name!r}")
            theirs[translated] = tensor
        return self.fuse(theirs)
