"""Exports and the parity gate: what is the same passes, what drifted fails and says where."""

import json
from pathlib import Path

import pytest
import torch
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.checkpoints.adapters import save_adapter
from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.checkpoints.opening import open_model
from zhixing.core.errors import BadInput
from zhixing.models.adapters import LowRankSpec, attach
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.objectives.chat import PLAIN_TEMPLATE
from zhixing.workflows.export import check_export, export
from zhixing.workflows.parity import CHATS, ParityFault, View, check_parity, render, training_view


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "base"
    tokenizer = train_tokenizer([], "byte").tokenizer
    tokenizer.config["chat_template"] = PLAIN_TEMPLATE
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=96,
        context=1024, init_std=0.1,
    )  # fmt: skip
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder, model, tokenizer, "llama")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "run"
    opened = load_folder(base)
    generator = torch.Generator().manual_seed(1)
    attach(opened.transformer, LowRankSpec(rank=4), generator=generator)
    for name, parameter in opened.model.named_parameters():
        if name.endswith(".up"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    (folder).mkdir()
    assert opened.family is not None
    save_adapter(folder / "model", opened.transformer, opened.family, str(base), tokenizer=opened.tokenizer)
    return folder


@pytest.mark.parametrize(("to", "kind"), [("hf", "f32"), ("merged", "f32"), ("gguf", "f32"), ("gguf", "q8_0")])
@pytest.mark.parametrize("which", ["base", "adapter"])
def test_every_form_passes_the_gate(base: Path, adapter: Path, tmp_path: Path, to: str, kind: str, which: str) -> None:
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    done = export(base if which == "base" else adapter, to, out, kind=kind)
    assert done.parity is not None
    assert done.parity.faults == []
    assert done.parity.answered == 24 * len(CHATS)
    source = open_model(base if which == "base" else adapter / "model")
    tokens = torch.tensor([[5, 9, 40, 7]])
    with torch.no_grad():
        ours, theirs = source.transformer(tokens), open_model(out, compact=False).transformer(tokens)
    torch.testing.assert_close(theirs, ours, atol=2e-1 if kind == "q8_0" else 1e-4, rtol=0)


def test_transformers_renders_the_same_and_answers_the_same(adapter: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(adapter, "merged", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours = open_model(tmp_path / "out")
    assert ours.tokenizer is not None
    for chat in CHATS[:2]:
        tokens = render(ours.tokenizer, chat)
        theirs = tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=True)
        assert list(theirs["input_ids"] if isinstance(theirs, dict) or hasattr(theirs, "keys") else theirs) == tokens
        assert training_view(ours.tokenizer, chat) == tokens
        with torch.no_grad():
            torch.testing.assert_close(
                ours.transformer(torch.tensor([tokens])), model(torch.tensor([tokens])).logits, atol=1e-3, rtol=0
            )


def test_a_template_that_drifted_is_found(base: Path, tmp_path: Path) -> None:
    export(base, "hf", tmp_path / "out")
    opened = open_model(base)
    assert opened.tokenizer is not None
    drifted = Path(tmp_path / "out")
    again = open_model(drifted)
    assert again.tokenizer is not None
    again.tokenizer.config["chat_template"] = PLAIN_TEMPLATE.replace("<|{{", "<| {{")
    save_folder(drifted, again.model, again.tokenizer, "llama", generation=again.generation)
    found = check_export(opened, opened.tokenizer, drifted, "f32", CHATS)
    assert len(found.faults) == len(CHATS)
    assert "of the rendered chat differs" in found.lines()[1]
    assert found.lines()[-1] == f"parity: FAILED ({len(CHATS)} faults)"


def test_weights_that_differ_are_found_with_the_size_of_it(base: Path) -> None:
    opened, other = open_model(base), open_model(base)
    assert opened.tokenizer is not None
    with torch.no_grad():
        other.transformer.blocks[0].mlp.down.weight.mul_(-4)
    views = [View("the model", opened.model, opened.tokenizer, 0.0), View("other", other.model, opened.tokenizer, 1e-3)]
    found = check_parity(views)
    assert found.faults
    assert all(difference.size is not None and difference.size > 1e-3 for difference in found.faults)
    assert "logits are" in found.lines()[1]


def test_a_failing_gate_ends_the_command(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(folder: Path, model: Transformer, *rest: object, **options: object) -> None:
        with torch.no_grad():
            model.blocks[0].mlp.down.weight.mul_(-4)
        save_folder(folder, model, *rest, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            model.blocks[0].mlp.down.weight.div_(-4)

    monkeypatch.setattr("zhixing.workflows.export.save_folder", spoiled)
    with pytest.raises(ParityFault, match="parity: FAILED"):
        export(base, "merged", tmp_path / "out")
    result = CliRunner().invoke(app, ["export", str(base), "--to", "merged", "--out", str(tmp_path / "other")])
    assert isinstance(result.exception, ParityFault)
    assert result.exception.exit_code == 1


def test_the_commands(base: Path, adapter: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "m.gguf"
    result = runner.invoke(app, ["export", str(adapter), "--to", "gguf", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["parity"]["passed"] is True
    merged = tmp_path / "merged"
    result = runner.invoke(app, ["models", "merge", str(base), str(adapter), str(merged)])
    assert result.exit_code == 0, result.output
    tokens = torch.tensor([[5, 9, 40, 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            open_model(merged).transformer(tokens), open_model(adapter / "model").transformer(tokens), atol=1e-5, rtol=0
        )
    result = runner.invoke(app, ["models", "merge", str(base), str(adapter), str(merged)])
    assert isinstance(result.exception, BadInput)
