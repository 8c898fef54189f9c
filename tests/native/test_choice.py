"""Which path a model takes, through the library's front door: what is said, what is refused, and that both agree."""

import os
import subprocess
import sys

import pytest
import torch

import zhixing
from zhixing import native
from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import library, saved
from zhixing.native.network import NativeNetwork
from zhixing.tokenization.train import train_tokenizer

SIZES = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_width": 64, "context": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([], "byte").tokenizer
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 8  # logits far apart: no two tokens are nearly equal
    save_folder(where / "model", model.eval(), tokenizer, "llama")
    return where / "model"


def test_the_core_writes_by_itself_and_the_same_text(folder):
    ours, theirs = zhixing.load(folder), zhixing.load(folder, engine="torch")
    assert isinstance(ours.network, NativeNetwork)
    assert isinstance(theirs.network, Transformer)
    assert any("native core" in line and "threads" in line for line in ours.details)
    prompts = ["Once upon a time", "Twice", "x" * 100]
    options = {"max_tokens": 30, "temperature": 0.0, "end_tokens": ()}
    assert ours.generate(prompts, **options) == theirs.generate(prompts, **options)
    beams = {"max_tokens": 12, "num_beams": 3, "temperature": 0.0, "end_tokens": ()}
    assert ours.generate("abc", **beams) == theirs.generate("abc", **beams)
    drawn = {"max_tokens": 20, "seed": 8, "n": 3, "temperature": 0.7, "end_tokens": ()}
    assert [a.text for a in ours.complete("abc", **drawn)] == [a.text for a in theirs.complete("abc", **drawn)]


def test_strategies_that_need_the_modules_get_them(folder):
    ours, theirs = zhixing.load(folder), zhixing.load(folder, engine="torch")
    options = {"max_tokens": 8, "penalty_alpha": 0.6, "top_k": 4, "end_tokens": ()}
    assert ours.generate("abc", **options) == theirs.generate("abc", **options)
    assert isinstance(ours.model, Transformer)
    assert ours.evaluate(["some text"]).bits_per_byte == pytest.approx(theirs.evaluate(["some text"]).bits_per_byte)


def test_quantised_on_demand(folder):
    quantised = zhixing.load(folder, quantize="q8")
    assert "Q8_0" in quantised.details[-1]
    assert quantised.generate("abc", max_tokens=4, end_tokens=())


def test_the_cache_is_kept_as_asked(folder, tmp_path, monkeypatch):
    """The first opening packs, the others take what is packed; a token has 2 layers of 2 heads of 16 values, twice."""
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(saved.MOST_VARIABLE, str(1 << 30))
    zhixing.load(folder)
    saved.wait()
    for _ in range(2):
        for kv_cache, size in (("f32", "512 B"), ("f16", "256 B"), ("q8", "160 B"), (None, "512 B")):
            opened = zhixing.load(folder, kv_cache=kv_cache)
            assert f"{kv_cache or 'f32'} cache, {size} a token" in opened.details[-1]
            assert opened.generate("abc", max_tokens=4, end_tokens=())
    assert "f16 cache" in zhixing.load(folder, quantize="q8").details[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_cache": "q4"}, "known: f16, f32, q8"),
        ({"kv_cache": "q8", "engine": "torch"}, "leave out one of --kv-cache"),
        ({"engine": "nativ"}, "did you mean 'native'"),
        ({"quantize": "q5"}, "known: q4, q8"),
        ({"engine": "torch", "quantize": "q4"}, "leave out"),
    ],
)
def test_contradictions_are_refused(folder, options, words):
    with pytest.raises(BadInput, match=words):
        zhixing.load(folder, **options)


def test_without_the_core_pytorch_writes_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(library, "_load", lambda: "the C++ core is not built")
    model = zhixing.load(folder)
    assert model.details[-1] == "computed by PyTorch: the C++ core is not built"
    assert model.generate("abc", max_tokens=3, end_tokens=())
    for options in ({"engine": "native"}, {"kv_cache": "q8"}):
        with pytest.raises(MissingResource, match="compiler"):
            zhixing.load(folder, **options)


@pytest.fixture
def fresh():
    """The library is configured anew, and once more behind the test."""
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [("ZHIXING_KERNELS", "mmx", "use one of auto"), ("ZHIXING_THREADS", "many", "use 1 to 1024")],
)
def test_wrong_settings_in_the_environment_are_refused(variable, value, words, monkeypatch, fresh):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match=words):
        library.library()


def test_settings_from_the_environment(monkeypatch, fresh):
    monkeypatch.setenv("ZHIXING_KERNELS", "scalar")
    monkeypatch.setenv("ZHIXING_THREADS", "3")
    assert library.kernels() == "scalar"
    assert library.threads() == 3


def test_after_a_fork_the_child_has_threads_of_its_own(folder):
    if not hasattr(os, "fork") or not native.is_available():
        pytest.skip("no fork here")
    code = f"""
import os, zhixing
model = zhixing.load({str(folder)!r})
first = model.generate("abc", max_tokens=5, temperature=0.0, end_tokens=())
child = os.fork()
again = model.generate("abc", max_tokens=5, temperature=0.0, end_tokens=())
if child == 0:
    os._exit(0 if again == first else 1)
print(os.waitpid(child, 0)[1] == 0 and again == first)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "True", done.stderr
