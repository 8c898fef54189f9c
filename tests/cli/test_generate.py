"""`zhixing generate`: what goes to standard output, what to standard error, and every way to say the prompt."""

import json
import time

import pytest
import torch
import typer
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.checkpoints.gguf.write import write_gguf
from zhixing.cli import generate
from zhixing.cli.sampling_options import Grouped, setting
from zhixing.core.errors import BadInput, MissingResource
from zhixing.families.llama import FIXED
from zhixing.generation import Generator
from zhixing.generation.engine import Request
from zhixing.generation.engine.workers import NativeWorker
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.native import absence
from zhixing.tokenization.train import train_tokenizer

GREEDY = ("--greedy", "--max-tokens", "9")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    tokenizer = train_tokenizer([], "byte").tokenizer
    sizes = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "mlp_width": 16, "context": 32}
    model = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, **sizes, **FIXED))
    model.initialise(torch.Generator().manual_seed(0))
    folder.mkdir()
    save_folder(folder / "model", model.eval(), tokenizer, "llama")
    return folder


def call(*arguments, stdin=None):
    app = typer.Typer()
    app.command()(generate.command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_streamed_or_not_the_output_is_the_answer(run):
    expected = zhixing.load(run).generate("知行", temperature=0, max_tokens=9)
    streamed, whole = call(run, "知行", *GREEDY), call(run, "知行", *GREEDY, "--no-stream")
    assert streamed.stdout == whole.stdout == expected + "\n"
    assert "prompt 6 tokens" in streamed.stderr and "max_tokens (9) reached" in streamed.stderr


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_prompt_comes_from_standard_input(run, arguments):
    assert call(run, *arguments, *GREEDY, stdin="知行\n").stdout == call(run, "知行", *GREEDY).stdout
    with pytest.raises(BadInput, match=r"not UTF-8 text \(byte 1\)"):
        call(run, *arguments, stdin=b"a\xff")


def test_samples_and_json(run):
    result = call(run, "a", "--samples", 3, "--seed", 5, "--max-tokens", 4, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["sample"] for answer in answers] == [0, 1, 2]
    assert {answer["seed"] for answer in answers} == {5} and answers[0]["finish_reason"]
    assert "--- 2 of 3 ---" in call(run, "a", "--samples", 3, "--max-tokens", 2).stdout


def test_verbose_shows_what_is_in_force_and_where_it_comes_from(run):
    result = call(
        run, "a", "--top-k", 4, "--temperature", 0.5, "--stop", "x", "--stop", "y", "--max-tokens", 2, "--verbose"
    )
    lines = result.stderr.splitlines()
    for shown in ("temperature 0.5", "top_k 4", "stop ('x', 'y')", "max_tokens 2"):
        assert f"{shown} (command line)" in lines
    assert "top_p 0.95 (the model's generation_config.json)" in lines
    assert any(line.startswith("end_tokens <|endoftext|>") for line in lines)
    default = next(line for line in lines if line.startswith("by default: "))
    assert "min_p 0.0, " in default and "temperature" not in default
    assert "in order: WholeCharacters, TopK, Temperature, TopP, draw" in lines


def test_verbose_says_what_has_no_effect(run):
    lines = call(run, "a", "--num-beams", 2, "--max-tokens", 2, "--repetition-penalty", 1.5, "--verbose").stderr
    assert "top_p 0.95 (the model's generation_config.json; no effect on beam search, which draws nothing)" in lines
    assert "in order: RepetitionPenalty, beam search" in lines


def test_words_and_biases(run):
    tokenizer = zhixing.load(run).tokenizer
    letter = tokenizer.encode("b")[0]
    forced = call(run, "a", *GREEDY, "--logit-bias", "b=1000", "--no-stream").stdout
    assert forced == "b" * 9 + "\n" == call(run, "a", *GREEDY, "--logit-bias", f"#{letter}=1000").stdout
    assert "b" not in call(run, "a", *GREEDY, "--logit-bias", "b=1000", "--bad-words", "b").stdout
    assert call(run, "a", *GREEDY, "--logit-bias", "b=1e3", "--stop", "bbb").stdout == "\n"
    assert call(run, "a", *GREEDY, "--logit-bias", "==9e3").stdout == "=" * 9 + "\n"


def test_every_option_can_be_set_and_the_models_own_taken_back(run):
    lines = call(
        run, "a", "--top-k", 0, "--set", "top_p=1", "--set", "suppress_tokens=[3, 4]", "--set", "end-tokens=[]",
        "--max-tokens", 2, "--min-p", 0, "--verbose",
    ).stderr.splitlines()  # fmt: skip
    for shown in ("top_k None", "min_p 0.0", "top_p 1", "suppress_tokens (3, 4)", "end_tokens none"):
        assert f"{shown} (command line)" in lines
    assert "in order: Suppress, WholeCharacters, Temperature, draw" in lines


def test_searches(run):
    found = call(run, "a", "--num-beams", 3, "--samples", 2, "--max-tokens", 3, "--json").stdout.splitlines()
    scores = [json.loads(line)["score"] for line in found]
    assert scores == sorted(scores, reverse=True)
    whole = call(run, "a", "--num-beams", 3, "--max-tokens", 3)
    assert "score -" in whole.stderr
    best = call(run, "a", "--best-of", 3, "--max-tokens", 3, "--seed", 1, "--logprobs", 1, "--json").stdout
    assert len(json.loads(best)["logprobs"]) == 3
    assert call(run, "a", "--penalty-alpha", 0.5, "--top-k", 3, "--max-tokens", 3).exit_code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature=0.7", ("temperature", 0.7)),
        ("--top-k = 40", ("top_k", 40)),
        ("top_k=none", ("top_k", None)),
        ("sliding=True", ("sliding", True)),
        ("early_stopping=never", ("early_stopping", "never")),
        ('stop=["a", "b"]', ("stop", ["a", "b"])),
        ('logit_bias={"a": 1}', ("logit_bias", {"a": 1})),
    ],
)
def test_settings_between_turns(text, expected):
    assert setting(text) == expected


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(BadInput, match="set as NAME=VALUE, got 'temperature'"):
        setting("temperature")


