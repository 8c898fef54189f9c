"""What `data inspect` shows is what training reads: tokens, loss, documents, and what the template added."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.checkpoints.folder import save_folder
from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer
from zhixing.training.objectives.chat import PLAIN_TEMPLATE, ChatTurns
from zhixing.workflows.inspection import inspect_recipe, inspection_page


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    tokenizer = train_tokenizer([], "byte").tokenizer
    tokenizer.config["chat_template"] = PLAIN_TEMPLATE
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16, context=80
    )
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    save_folder(folder / "base", model, tokenizer, "llama")
    rows = [
        {"messages": [{"role": "user", "content": f"q{index}?"}, {"role": "assistant", "content": f"答{index}"}]}
        for index in range(6)
    ]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    (folder / "recipe.yaml").write_text(
        f"name: shown\ndata: {{paths: ['{folder}/chats.jsonl'], validation_fraction: 0.01}}\n"
        f"model: {{start: '{folder}/base'}}\ntune: {{method: lora, rank: 2}}\n"
        "train: {objective: chat, batch_size: 3, steps: 1}\n"
    )
    return folder


def recipe(place: Path, **sections: Any) -> Any:
    values: dict[str, Any] = {
        "data": {"paths": [str(place / "chats.jsonl")], "validation_fraction": 0.01},
        "model": {"start": str(place / "base")},
        "train": {"objective": "chat", "batch_size": 3, "steps": 1},
    }
    return build_recipe({**values, **sections})


def test_every_token_is_told_apart(place: Path) -> None:
    (batch,) = inspect_recipe(recipe(place)).batches
    assert len(batch.rows) == 1
    assert len(batch.documents) == 3
    for document in batch.documents:

        def joined(want: Any, tokens: Any = document.tokens) -> str:
            return "".join(token.text for token in tokens if want(token))

        whole = joined(lambda token: True)
        assert whole.startswith("<|user|>")
        assert "答" in whole  # three tokens of a byte tokenizer, and one character for a person
        content = joined(lambda token: not token.template)
        assert content.startswith("q")
        assert "<|" not in content.replace("<|endoftext|>", "")
        assert "assistant" not in content
        learned = joined(lambda token: token.wanted)
        assert "q" not in learned
        assert not document.tokens[0].wanted
        assert document.tokens[-1].wanted
    facts = batch.facts()
    assert 0 < facts["wanted"] < facts["tokens"]


def test_learned_tokens_stand_in_front(place: Path) -> None:
    (batch,) = inspect_recipe(recipe(place, tune={"method": "prompt", "prompt_tokens": 2})).batches
    for document in batch.documents:
        assert [token.text for token in document.tokens[:3]].count("[learned]") == 2
        assert not any(token.wanted for token in document.tokens[:2])


def test_running_text_has_loss_everywhere(place: Path) -> None:
    (place / "text.txt").write_text("一二三 abc\n" * 60)
    text = build_recipe({
        "data": {"paths": [str(place / "text.txt")], "validation_fraction": 0.4, "split": "tail"},
        "tokenizer": {"kind": "byte"}, "model": {"depth": 1, "context": 32}, "train": {"steps": 1, "batch_size": 2},
    })  # fmt: skip
    (batch,) = inspect_recipe(text).batches
    facts = batch.facts()
    assert facts["rows"] == 2
    assert facts["wanted"] == 64


def test_the_command_and_the_page(place: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    page = tmp_path / "page.html"
    result = runner.invoke(app, ["data", "inspect", str(place / "recipe.yaml"), "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "carry loss" in result.output
    assert "[[" in result.output
    content = page.read_text(encoding="utf-8")
    assert "http://" not in content.replace("http://www.w3.org", "")
    assert 'class="w ' in content
    result = runner.invoke(app, ["data", "inspect", str(place / "recipe.yaml"), "--json"])
    assert json.loads(result.stdout)["batches"][0]["documents"] == 3


def test_text_on_a_page_is_escaped(place: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<script>x</script>"}, {"role": "assistant", "content": "<b>"}]}
    (tmp_path / "evil.jsonl").write_text("\n".join([json.dumps(row)] * 3))
    data = {"paths": [str(tmp_path / "evil.jsonl")], "validation_fraction": 0.01}
    page = inspection_page("evil", inspect_recipe(recipe(place, data=data)))
    assert "<script>x" not in page


def test_nothing_to_learn_stops_the_run(place: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q" * 200}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "long.jsonl").write_text("\n".join([json.dumps(row)] * 3))
    data = {"paths": [str(tmp_path / "long.jsonl")], "validation_fraction": 0.01}
    with pytest.raises(BadInput, match=r"no records to train on|no token that carries loss"):
        inspect_recipe(recipe(place, data=data))


def test_a_large_file_is_not_encoded_whole(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first records are enough to look at; the page and the command say so, and all can be asked for."""
    rows = [
        {"messages": [{"role": "user", "content": f"q{index}"}, {"role": "assistant", "content": "a"}]}
        for index in range(200)
    ]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    large = recipe(place, data={"paths": [str(tmp_path / "many.jsonl")], "validation_fraction": 0.01})
    encoded = 0
    plain = ChatTurns.encode

    def counted(self: ChatTurns, record: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return plain(self, record)

    monkeypatch.setattr(ChatTurns, "encode", counted)
    found = inspect_recipe(large, records=40)
    assert found.records == 40
    assert encoded <= 80  # once to make the batch, once to find the template's part
    assert "first 40 records" in inspection_page("large", found)
    monkeypatch.setattr("zhixing.workflows.inspection.RECORDS", 50)
    assert inspect_recipe(large).records == 50
    whole = inspect_recipe(large, records=0)
    assert whole.records is None
    assert not whole.note
    run = CliRunner().invoke(
        app, ["data", "inspect", str(place / "recipe.yaml"), str(tmp_path / "many.jsonl"), "--records", "40"]
    )
    assert "Drawn from the first 40 records" in run.output


def test_a_small_file_gives_the_batches_of_training(place: Path) -> None:
    found = inspect_recipe(recipe(place))
    assert found.records is None
    assert found.batches == inspect_recipe(recipe(place), records=0).batches


def test_sources_are_read_and_targets_are_learned(tmp_path: Path) -> None:
    pairs = [("a dog runs", "ein Hund läuft"), ("two cats", "zwei Katzen")] * 4
    lines = [json.dumps({"source": one, "target": other}) for one, other in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    translated = build_recipe({
        "data": {"paths": [str(tmp_path / "pairs.jsonl")], "validation_fraction": 0.01}, "tokenizer": {"kind": "byte"},
        "model": {"depth": 1, "width": 16, "heads": 1, "context": 40}, "train": {"objective": "seq2seq", "steps": 1},
    })  # fmt: skip
    (batch,) = inspect_recipe(translated).batches
    for document in batch.documents:
        read = "".join(token.text for token in document.tokens if not token.wanted and not token.template)
        learned = "".join(token.text for token in document.tokens if token.wanted and not token.template)
        assert (read.replace("␣", " "), learned.replace("␣", " ").replace("⁺", "")) in pairs
        assert document.tokens[-1].wanted  # the end of the target is learned too


def test_captions_of_pictures_that_the_recipe_draws(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    drawn = build_recipe({
        "data": {"pictures": {"count": 8, "unseen": 4, "side": 32}},
        "model": {"width": 32, "depth": 1, "context": 64, "image_size": 32, "patch_size": 8},
        "tokenizer": {"kind": "byte"}, "train": {"objective": "caption", "steps": 1, "batch_size": 4},
    })  # fmt: skip
    (batch,) = inspect_recipe(drawn).batches
    assert batch.facts()["documents"] == 4
    assert batch.facts()["wanted"] == batch.facts()["tokens"]
