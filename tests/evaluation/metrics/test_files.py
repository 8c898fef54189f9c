"""Scoring files: every form that is read, and one message with file and line for everything that cannot be."""

import json

import pytest

from zhixing.core.errors import BadInput, MissingResource
from zhixing.evaluation.metrics.files import score_files
from zhixing.evaluation.metrics.registry import score


def run(names, predictions, *references, **options):
    return score_files(names, predictions, references, **{"resamples": 20, "confidence": 0.95, "seed": 0, **options})


def value(*arguments, **options):
    return [one.value for one in run(*arguments, **options)[0]]


def put(path, content):
    if not isinstance(content, str | bytes):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


TEXTS = ["the cat sat", "", "a dog"]
RIGHT = ["the cat sat down", "x", "a dog"]
EXPECTED = [one.value for one in score("chrf,squad_f1,exact_match", TEXTS, RIGHT, resamples=0)]


@pytest.mark.parametrize("form", ["txt", "crlf", "jsonl", "strings", "csv", "json", "named", "hidden table"])
def test_forms_of_texts(tmp_path, form):
    files = []
    for name, texts in (("prediction", TEXTS), ("reference", RIGHT)):
        path = tmp_path / f"{name}.{form}"
        if form in ("txt", "crlf"):
            end = "\r\n" if form == "crlf" else "\n"
            put(path.with_suffix(".txt"), "".join(text + end for text in texts))
            files.append(path.with_suffix(".txt"))
        elif form == "jsonl":
            files.append(put(path, [{"id": k, name: text} for k, text in enumerate(texts)]))
        elif form == "strings":
            files.append(put(path.with_suffix(".jsonl"), texts))
        elif form == "csv":
            files.append(put(path, f"n,{name}\n" + "".join(f'{k},"{text}"\n' for k, text in enumerate(texts))))
        elif form == "json":
            files.append(put(path, json.dumps(texts)))
        elif form == "named":
            files.append(put(path.with_suffix(".json"), json.dumps({f"q{k}": text for k, text in enumerate(texts)})))
        else:
            files.append(put(path.with_suffix(".txt"), "".join(text.replace(" ", "\t") + "\n" for text in texts)))
    found = value("chrf", *files) + value("squad_f1", *files) + value("exact_match", *files)
    assert found == pytest.approx(EXPECTED)


def test_one_file_may_hold_both(tmp_path):
    both = put(tmp_path / "both.jsonl", [{"output": a, "gold": b} for a, b in zip(TEXTS, RIGHT, strict=True)])
    assert value("exact_match", both, both) == EXPECTED[2:]
    assert value("exact_match", both, both, fields=("gold", "gold")) == [1]


def test_several_files_of_references(tmp_path):
    files = [put(tmp_path / f"{k}.txt", "\n".join(texts) + "\n") for k, texts in enumerate((TEXTS, RIGHT, TEXTS[::-1]))]
    both = [[a, b] for a, b in zip(RIGHT, TEXTS[::-1], strict=True)]
    (bleu,) = run("bleu", *files)[0]
    assert bleu.value == score("bleu", TEXTS, both)[0].value
    assert "nrefs:2" in bleu.signature


def test_labels_and_confidences(tmp_path):
    right = put(tmp_path / "right.txt", "a\nb\n1\n")
    assert value("accuracy", put(tmp_path / "p.txt", "a\na\n1\n"), right) == pytest.approx([2 / 3])
    rows = [{"label": "a", "confidence": 1.0}, {"label": "b", "confidence": 0.5}, {"label": 1, "confidence": 1.0}]
    assert value("accuracy", put(tmp_path / "p.jsonl", rows), right) == [1]
    assert value("ece", put(tmp_path / "p.jsonl", rows), right) == pytest.approx([0.5 / 3])
    by_label = [{"label": "", "probabilities": {"a": 0.7, "b": 0.3}} for _ in range(3)]
    assert value("ece", put(tmp_path / "q.jsonl", by_label), right) == pytest.approx([abs(1 / 3 - 0.7)])
    assert value("ece", put(tmp_path / "q.txt", "a\t1\nb\t0.5\n1\t1.0\n"), right) == pytest.approx([0.5 / 3])
    several = [{"labels": ["a", "b"]}, {"labels": []}]
    assert value(
        "micro_f1", put(tmp_path / "m.jsonl", several), put(tmp_path / "n.jsonl", several), fields=("labels", None)
    ) == [1]


