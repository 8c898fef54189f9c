"""How good the tasks are on development data: models trained for them, vectors, and a chat model by prompt.

    python benchmarks/tasks.py --data DATA                             all that needs no trained model
    python benchmarks/tasks.py --data DATA --only sentiment-en,search
    python benchmarks/tasks.py --data DATA --trained sentiment-en=runs/sst2 --trained answers-zh=runs/cmrc
    python benchmarks/tasks.py --data DATA --rows 100 --json           so many rows of a fixed shuffle

DATA is a folder with the public sets, named as in docs/tasks.md. Each line says how many rows were used.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.progress import set_quiet
from zhixing.data.pictures import make_pictures
from zhixing.data.shapes import read
from zhixing.data.shapes.schemes import chunks
from zhixing.evaluation.metrics.registry import score
from zhixing.tasks.answer import AnswerTask
from zhixing.tasks.base import Fault, Row, Task, run_rows
from zhixing.tasks.classify import Classify
from zhixing.tasks.describe import Describe
from zhixing.tasks.extract import Extract
from zhixing.tasks.summarize import Summarize
from zhixing.tasks.tag import HeadTagger, Tag
from zhixing.tasks.translate import Translate

CHAT, VECTORS = "smollm2-135m", "minilm"
TOPICS = ["财经", "房产", "股票", "教育", "科学", "社会", "政治", "体育", "游戏", "娱乐"]


@dataclass(frozen=True)
class Examples:
    """Rows with what is right for each, the measures, and their options."""

    rows: list[Any]
    right: list[Any]
    measures: str
    options: dict[str, Any]


def lines(path: Path) -> Iterator[str]:
    """Yields the lines of a file, packed or not."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    for line in content.decode("utf-8").split("\n"):
        yield line.rstrip("\r")


def labelled(pairs: Iterator[tuple[str, str]], names: dict[str, str]) -> Examples:
    texts, labels = zip(*((text, names.get(label, label)) for text, label in pairs if text.strip()), strict=True)
    return Examples([{"text": text} for text in texts], list(labels), "accuracy,macro_f1", {})


def sst2(data: Path) -> Examples:
    rows = (line.rpartition("\t") for line in lines(data / "classification/sst2/dev.tsv") if line)
    return labelled(((text, label) for text, _, label in rows), {"0": "negative", "1": "positive"})


def chnsenticorp(data: Path) -> Examples:
    rows = (line.partition("\t") for line in list(lines(data / "classification/chnsenticorp/dev.tsv"))[1:])
    return labelled(((text, label) for label, _, text in rows), {"0": "差评", "1": "好评"})


def thucnews(data: Path) -> Examples:
    rows = (line.rpartition("\t") for line in lines(data / "classification/thucnews-titles/dev.txt.gz"))
    return labelled(((text, label) for text, _, label in rows), {str(n): name for n, name in enumerate(TOPICS)})


