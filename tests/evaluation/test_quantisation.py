"""The core's figures against float32: exact weights change nothing, coarse ones are seen."""

import json

import pytest
import torch
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.evaluation.quantisation import _windows, compare
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library
from zhixing.native.network import NativeNetwork
from zhixing.tokenization.train import train_tokenizer

pytestmark = pytest.mark.skipif(not library.is_available(), reason="the C++ core is not built")
TOKENIZER = train_tokenizer([], "byte").tokenizer
TEXT = "To know and to do are one. " * 12


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=96,
        context=128, **FIXED,
    )  # fmt: skip
    made = Transformer(config)
    made.initialise(torch.Generator().manual_seed(0))
    for parameter in made.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    return made.eval()


def test_the_nearer_the_weights_the_nearer_the_figures(model):
    found = {q: compare(model, NativeNetwork(model, q), TOKENIZER, [TEXT], 200, 100) for q in (None, "q8", "q4")}
    exact = found[None]
    assert exact.tokens == 200
    assert abs(exact.change) < 1e-3
    assert exact.agreement + exact.near_ties == pytest.approx(1.0)
    divergences = [found[q].divergence for q in (None, "q8", "q4")]
    assert divergences == sorted(divergences)
    assert divergences[2] > 10 * divergences[0]
    assert found["q4"].agreement < 1
    assert found["q4"].widest > found[None].widest


def test_the_reference_is_the_perplexity_of_the_modules(model):
    tokens = torch.tensor(TOKENIZER.encode(TEXT[:100], special=True))
    found = compare(model, NativeNetwork(model), TOKENIZER, [TEXT[:100]], len(tokens))
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(model(tokens[None, :-1])[0], tokens[1:])
    assert found.reference == pytest.approx(float(loss.exp()), rel=1e-5)


class Beginning:
    """A tokenizer of letters whose texts begin with a token of their own; or do not."""

    def __init__(self, begin_id):
        self.begin_id = begin_id

    def encode(self, text, special=False):
        assert special
        return [99, *map(ord, text)] if self.begin_id == 99 else list(map(ord, text))


@pytest.mark.parametrize("most", [100, 5])
def test_every_stretch_begins_as_a_text_does(most):
    def read(begin):
        pairs = _windows(Beginning(begin), ["abcdefg", "hi"], most, 3)
        return [(inputs.tolist(), targets.tolist()) for inputs, targets in pairs]

    a, b, c, d, e, f, g, h, i = map(ord, "abcdefghi")
    begun = [([99, a, b], [a, b, c]), ([99, d, e], [d, e, f]), ([99], [g]), ([99, h], [h, i])]
    plain = [([a, b, c], [b, c, d]), ([d, e, f], [e, f, g]), ([h], [i])]
    if most == 5:
        begun, plain = [begun[0], ([99, d], [d, e])], [plain[0], ([d, e], [e, f])]
    assert read(99) == begun
    assert read(None) == plain


def test_a_text_of_one_token_is_refused(model):
    with pytest.raises(BadInput, match="nothing to compare"):
        compare(model, NativeNetwork(model), TOKENIZER, ["a"])


def test_the_command(model, tmp_path):
    save_folder(tmp_path / "model", model, TOKENIZER, "llama")
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["models", "quality", str(tmp_path / "model"), str(tmp_path / "text.txt"), "--tokens", "100"]
    done = CliRunner().invoke(app, [*arguments, "--quantize", "q8", "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout.strip().splitlines()[-1])
    assert values["tokens"] == 100
    assert values["agreement"] > 0.8
    coarse = CliRunner().invoke(app, [*arguments, "--kv-cache", "q8", "--json"])
    assert coarse.exit_code == 0, coarse.output
    found = json.loads(coarse.stdout.strip().splitlines()[-1])
    assert found["kv_cache"] == "q8"
    assert 0 < found["divergence"] < 0.01
    plain = CliRunner().invoke(app, arguments)
    assert "the same likeliest token" in plain.stdout