def test_tags(tmp_path):
    gold = put(tmp_path / "gold.conll", "-DOCSTART- O\n\nEU NNP B-ORG\nsays VB O\n\nPeter NNP B-PER\n")
    ours = put(tmp_path / "ours.txt", "B-ORG O\nO\n")
    rows = put(tmp_path / "ours.jsonl", [{"tags": ["B-ORG", "O"]}, {"tags": "B-PER"}])
    assert value("entity_f1", ours, gold) == pytest.approx([2 / 3])
    assert value("entity_f1", rows, gold) == [1]
    plain = put(tmp_path / "plain.txt", "B-ORG\nO\n\nB-LOC\n")
    assert value("entity_f1", plain, gold) == pytest.approx([1 / 2])


def test_rankings(tmp_path):
    run_file = put(tmp_path / "x.run", "q1 Q0 d1 1 0.9 me\nq1 Q0 d2 2 0.8 me\nq2 Q0 d9 1 0.5 me\n")
    judged = put(tmp_path / "x.qrels", "q2 0 d9 2\nq1 0 d2 1\nq1 0 d7 0\n")
    assert value("mrr", run_file, judged) == pytest.approx([0.75])
    rows = put(tmp_path / "r.jsonl", [{"id": "q1", "ranking": ["d1", "d2"]}, {"id": "q2", "ranking": ["d9"]}])
    right = put(tmp_path / "g.jsonl", [{"id": "q2", "relevant": {"d9": 2}}, {"id": "q1", "relevant": ["d2"]}])
    assert value("mrr", rows, right) == pytest.approx([0.75])


SQUAD = {"data": [{"paragraphs": [{"context": "c", "qas": [
    {"id": "q1", "question": "?", "answers": [{"text": "Paris", "answer_start": 0}]},
    {"id": "q2", "question": "?", "answers": [], "is_impossible": True},
]}]}]}  # fmt: skip


def test_squad_files(tmp_path):
    gold = put(tmp_path / "dev.json", json.dumps(SQUAD))
    ours = put(tmp_path / "ours.json", json.dumps({"q2": "", "q1": "in Paris"}))
    assert value("squad2", ours, gold) == pytest.approx([50, 100 * (1 + 2 / 3) / 2])
    rows = [
        {"id": "q1", "answer": "Paris", "no_answer_probability": 0.1},
        {"id": "q2", "answer": "x", "no_answer_probability": 0.9},
    ]
    (exact, _), _, _ = run("squad2", put(tmp_path / "ours.jsonl", rows), gold)
    assert exact.value == 50
    assert exact.details["best"] == 100
    with pytest.raises(BadInput, match=r"no prediction for 1 of 2 example\(s\), first 'q2'"):
        run("squad2", put(tmp_path / "less.jsonl", rows[:1]), gold)
    with pytest.raises(BadInput, match=r"dev\.json:1: no accepted answer") as error:
        run("squad", put(tmp_path / "full.jsonl", rows), gold)
    assert "squad2_em" in error.value.remedy


def test_losses_and_texts_without_references(tmp_path):
    rows = put(tmp_path / "x.jsonl", [{"nats": 6.0, "tokens": 3, "bytes": 10}, {"nats": 2, "tokens": 1, "bytes": 4}])
    assert value("perplexity", rows) == pytest.approx([2.718281828**2], rel=1e-6)
    assert value("length", put(tmp_path / "x.txt", "a b\nc\n")) == [1.5]


def test_against_another_system(tmp_path):
    files = [put(tmp_path / f"{name}.txt", "\n".join(texts) + "\n") for name, texts in
             (("ours", RIGHT), ("gold", RIGHT), ("other", TEXTS))]  # fmt: skip
    _, (pair,), _ = run("exact_match", files[0], files[1], against=files[2])
    assert (pair.first, pair.second) == (pytest.approx(1 / 3), 1)
    with pytest.raises(BadInput, match=r"gold\.txt:3: 3 example"):
        run("exact_match", files[0], files[1], against=put(tmp_path / "less.txt", "a\nb\n"))