def banking(data: Path) -> list[tuple[str, str]]:
    with gzip.open(data / "classification/banking77/train.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    return rows


def intents(data: Path) -> Examples:
    return labelled(iter([(text, label.replace("_", " ")) for text, label in banking(data)]), {})


def sentences(path: Path, column: int = -1) -> list[tuple[list[str], list[str]]]:
    found, words, tags = [], [], []
    for line in [*lines(path), ""]:
        cells = line.split()
        if cells and cells[0] != "-DOCSTART-":
            words.append(cells[0])
            tags.append(cells[column])
        elif words:
            found.append((words, tags))
            words, tags = [], []
    return found


def conll(data: Path) -> Examples:
    found = sentences(data / "tagging/conll2003/eng.testa.gz")
    return Examples([words for words, _ in found], [tags for _, tags in found], "entity_f1", {})


def resume(data: Path) -> Examples:
    found = sentences(data / "tagging/resume-zh/dev.char.bmes")
    return Examples([words for words, _ in found], [tags for _, tags in found], "entity_f1", {})


def names(data: Path) -> Examples:
    """Sentences with their people, organisations and places, as what is to be extracted."""
    rows, right = [], []
    for words, tags in sentences(data / "tagging/conll2003/eng.testa.gz"):
        value: dict[str, list[str]] = {"people": [], "organizations": [], "locations": []}
        for one in chunks(tags):
            key = {"PER": "people", "ORG": "organizations", "LOC": "locations"}.get(one.type)
            if key:
                value[key].append(" ".join(words[one.begin : one.end]))
        if any(value.values()) and len(words) > 6:
            rows.append({"text": " ".join(words)})
            right.append(value)
    return Examples(rows, right, "field_f1,json_valid", {})


def captions(data: Path) -> Examples:
    """Generated pictures of shapes, with combinations that training on the others (recipes/shapes-captions.yaml) never
    shows."""
    folder = Path(tempfile.mkdtemp(prefix="zhixing-shapes-"))
    made = make_pictures(folder / "shapes", 1, unseen=500)
    found = [placed.record for placed in read(made.unseen, shape="image_text")]
    return Examples(
        [{"image": str(one.image)} for one in found], [one.text for one in found], "exact_match,bleu,chrf", {}
    )


def questions(path: Path, measures: str) -> Examples:
    rows, right = [], []
    for article in json.loads("\n".join(lines(path)))["data"]:
        for paragraph in article["paragraphs"]:
            for one in paragraph["qas"]:
                rows.append({"question": one["question"], "context": paragraph["context"]})
                right.append([answer["text"] for answer in one["answers"]])
    return Examples(rows, right, measures, {})


def multi30k(data: Path) -> Examples:
    folder = data / "translation/multi30k-en-de"
    rows = [{"text": line} for line in lines(folder / "val.en.gz") if line]
    return Examples(rows, [line for line in lines(folder / "val.de.gz") if line], "bleu,chrf", {})


def tatoeba(data: Path) -> Examples:
    pairs = [line.split("\t")[:2] for line in lines(data / "translation/tatoeba-en-zh/pairs.tsv.gz") if line]
    random.Random(0).shuffle(pairs)
    return Examples(
        [{"text": pair[0]} for pair in pairs[:1000]],
        [pair[1] for pair in pairs[:1000]],
        "bleu,chrf",
        {"tokenize": "zh"},
    )


def dialogsum(data: Path) -> Examples:
    found = [json.loads(line) for line in lines(data / "summarisation/dialogsum/dialogsum.dev.jsonl.gz") if line]
    return Examples(
        [{"text": one["dialogue"]} for one in found], [one["summary"] for one in found], "rouge1,rougeL", {}
    )


def csl(data: Path) -> Examples:
    found = [line.split("\t") for line in lines(data / "summarisation/csl-zh-titles/dev.tsv.gz") if line]
    return Examples([{"text": one[1]} for one in found], [one[2] for one in found], "rouge1,rougeL", {})


def first(examples: Examples, count: int | None) -> Examples:
    """Returns so many rows of a fixed shuffle."""
    order = list(range(len(examples.rows)))
    random.Random(0).shuffle(order)
    order = order[:count]
    rows, right = [examples.rows[index] for index in order], [examples.right[index] for index in order]
    return Examples(rows, right, examples.measures, examples.options)


def work(task: Task, rows: Sequence[Row]) -> list[Any]:
    """Runs a task; a row that cannot be worked on counts as an empty result."""
    results: list[Any] = []
    for start in range(0, len(rows), task.chunk):
        results += run_rows(task, list(rows[start : start + task.chunk]))
    if bad := sum(isinstance(one, Fault) for one in results):
        print(f"{bad} rows of {len(rows)} could not be worked on", file=sys.stderr)
    return ["" if isinstance(one, Fault) else one.to_json()["prediction"] for one in results]


def plain(task: Task, examples: Examples) -> list[Any]:
    found = work(task, examples.rows)
    return score(examples.measures, found, examples.right, options=examples.options, resamples=1000)


def named(labels: Sequence[str]) -> Callable[[Task, Examples], list[Any]]:
    """Measures labels; a classifier that was trained on the set's file says numbers, which stand for these names."""
    names = {str(number): name for number, name in enumerate(labels)}

    def measure(task: Task, examples: Examples) -> list[Any]:
        found = [names.get(label, label) for label in work(task, examples.rows)]
        return score(examples.measures, found, examples.right, options=examples.options, resamples=1000)

    return measure


def tagged(task: Tag, examples: Examples) -> list[Any]:
    """Entities over words that are cut already: a tagger's tags; of a chat model, the words that its entities cover."""
    if isinstance(task.tagger, HeadTagger):
        tags = [one for one, _ in task.tagger.tags(examples.rows)]
    else:
        gap = "" if all(len(word) == 1 for word in examples.rows[0]) else " "
        found = work(task, [{"text": gap.join(words)} for words in examples.rows])
        tags = [covered(words, gap, entities or []) for words, entities in zip(examples.rows, found, strict=True)]
    return score(examples.measures, tags, examples.right, resamples=1000)


SHORT = {"person": "PER", "organization": "ORG", "location": "LOC", "姓名": "NAME", "组织": "ORG", "职务": "TITLE"}


def covered(words: Sequence[str], gap: str, entities: Sequence[dict[str, Any]]) -> list[str]:
    tags, at = ["O"] * len(words), 0
    for index, word in enumerate(words):
        for one in entities:
            if at < one["end"] and one["begin"] < at + len(word):
                inside = at > one["begin"]
                tags[index] = f"{'I' if inside else 'B'}-{SHORT[one['type']]}"
        at += len(word) + len(gap)
    return tags


def search(data: Path, model: str, count: int | None) -> list[tuple[str, float]]:
    """Recall of the same intent among 5, and reciprocal rank: each of 1,000 questions sought among all others."""
    from zhixing.tasks.search import Index, Item

    rows = banking(data)
    queries, texts = rows[: count or 1000], rows[1000:]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", model)
        started = time.monotonic()
        index.add(Item(str(number), text) for number, (text, _) in enumerate(texts))
        seconds = time.monotonic() - started
        print(f"index of {len(texts):,} texts in {seconds:.1f} s, {len(texts) / seconds:.0f} a second", file=sys.stderr)
        for mode in ("semantic", "keyword", "hybrid"):
            started = time.monotonic()
            hits = [index.search(text, 5, mode) for text, _ in queries]
            each = 1000 * (time.monotonic() - started) / len(queries)
            labels = [[texts[int(hit.key)][1] for hit in one] for one in hits]
            recall = sum(label in one for one, (_, label) in zip(labels, queries, strict=True)) / len(queries)
            first_right = sum(one[:1] == [label] for one, (_, label) in zip(labels, queries, strict=True)) / len(
                queries
            )
            found += [(f"{mode} recall@5", 100 * recall), (f"{mode} recall@1", 100 * first_right)]
            found.append((f"{mode} ms a query", each))
    return found


class Case:
    """A task on a set: how to read it, and how each kind of model does it."""

    def __init__(
        self,
        read: Callable[[Path], Examples],
        trained: Callable[[str], Any],
        others: dict[str, Callable[[], Any]],
        measure: Callable[[Any, Examples], list[Any]] = plain,
    ) -> None:
        self.read, self.trained, self.others, self.measure = read, trained, others, measure


def labels_case(read: Callable[[Path], Examples], labels: Sequence[str] | None) -> Case:
    def chat(calibrate: bool) -> Callable[[], Any]:
        return lambda: Classify(CHAT, labels, calibrate=calibrate)

    others = {f"{CHAT} by prompt": chat(True), f"{CHAT} by prompt, not calibrated": chat(False)}
    if labels and labels[0].isascii():
        others[f"{VECTORS} by vectors"] = lambda: Classify(VECTORS, labels)
    return Case(read, Classify, others if labels else {}, named(labels or ()))


PEOPLE = "people:[string], organizations:[string], locations:[string]"


def people(ref: str) -> Extract:
    return Extract(PEOPLE, ref, max_tokens=120)


CASES = {
    "sentiment-en": labels_case(sst2, ["negative", "positive"]),
    "sentiment-zh": labels_case(chnsenticorp, ["差评", "好评"]),
    "topics-zh": labels_case(thucnews, TOPICS),
    "entities-en": Case(conll, Tag, {CHAT: lambda: Tag(CHAT, ["person", "organization", "location"])}, tagged),
    "entities-zh": Case(resume, Tag, {CHAT: lambda: Tag(CHAT, ["姓名", "组织", "职务"])}, tagged),
    "answers-en": Case(
        lambda data: questions(data / "question-answering/xquad/xquad.en.first-half.json.gz", "squad_f1,squad_em"),
        AnswerTask, {CHAT: lambda: AnswerTask(CHAT)},
    ),
    "answers-zh": Case(
        lambda data: questions(data / "question-answering/cmrc2018-trial/cmrc2018_trial.json.gz", "cmrc_f1,cmrc_em"),
        AnswerTask, {CHAT: lambda: AnswerTask(CHAT)},
    ),
    "translation-en-de": Case(multi30k, Translate, {CHAT: lambda: Translate(CHAT, "en", "de")}),
    "translation-en-zh": Case(tatoeba, Translate, {CHAT: lambda: Translate(CHAT, "en", "zh")}),
    "summaries-en": Case(dialogsum, Summarize, {CHAT: lambda: Summarize(CHAT, "short")}),
    "titles-zh": Case(csl, Summarize, {CHAT: lambda: Summarize(CHAT, "title")}),
    "extraction-en": Case(names, people, {CHAT: lambda: people(CHAT)}),
    "captions-en": Case(captions, Describe, {}),
}  # fmt: skip


def main() -> None:
    """Runs what was asked for and prints a line per figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", help="cases, with commas between")
    parser.add_argument("--trained", action="append", default=[], metavar="CASE=MODEL")
    parser.add_argument("--rows", type=int, help="rows of each set; all when not given")
    parser.add_argument("--no-prompt", action="store_true", help="only trained models and vectors")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    set_quiet(True)
    trained = dict(pair.partition("=")[::2] for pair in given.trained)
    wanted = given.only.split(",") if given.only else [*CASES, "intents-en", "search-en"]

    def show(case: str, who: str, rows: int, measure: str, value: float, ends: list[float], seconds: float) -> None:
        ends = [round(end, 2) for end in ends]
        if given.json:
            values = {"case": case, "model": who, "rows": rows, "measure": measure, "value": round(value, 3)}
            print(json.dumps({**values, "interval": ends, "rows_per_second": round(rows / seconds, 2)}), flush=True)
        else:
            between = f"[{ends[0]}, {ends[1]}]" if ends else ""
            line = f"{case:<18} {who:<40} n = {rows:<6,} {measure:<18} {value:8.2f} {between:<18}"
            print(f"{line} {rows / seconds:.1f} rows/s", flush=True)

    for name in wanted:
        if name == "search-en":
            started = time.monotonic()
            for measure, value in search(given.data, trained.get(name, VECTORS), given.rows):
                show(
                    name, trained.get(name, VECTORS), given.rows or 1000, measure, value, [], time.monotonic() - started
                )
            continue
        if name == "intents-en":
            known = sorted({label.replace("_", " ") for _, label in banking(given.data)})
            case = Case(intents, Classify, {f"{VECTORS} by vectors": lambda known=known: Classify(VECTORS, known)})
        else:
            case = CASES[name]
        makers: dict[str, Callable[[], Any]] = {}
        if name in trained:
            makers[trained[name]] = lambda ref=trained[name], case=case: case.trained(ref)
        makers |= {who: make for who, make in case.others.items() if not given.no_prompt or CHAT not in who}
        everything = case.read(given.data)
        for who, make in makers.items():
            task = make()
            examples = first(everything, given.rows)
            started = time.monotonic()
            for one in case.measure(task, examples):
                scale = 100 if getattr(one, "top", 100) == 1 else 1
                ends = [] if one.interval is None else [scale * one.interval.low, scale * one.interval.high]
                show(name, who, len(examples.rows), one.name, scale * one.value, ends, time.monotonic() - started)


if __name__ == "__main__":
    main()
