"""`zhixing generate`: what goes to standard output, what to standard error, and every way to say the prompt."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

import zhixing
from zhixing.checkpoints.folder import save_folder
from zhixing.cli import generate
from zhixing.core.errors import BadInput, MissingResource
from zhixing.families.llama import FIXED
from zhixing.generation import Generator
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
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


def test_options_reach_the_model_and_verbose_shows_them(run):
    result = call(
        run, "a", "--top-k", 4, "--temperature", 0.5, "--stop", "x", "--stop", "y", "--max-tokens", 2, "--verbose"
    )
    for shown in ("temperature 0.5", "top_k 4", "stop ('x', 'y')", "top_p 0.95"):
        assert shown in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1"), "temperature must be 0"),
        (("--top-p", "2"), "top_p must be above 0"),
        (("--samples", "0"), "n must be a whole number"),
        (("--greedy", "--temperature", "0.5"), "contradict"),
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
        result = call(run, "a", *GREEDY, *extra)
        assert result.exit_code == 130 and "stopped by the user" in result.stderr
        assert "answer 3 tokens" in result.stderr
