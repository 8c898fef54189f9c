"""The folder of an n-gram model: its tables in model.safetensors, mapped into memory when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zhixing.core.errors import BadInput
from zhixing.families.base import ConfigReader, Weights
from zhixing.models.network import CausalNetwork
from zhixing.models.ngram.arpa import HIGHEST_ORDER
from zhixing.models.ngram.network import NgramNetwork
from zhixing.models.ngram.storage import read_tables, write_tables


class NgramKind:
    """N-gram models: `model_type` "zhixing-ngram"."""

    name = "zhixing-ngram"
    network: type[CausalNetwork] = NgramNetwork

    def read(self, values: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> NgramNetwork:
        """Reads config.json and maps the tables; they are float32 whatever `dtype`."""
        where = str(folder / "config.json")
        reader = ConfigReader(values, where)
        order = reader.size("order", most=HIGHEST_ORDER)
        vocab_size = reader.size("vocab_size", most=1 << 24)
        begin, other = reader.take("begin", required=True), reader.take("begin_token")
        for key, value, most in (("begin", begin, vocab_size), ("begin_token", other or 0, vocab_size - 1)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise BadInput(f"the field {key!r} must be a whole number from 0 to {most}, got {value!r}", where=where)
        reader.finish()
        return NgramNetwork(read_tables(folder / "model.safetensors", order, vocab_size, begin, other))

    def values(self, model: CausalNetwork) -> dict[str, Any]:
        """Returns the content of config.json."""
        assert isinstance(model, NgramNetwork)
        tables = model.tables
        values = {
            "model_type": self.name, "order": tables.order, "vocab_size": tables.vocab_size, "begin": tables.begin,
        }  # fmt: skip
        return values if tables.begin_token is None else {**values, "begin_token": tables.begin_token}

    def write(self, model: CausalNetwork, folder: Path, weights: Weights) -> None:
        """Writes the tables."""
        assert isinstance(model, NgramNetwork)
        write_tables(model.tables, folder / "model.safetensors")


NGRAM = NgramKind()