BAD = {
    "unequal": ("bleu", "a\nb\nc\n", "a\nb\n", "p.txt:3: 3 example"),
    "unequal the other way": ("bleu", "a\n", "a\nb\n", "g.txt:2: 2 example"),
    "empty": ("bleu", "", "a\n", "p.txt: the file is empty"),
    "empty references": ("bleu", "a\n", "", "g.txt: the file is empty"),
    "not UTF-8": ("bleu", b"line\n" * 200 + b"\xff\n", "a\n", "p.txt:201: not UTF-8"),
    "empty label": ("accuracy", "a\n\n", "a\nb\n", "p.txt:2: an empty line where a label"),
    "no probability": ("ece", "a 0.5\nb\n", "a\nb\n", "p.txt:2: a label and its probability"),
    "probability beyond 1": ("ece", "a 0.5\nb 3\n", "a\nb\n", "p.txt:2: a confidence of 3"),
    "tags": ("entity_f1", "O O\nO\n", "O O\nO O\n", r"p.txt:2: 1 predicted tag\(s\) but 2"),
    "no tag": ("entity_f1", "O X\nO\n", "O O\nO\n", "p.txt:1: 'X' is not a tag"),
    "no run": ("mrr", "q1 d1\n", "q1 0 d1 1\n", "p.txt:1: 'q1 d1' is not a line of a run"),
    "losses": ("perplexity", "3\n", None, "p.txt:1: JSON Lines with nats"),
}


@pytest.mark.parametrize(("names", "ours", "gold", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, names, ours, gold, message):
    files = [put(tmp_path / "p.txt", ours)] + ([put(tmp_path / "g.txt", gold)] if gold is not None else [])
    with pytest.raises(BadInput, match=message):
        run(names, *files)


BAD_ROWS = {
    "broken JSON": ('{"prediction": "a"}\n{broken\n', "p.jsonl:2: not valid JSON"),
    "another field": ('{"prediction": "a"}\n{"text": "b"}\n', "p.jsonl:2: no field 'prediction'"),
    "no usual name": ('{"foo": "a", "bar": 1}\n{"foo": "b", "bar": 1}\n', "p.jsonl:1: no field has a usual name"),
    "null": ('{"prediction": "a"}\n{"prediction": null}\n', "p.jsonl:2: 'prediction' is null"),
    "an object": ('{"prediction": "a"}\n{"prediction": {"x": 1}}\n', "p.jsonl:2: the prediction is {'x': 1}"),
    "the same id twice": ('{"id": 1, "prediction": "a"}\n{"id": 1, "prediction": "a"}\n', "p.jsonl:2: the id '1'"),
    "another id": ('{"id": 0, "prediction": "a"}\n{"id": 1, "prediction": "a"}\n{"id": 7, "prediction": "a"}\n',
                   "p.jsonl:3: the id '7' is not among"),
}  # fmt: skip


@pytest.mark.parametrize(("ours", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows(tmp_path, ours, message):
    gold = put(tmp_path / "g.jsonl", [{"id": 0, "reference": "a"}, {"id": 1, "reference": "b"}])
    with pytest.raises(BadInput, match=message):
        run("exact_match", put(tmp_path / "p.jsonl", ours), gold)


def test_other_mistakes(tmp_path):
    texts = put(tmp_path / "p.txt", "a\nb\n")
    rows = put(tmp_path / "p.jsonl", [{"prediction": "a"}, {"prediction": "b"}])
    with pytest.raises(BadInput, match="need different files"):
        run("bleu,accuracy", texts, texts)
    with pytest.raises(BadInput, match="bleu needs a file of references") as error:
        run("bleu", texts)
    assert error.value.remedy == "zhixing score bleu PREDICTIONS REFERENCES"
    with pytest.raises(BadInput, match="length takes no references"):
        run("length", texts, texts)
    with pytest.raises(MissingResource, match="no such file"):
        run("bleu", tmp_path / "none", texts)
    with pytest.raises(BadInput, match="no field 'predicton'") as error:
        run("bleu", rows, texts, fields=("predicton", None))
    assert "did you mean 'prediction'?" in error.value.remedy
