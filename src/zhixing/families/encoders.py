"""What the published encoder families share: their heads by architecture name, and reading and writing with both.

Each family (BERT, RoBERTa, DistilBERT, ELECTRA) is a file of its own beside this one; decoders are in `families.base`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.base import ConfigReader, Names, Weights
from zhixing.models.config import TransformerConfig
from zhixing.models.heads import HeadActivation, HeadConfig, HeadKind

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
PUBLISHED_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}

FIXED: dict[str, Any] = {
    "norm": "layer", "norm_placement": "residual", "embedding_norm": True, "position": "learned", "causal": False,
    "gated": False, "attention_bias": True, "attention_output_bias": True, "mlp_bias": True,
}  # fmt: skip
"""What all of them have."""

PROBLEMS = {
    "single_label_classification": "single", "multi_label_classification": "multi", "regression": "regression",
}  # fmt: skip
CRF_FIELD = "zhixing_crf"
"""Says in config.json that tags are scored as a chain, which `transformers` does not know."""

CRF_NAMES = [(f"head.crf.{part}", f"crf.{part}") for part in ("transitions", "start", "end")]


def layer_names(parts: Mapping[str, str], layer: str) -> list[tuple[str, str]]:
    """Returns the weight names inside a layer.

    Args:
        parts: Our part to theirs.
        layer: The prefix of their layers, with `{i}`.
    """
    return [
        (f"encoder.blocks.{{i}}.{ours}.{kind}", f"{layer}.{theirs}.{kind}")
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    ]


def both(ours: str, theirs: str) -> list[tuple[str, str]]:
    """Returns the names of a layer's weight and bias."""
    return [(f"{ours}.weight", f"{theirs}.weight"), (f"{ours}.bias", f"{theirs}.bias")]


