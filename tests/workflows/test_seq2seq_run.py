"""Runs of encoder-decoders from recipe to model folder: learning, resuming bit for bit, finding faults first."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

import zhixing
from zhixing.core.errors import BadInput
from zhixing.core.recipe import build_recipe
from zhixing.training.resolve import resolve
from zhixing.workflows.pretrain import resume_run
from zhixing.workflows.records_run import RecordOutcome

WORDS = dict(zip("red blue cat dog runs sleeps big old".split(), "rot blau Katze Hund läuft schläft groß alt".split(),
                 strict=True))  # fmt: skip


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        words = generator.choices(list(WORDS), k=generator.randint(1, 4))
        found.append((" ".join(words), " ".join(WORDS[word] for word in words)))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for name, pairs in (("train", sentences(300, 0)), ("val", sentences(30, 1))):
        for side, language in enumerate(("en", "de")):
            lines = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{name}.{language}").write_text(lines, encoding="utf-8")
    lines = [
        {"text": f"{one[0]}. {two[0]}! {three[0]}."}
        for one, two, three in zip(*[iter(sentences(600, 2))] * 3, strict=True)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def train(folder: Path, run: Path, **sections: Any) -> RecordOutcome:
    recipe: dict[str, Any] = {
        "data": {
            "paths": [str(folder / "train.en"), str(folder / "train.de")],
            "validation_paths": [str(folder / "val.en"), str(folder / "val.de")],
            "columns": {"source": "en", "target": "de"},
        },
        "tokenizer": {"vocab_size": 300},
        "model": {"depth": 1, "width": 32, "heads": 2, "context": 40},
        "task": {"beams": 2},
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
        "train": {"objective": "seq2seq", "steps": 150, "batch_tokens": 400, "matmul": "torch", "validate_every": 50},
    }
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values} if values is not None else {}
    outcome = zhixing.train(recipe, run)
    assert isinstance(outcome, RecordOutcome)
    return outcome


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordOutcome:
    return train(data, tmp_path_factory.mktemp("runs") / "run", task={"beams": 2, "label_smoothing": 0.1},
                 model={"depth": 1, "width": 32, "heads": 2, "context": 40, "dropout": 0.05},
                 train={"average_decay": 0.9, "accumulate": 2})  # fmt: skip


def test_it_learns_to_translate_and_its_folder_writes_what_was_measured(finished: RecordOutcome, data: Path) -> None:
    pairs = sentences(30, 1)
    model = zhixing.load(finished.folder)
    written = model.generate([source for source, _ in pairs])
    measured = sacrebleu.corpus_bleu(written, [[target for _, target in pairs]]).score
    assert finished.score.measures["bleu"] == pytest.approx(measured)
    assert measured > 40
    assert finished.scores[0].interval is not None
    assert finished.scores[0].signature
    facts = json.loads((finished.folder / "facts.json").read_text())
    assert facts["data"]["train"]["records"] == 300


def test_transformers_opens_the_folder_and_writes_the_same(finished: RecordOutcome) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(finished.folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished.folder / "model")
    model = zhixing.load(finished.folder)
    sources = [source for source, _ in sentences(8, 3)]
    batch = tokenizer(sources, return_tensors="pt", padding=True)
    written = theirs.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == model.generate(sources)


def test_it_resumes_bit_for_bit_from_its_folder_alone(
    finished: RecordOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proof = resume_run(finished.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


@pytest.mark.parametrize("family", ["bart", "t5", "lstm-seq2seq", "gru-seq2seq"])
def test_other_families_learn_less_or_more_and_are_opened_again(family: str, data: Path, tmp_path: Path) -> None:
    model: dict[str, Any] = {"family": family}
    if family.endswith("seq2seq"):
        model |= {"heads": None, "hidden": 32, "attention": "bahdanau" if family[0] == "g" else None}
    outcome = train(data, tmp_path / "run", model=model, train={"steps": 40, "validate_every": 40})
    losses = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert outcome.score.loss < 0.8 * next(row["loss"] for row in losses if row["kind"] == "train")
    assert isinstance(zhixing.load(outcome.folder).generate("red cat"), str)


def test_a_run_goes_on_from_another_model(finished: RecordOutcome, data: Path, tmp_path: Path) -> None:
    outcome = train(
        data, tmp_path / "run", tokenizer=None, optimizer={"learning_rate": 1e-5},
        model={"start": str(finished.folder), "depth": 4, "width": None, "heads": None},
        train={"steps": 3, "validate_every": 3, "save_every": 1},
    )  # fmt: skip
    assert outcome.score.measures["bleu"] == pytest.approx(finished.score.measures["bleu"], abs=10)
    assert outcome.score.loss == pytest.approx(finished.score.loss, abs=0.1)
    facts = json.loads((outcome.folder / "facts.json").read_text())
    assert facts["model"]["encoder"]["dropout"] == 0.05
    assert facts["model"]["encoder"]["context"] == 40
    proof = resume_run(outcome.folder, prove_first=True).proof  # with that model's dropout, not without
    assert proof is not None
    assert proof.losses > 0


@pytest.mark.parametrize("objective", ["span-corruption", "denoising"])
def test_spoiled_texts_are_mended_and_resumed_bit_for_bit(objective: str, data: Path, tmp_path: Path) -> None:
    outcome = train(
        data, tmp_path / "run", task=None, tokenizer={"vocab_size": 420},
        data={
            "paths": [str(data / "texts.jsonl")], "validation_paths": [], "columns": None, "validation_fraction": 0.2,
        },
        model={"family": "t5" if objective == "span-corruption" else "bart"},
        train={"objective": objective, "steps": 60, "validate_every": 20},
    )  # fmt: skip
    rows = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    measured = [row["loss"] for row in rows if row["kind"] == "validation"]
    assert measured[-1] < measured[0]
    proof = resume_run(outcome.folder, prove_first=True).proof
    assert proof is not None
    assert proof.losses > 0


WRONG = {
    "an empty source": ({"source": " ", "target": "x"}, r"bad.jsonl:9: .*source"),
    "an empty target": ({"source": "x", "target": ""}, r"bad.jsonl:9: .*target"),
    "no target": ({"source": "x"}, r"bad.jsonl:9: .*target"),
    "one line of a megabyte": ({"source": "x" * 1_000_000, "target": "y"}, r"bad.jsonl:9: a text of 1,000,000"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_said_before_training(fault: str, data: Path, tmp_path: Path) -> None:
    record, message = WRONG[fault]
    rows = [{"source": source, "target": target} for source, target in sentences(8, 4)]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, record])
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        train(data, tmp_path / "run", data={"paths": [str(tmp_path / "bad.jsonl")], "columns": None})
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_files_of_unequal_length_are_no_pairs(data: Path, tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (tmp_path / "t.de").write_text("eins\nzwei\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"t\.(en|de)") as caught:
        train(data, tmp_path / "run", data={"paths": [str(tmp_path / "t.en"), str(tmp_path / "t.de")]})
    assert caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_long_sides_are_cut_counted_and_said_or_refused(data: Path, tmp_path: Path) -> None:
    row = {"source": "red " * 200, "target": "rot " * 200}
    rows = [row, *({"source": source, "target": target} for source, target in sentences(20, 4))]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    paths = {
        "paths": [str(tmp_path / "long.jsonl")],
        "columns": None,
        "validation_paths": [],
        "validation_fraction": 0.3,
    }
    outcome = train(data, tmp_path / "run", data=paths, train={"steps": 1})
    assert json.loads((outcome.folder / "facts.json").read_text())["data"]["cut"] == 1
    with pytest.raises(BadInput, match=r"long.jsonl:1: a record [\d,]+ tokens longer than 40"):
        train(data, tmp_path / "other", data={**paths, "too_long": "refuse"})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"family": "marain"}}, "did you mean 'marian'"),
        ({"model": {"rope_theta": 5.0}}, "means nothing for an encoder-decoder"),
        ({"model": {"hidden": 5}}, "is of recurrent networks"),
        ({"model": {"family": "lstm-seq2seq", "heads": 2}}, "is of Transformers"),
        ({"model": {"tied": False}}, "head is tied"),
        ({"model": {"start": "t5-small", "depth": 2}}, "sizes are those of"),
        ({"task": {"focal": 2.0}}, "has no option 'focal'"),
        ({"task": {"noise": 0.1}}, "has no option 'noise'"),
        ({"model": {"width": 30, "heads": 4}}, "not a multiple of"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(build_recipe({"data": {"paths": ["x"]}, "train": {"objective": "seq2seq"}, **sections}))