def test_help_shows_the_options_by_panel():
    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=Grouped)(generate.command)
    text = CliRunner().invoke(app, ["--help"]).stdout
    panels = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert panels[0] == "Arguments" and "Search" in panels and "Repetition" in panels
    assert text.index("Search:") < text.index("--num-beams") < text.index("Guidance:")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1"), "temperature must be 0"),
        (("--top-p", "2"), "top_p must be above 0"),
        (("--samples", "0"), "n must be a whole number"),
        (("--greedy", "--temperature", "0.5"), "contradict"),
        (("--logit-bias", "x"), "must be TEXT=NUMBER or #ID=NUMBER, got 'x'"),
        (("--logit-bias", "=5"), "must be TEXT=NUMBER"),
        (("--logit-bias", "#9999=5"), "token id 9999 is outside of the vocabulary"),
        (("--early-stopping", "soon", "--num-beams", "2"), "true, false or never, got 'soon'"),
        (("--num-beams", "2", "--samples", "3"), "has no 3 best answers"),
        (("--length-penalty", "2"), "no effect without beam search"),
        (("--greedy", "--samples", "2"), "would all be the same"),
        (("--logprobs", "2"), "shown only with --json"),
        (("--set", "top_p=2"), "top_p must be above 0"),
        (("--set", "warmth=2"), "unknown option 'warmth'"),
        (("--set", "top_p=0.5", "--top-p", "0.6"), "top_p is given twice, once as --set top_p=0.5"),
        (("--device", "abacus"), "not a device"),
    ],
)
def test_mistakes(run, arguments, message):
    with pytest.raises(BadInput, match=message):
        call(run, "a", *arguments)


def test_no_model_and_too_long_a_prompt(run):
    with pytest.raises(MissingResource):
        call(run / "nowhere", "a")
    with pytest.raises(BadInput, match="the prompt has 40 tokens; the model's context is 32"):
        call(run, "x" * 40)


def test_interruption_prints_what_is_there_and_exits_130(run, monkeypatch):
    class Interrupt:
        def __call__(self, progress):
            if len(progress.tokens) == 3:
                raise KeyboardInterrupt

    original = Generator.__init__

    def interrupted(self, *arguments, **options):
        original(self, *arguments, **{**options, "rules": [Interrupt()]})

    monkeypatch.setattr(Generator, "__init__", interrupted)
    for extra in ((), ("--no-stream",)):
        result = call(run, "a", *GREEDY, "--engine", "torch", *extra)
        assert result.exit_code == 130 and "stopped by the user" in result.stderr
        assert "answer 3 tokens" in result.stderr


@pytest.mark.skipif(absence() is not None, reason="the native core is not there")
def test_interruption_of_the_engine_exits_130_too(run, monkeypatch):
    original, asked = Request.generation, []

    def interrupted(self):
        asked.append(self)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Request, "generation", interrupted)
        result = call(run, "a", *GREEDY, "--no-stream")
    assert result.exit_code == 130 and "stopped by the user" in result.stderr

    shown, step = Request.__next__, NativeWorker.run

    def pressed(self):
        asked.append(self)
        if len(asked) == 5:
            self.abort()
            raise KeyboardInterrupt
        return shown(self)

    def slow(self, *given):
        time.sleep(0.05)
        return step(self, *given)

    asked.clear()
    monkeypatch.setattr(Request, "__next__", pressed)
    monkeypatch.setattr(NativeWorker, "run", slow)
    result = call(run, "a", *GREEDY, "--logit-bias", "b=1000")
    assert result.exit_code == 130 and "stopped by the user" in result.stderr
    assert 4 <= len(result.stdout.strip()) < 9


@pytest.mark.parametrize("flag", ["--compact", "--expanded"])
def test_a_gguf_file_packed_or_expanded(tmp_path, run, flag):
    folder = load_folder(run / "model")
    write_gguf(tmp_path / "m.gguf", folder, "f32")
    expected = call(run, "ab", *GREEDY, "--engine", "torch")
    result = call(tmp_path / "m.gguf", "ab", *GREEDY, "--engine", "torch", flag, "--verbose")
    assert result.stdout == expected.stdout
    assert {"--compact": "stay in their blocks", "--expanded": "were expanded"}[flag] in result.stderr
    assert "peak memory" in result.stderr and "when the model was open" in result.stderr
    facts = json.loads(call(tmp_path / "m.gguf", "ab", *GREEDY, "--engine", "torch", "--json").stdout)
    assert 0 < facts["peak_memory"]["opened"] <= facts["peak_memory"]["written"]