@dataclass(frozen=True)
class EncoderFamily:
    """One published encoder architecture.

    Attributes:
        name: Its `model_type`.
        prefix: What stands before the encoder's weights where there is a head ("bert.").
        architectures: The class name of `transformers` by kind of head.
        read_config: Translates config.json to our configuration.
        write_config: Translates back.
        names: Weight names of the encoder, theirs without the prefix.
        heads: Weight names by kind of head, theirs in full.
        activation: Between the two layers of the head that classifies.
        head_dropout: The field of config.json with that head's dropout, and the field that it falls back to.
        extra: Weights, without prefix, that no head here uses but the published layout has (BERT's pooler).
        ignored: Published names that carry no information (buffers), as a regular expression.
    """

    name: str
    prefix: str
    architectures: Mapping[HeadKind, str]
    read_config: Callable[[ConfigReader], TransformerConfig]
    write_config: Callable[[TransformerConfig], dict[str, Any]]
    names: list[tuple[str, str]]
    heads: Mapping[HeadKind, list[tuple[str, str]]]
    activation: HeadActivation = "tanh"
    head_dropout: tuple[str, str] = ("classifier_dropout", "hidden_dropout_prob")
    extra: str = r"(?!)"
    ignored: str = r"(.*\.)?(position_ids|token_type_ids)"
    old_names: Mapping[str, str] = field(default_factory=dict)

    def config_from(self, values: Mapping[str, Any], where: str) -> tuple[TransformerConfig, HeadConfig]:
        """Reads a published configuration, refusing every field that is not understood."""
        reader = ConfigReader(values, where)
        try:
            config, head = self.read_config(reader), self._head(reader)
        except BadInput as error:
            raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
        reader.expect("is_decoder", False)
        reader.expect("add_cross_attention", False)
        reader.finish()
        return config, head

    def _head(self, reader: ConfigReader) -> HeadConfig:
        named = reader.values.get("architectures") or [self.architectures["none"]]
        kinds = {name: kind for kind, name in self.architectures.items()}
        name = named[0] if isinstance(named, list) and named else None
        if name not in kinds:
            raise unknown_name("architecture", str(name), kinds, where=reader.where)
        kind = kinds[name]
        field_name, fallback = self.head_dropout
        dropout = reader.take(field_name)
        if dropout is None:
            dropout = reader.values.get(fallback, 0.1)
        labels: tuple[str, ...] = ()
        if kind in ("classify", "tag"):
            labels = read_labels(reader)
        problem = PROBLEMS.get(str(reader.values.get("problem_type")), "regression" if len(labels) == 1 else "single")
        return HeadConfig(
            kind=kind, labels=labels, problem=problem if kind == "classify" else "single",  # type: ignore[arg-type]
            activation=self.activation, crf=reader.flag(CRF_FIELD, False), dropout=float(dropout),
        )  # fmt: skip

    def config_to(self, config: TransformerConfig, head: HeadConfig) -> dict[str, Any]:
        """Writes the published configuration."""
        kind: HeadKind = "none" if head.kind == "pool" else head.kind
        if kind not in self.architectures:
            raise BadInput(f"the family {self.name!r} has no head that can {kind}")
        values = {"architectures": [self.architectures[kind]], "model_type": self.name, **self.write_config(config)}
        values[self.head_dropout[0]] = head.dropout
        if head.labels:
            values["id2label"] = {str(index): label for index, label in enumerate(head.labels)}
            values["label2id"] = {label: index for index, label in enumerate(head.labels)}
        if head.kind == "classify":
            values["problem_type"] = {ours: theirs for theirs, ours in PROBLEMS.items()}[head.problem]
        if head.crf:
            values[CRF_FIELD] = True
        return values

    def weights_from(self, published: Weights, kind: HeadKind, where: str) -> tuple[Weights, Weights]:
        """Translates published tensors.

        Returns:
            The tensors by our names, and those that belong to the layout but to nothing here.

        Raises:
            BadInput: A tensor has no place in this architecture.
        """
        table, heads = Names(self.names), Names(self._head_names(kind))
        ignored, extra = re.compile(self.ignored), re.compile(self.extra)
        ours: Weights = {}
        unused: Weights = {}
        for full_name, tensor in published.items():
            name = full_name.removeprefix(self.prefix)
            for old, new in self.old_names.items():
                name = name.replace(old, new)
            if ignored.fullmatch(name):
                continue
            found = heads.to_ours(full_name) or heads.to_ours(name) or table.to_ours(name)
            if found is not None:
                ours[found] = tensor
            elif extra.fullmatch(name) or self._of_another_head(full_name, name):
                unused[full_name] = tensor
            else:
                raise BadInput(f"the tensor {full_name!r} has no place in the family {self.name!r}", where=where)
        return ours, unused

    def _head_names(self, kind: HeadKind) -> list[tuple[str, str]]:
        return [*self.heads.get("none" if kind == "pool" else kind, []), *(CRF_NAMES if kind == "tag" else [])]

    def _of_another_head(self, *names: str) -> bool:
        """Tells whether a tensor belongs to a head that this folder's architecture does not have."""
        tables = [Names(pairs) for pairs in self.heads.values()]
        return any(table.to_ours(name) is not None for table in tables for name in names)

    def weights_to(self, ours: Weights, kind: HeadKind) -> Weights:
        """Translates our tensors to published names."""
        table, heads = Names(self.names), Names(self._head_names(kind))
        prefix = "" if kind in ("none", "pool") else self.prefix
        theirs: Weights = {}
        for name, tensor in ours.items():
            head, trunk = heads.to_theirs(name), table.to_theirs(name)
            if head is None and trunk is None:
                raise BadInput(f"the family {self.name!r} has no place for our tensor {name!r}")
            theirs[head if head is not None else f"{prefix}{trunk}"] = tensor
        return theirs


def read_labels(reader: ConfigReader) -> tuple[str, ...]:
    """Returns the names of the labels in the order of their numbers, from id2label or num_labels."""
    table = reader.mapping("id2label")
    if not table:
        count = reader.size("num_labels", 2, most=1_000_000)
        return tuple(f"LABEL_{index}" for index in range(count))
    names = {str(key): value for key, value in table.items()}
    wanted = [str(index) for index in range(len(names))]
    if sorted(names, key=str) != sorted(wanted) or not all(isinstance(value, str) for value in names.values()):
        raise BadInput("the field 'id2label' must name the labels 0, 1, 2, ...", where=reader.where)
    return tuple(names[key] for key in wanted)
