"""What tasks are measured by: records to scores, tags from entities, parts of the data, and the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from zhixing.core.errors import BadInput
from zhixing.data.gaps import SHOWN
from zhixing.data.problems import Problems
from zhixing.data.shapes.records import Answer, ImageText, Labelled, Pair, Question, Record, Tagged, Text
from zhixing.evaluation.metrics.registry import compare, score
from zhixing.evaluation.slices import by_language, by_length, subset
from zhixing.evaluation.task_measures import Measured, examples_of, joined, measured, tags_of, task_measure
from zhixing.evaluation.task_report import Evaluation, System, render_evaluation, rows_of, write_evaluation


def measure(task: str, records: list[Record], results: list[dict[str, Any] | None], **options: Any) -> Measured:
    how = task_measure(task)
    examples = examples_of(how, [(record, f"file:{number}") for number, record in enumerate(records, 1)])
    return measured(how, examples, results, settings={"resamples": 50}, **options)


def values(found: Measured) -> dict[str, float]:
    return {one.name: one.value for one in found.scores}


def labelled(count: int = 60) -> tuple[list[Record], list[dict[str, Any] | None], list[str], list[str]]:
    generator = np.random.default_rng(0)
    true = generator.choice(["bad", "good", "so-so"], count).tolist()
    said = [label if generator.random() < 0.7 else "good" for label in true]
    records: list[Record] = [
        Labelled(("文字" if k % 3 == 0 else "text ") * (k % 20 + 1), label) for k, label in enumerate(true)
    ]
    results: list[dict[str, Any] | None] = [
        {"prediction": label, "probability": float(generator.uniform(0.4, 1))} for label in said
    ]
    return records, results, true, said


def test_classify_is_scikit_learns() -> None:
    records, results, true, said = labelled()
    found = values(measure("classify", records, results))
    assert list(found) == ["accuracy", "macro_f1", "micro_f1", "mcc", "ece"]
    assert found["accuracy"] == pytest.approx(accuracy_score(true, said))
    assert found["macro_f1"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(true, said))


def test_a_row_without_a_result_is_wrong() -> None:
    records, results, true, said = labelled()
    results[3] = None
    said[3] = ""
    found = measure("classify", records, results)
    assert found.failed == 1
    assert values(found)["accuracy"] == pytest.approx(accuracy_score(true, said))
    assert "ece" not in values(found)  # one prediction has no probability


def test_several_labels() -> None:
    records: list[Record] = [Labelled("a", ("x", "y")), Labelled("b", "x")]
    found = values(measure("classify", records, [{"prediction": ["x", "y"]}, {"prediction": ["y"]}]))
    assert found["accuracy"] == 0.5
    assert "mcc" not in found


def test_tags_are_seqevals() -> None:
    sentences = [(("John", "Smith", "saw", "Paris"), ("B-PER", "I-PER", "O", "B-LOC")), (("A", "b"), ("O", "O"))]
    records: list[Record] = [Tagged(*one) for one in sentences]
    results: list[dict[str, Any] | None] = [
        {"prediction": [{"begin": 0, "end": 10, "type": "PER", "text": "John Smith"}]},
        {"prediction": [{"begin": 0, "end": 1, "type": "ORG", "text": "A"}]},
    ]
    found = measure("tag", records, results)
    said = [["B-PER", "I-PER", "O", "O"], ["B-ORG", "O"]]
    assert list(found.predictions) == said
    assert values(found)["entity_f1"] == pytest.approx(seqeval_f1([list(one[1]) for one in sentences], said))


def test_chinese_tags_and_parts_of_speech() -> None:
    tokens = tuple("张三在北京")
    text, places = joined(tokens)
    assert text == "张三在北京"
    entity = {"begin": 3, "end": 5, "type": "LOC"}
    assert tags_of([entity], places) == ["O", "O", "O", "B-LOC", "I-LOC"]
    records: list[Record] = [Tagged(("He", "runs"), ("PRON", "VERB"))]
    found = measure("tag", records, [{"prediction": [], "tags": ["PRON", "NOUN"]}])
    assert values(found) == {"tag_accuracy": 0.5}


@given(st.lists(st.text("ab中", min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_tags_from_any_entities_fit_the_tokens(tokens: list[str], data: st.DataObject) -> None:
    text, places = joined(tokens)
    for token, (begin, end) in zip(tokens, places, strict=True):
        assert text[begin:end] == token
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, len(text))), max_size=5))
    found = tags_of([{"begin": min(span), "end": max(span), "type": "X"} for span in spans], places)
    assert len(found) == len(tokens)


def test_answers_choose_their_definition() -> None:
    english: list[Record] = [Question("The cat sat.", "Who?", (Answer("The cat", 0),))]
    assert values(measure("answer", english, [{"prediction": "cat"}])) == {"squad_f1": 100, "squad_em": 100}
    chinese: list[Record] = [Question("猫坐在那里。", "谁？", (Answer("猫坐在", 0),))]
    assert values(measure("answer", chinese, [{"prediction": "猫"}]))["cmrc_f1"] == pytest.approx(50)
    none: list[Record] = [*english, Question("The cat sat.", "When?", ())]
    results: list[dict[str, Any] | None] = [{"prediction": "cat"}, {"prediction": None}]
    assert values(measure("answer", none, results))["squad2_f1"] == 100


def test_pairs() -> None:
    records: list[Record] = [Pair("ein Haus", "a house"), Pair("eine Katze", "a small cat")]
    results: list[dict[str, Any] | None] = [{"prediction": "a house"}, {"prediction": "a cat"}]
    for task, names in (
        ("translate", "bleu,chrf,ter"),
        ("summarize", "rougeL,rouge1,rouge2,rougeLsum"),
        ("rewrite", "chrf,exact_match"),
    ):
        expected = score(names, ["a house", "a cat"], ["a house", "a small cat"], resamples=0)
        assert values(measure(task, records, results)) == {one.name: one.value for one in expected}


def test_measures_can_be_named() -> None:
    records: list[Record] = [Pair("x", "a house"), Pair("y", "b")]
    found = measure("translate", records, [{"prediction": "a house"}, {"prediction": "b"}], names=["exact_match"])
    assert values(found) == {"exact_match": 1.0}


def test_wrong_tasks_and_empty_data() -> None:
    with pytest.raises(BadInput, match="did you mean 'classify'"):
        task_measure("clasify")
    with pytest.raises(BadInput, match="nothing to measure"):
        examples_of(task_measure("classify"), [])


def test_parts_are_scores_of_their_examples() -> None:
    records, results, true, said = labelled()
    found = measure("classify", records, results)
    for one in found.scores[:4]:
        chosen = [k for k in range(len(true)) if k % 3 == 0]
        alone = score(one.name, [said[k] for k in chosen], [true[k] for k in chosen], resamples=0)[0]
        assert subset(one, chosen).value == pytest.approx(alone.value)
    texts = [example.shown for example in found.examples]
    lengths = by_length(found.scores[0], texts, resamples=20)
    assert sum(part.score.n for part in lengths) == len(texts)
    assert len(lengths) == 5
    languages = by_language(found.scores[0], texts, resamples=0)
    assert [part.title.split()[0] for part in languages] == ["Chinese", "other"]
    assert by_language(found.scores[0], ["only English"] * 60) == []
    assert len(by_length(found.scores[0], ["same"] * 60)) == 1


def evaluation(second: bool = False) -> Evaluation:
    records, results, _, _ = labelled()
    records[0] = Labelled("<script>alert(1)</script> & 知行", "bad")
    results[0] = {"prediction": "good", "probability": 1.0}
    first = measure("classify", records, results)
    systems = [System("one", first, 1.5)]
    comparisons = []
    if second:
        better = [{"prediction": example.reference, "probability": 0.9} for example in first.examples]
        systems.append(System("two", measure("classify", records, better), 2.5))
        comparisons = compare("accuracy", first.predictions, systems[1].measured.predictions, first.references)
    return Evaluation("classify", ("dev.tsv",), tuple(systems), tuple(comparisons), ("a note",))


def test_the_page_of_one_system() -> None:
    page = render_evaluation(evaluation())
    for part in ("accuracy", "准确率", "a note", "Worst cases", "by length of the input", "by language", "60 examples"):
        assert part in page
    assert '<svg class="confusion"' in page
    assert '<svg class="calibration"' in page
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_the_page_of_two_systems() -> None:
    page = render_evaluation(evaluation(second=True))
    assert "two is better" in page
    assert "falls furthest behind" not in page  # the second is never worse
    swapped = evaluation(second=True)
    other = Evaluation("classify", ("dev.tsv",), swapped.systems[::-1], swapped.comparisons)
    assert "Where one falls furthest behind two" in render_evaluation(other)


def test_the_files(tmp_path: Path) -> None:
    found = evaluation(second=True)
    report = write_evaluation(tmp_path / "e", found)
    assert report.is_file()
    result = json.loads((tmp_path / "e" / "result.json").read_text(encoding="utf-8"))
    assert result["examples"] == 60
    assert result["systems"][1]["scores"][0]["value"] == 1.0
    assert result["systems"][0]["by"]["length"]
    lines = (tmp_path / "e" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 60
    assert json.loads(lines[0])["prediction"] == "good"
    assert (tmp_path / "e" / "predictions-2.jsonl").is_file()
    assert rows_of(found.systems[0].measured)[0]["accuracy"] == 0.0


def test_several_captions_of_a_picture_are_one_example() -> None:
    records: list[Record] = [
        ImageText(Path("a.png"), "a red circle"),
        ImageText(b"other", "two squares"),
        ImageText(Path("a.png"), "a disc"),
    ]
    found = measure("describe", records, [{"prediction": "a disc"}, {"prediction": "two triangles"}])
    assert [one.name for one in found.scores] == ["bleu", "chrf", "exact_match"]
    assert values(found)["exact_match"] == 0.5
    assert found.references == (["a red circle", "a disc"], ["two squares"])
    first = score("bleu", ["a disc", "two triangles"], [["a red circle", "a disc"], ["two squares"]], resamples=0)
    assert values(found)["bleu"] == first[0].value
    assert [row.get("image") for row in rows_of(found)] == ["a.png", None]


def test_extraction_compares_values_of_fields() -> None:
    right = {"name": "Anna", "age": 31, "towns": ["Paris", "Rome"], "note": None}
    records: list[Record] = [Pair("Anna ...", json.dumps(right)), Pair("nobody", "{}")]
    said = {"name": "Anna ", "age": "31", "towns": ["Rome"], "job": ""}
    found = measure("extract", records, [{"prediction": said}, None])
    # right: Anna and Rome; said: 3 values (what is empty is none); true: 4 values (of which a number is no text)
    assert values(found) == {
        "field_f1": pytest.approx(2 * 2 / (3 + 4)), "json_exact": 0.0, "json_valid": 0.5,
    }  # fmt: skip
    with pytest.raises(BadInput, match="is no JSON") as caught:
        measure("extract", [Pair("a", "{broken")], [None])
    assert caught.value.where == "file:1"
    page = render_evaluation(Evaluation("extract", ("data",), (System("model", found),)))
    assert "towns" in page


def test_gaps_are_guessed_without_regard_to_case() -> None:
    records: list[Record] = [Pair("[MASK] is the capital", "Paris"), Pair("a ____ film", "good")]
    results: list[dict[str, Any] | None] = [
        {"prediction": "", "gaps": [{"rome": 0.4, "Paris": 0.3, "paris": 0.1}]},
        {"prediction": "", "gaps": [{"bad": 1}]},
    ]
    assert values(measure("fill", records, results)) == {"top@1": 0.0, "top@5": 0.5}
    with pytest.raises(BadInput, match="2 gaps where one is expected"):
        measure("fill", [Pair("__ and __", "a b")], [None])


def test_a_word_of_a_text_is_hidden() -> None:
    how, problems = task_measure("fill"), Problems()
    texts = ["Anna lives in Paris.", "知行合一", "1234", "a __ gap"]
    found = examples_of(how, [(Text(text), f"f:{k}") for k, text in enumerate(texts)], problems)
    assert len(found) == 2
    assert problems.counts["misfit"] == 2
    for example, text in zip(found, texts, strict=False):
        assert example.row["text"].replace(SHOWN, example.reference[0]).casefold() == text.casefold()
    assert len(found[1].reference[0]) == 1  # one character, not a whole line
    assert len(examples_of(how, [(Text("\n".join(texts)), "f:1")])) == 2  # each line by itself
