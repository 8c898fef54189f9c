"""Public data sets, where they are on this machine: every one is read rightly by its shape."""

import os
from pathlib import Path

import pytest

from zhixing.core.errors import BadInput
from zhixing.data import shapes
from zhixing.data.doctor import KINDS, examine, write_mended
from zhixing.data.problems import Problems

FOLDER = Path(os.environ.get("ZHIXING_DATA_SETS", "data-sets"))
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="ZHIXING_DATA_SETS names no folder of data sets"),
]

ALPACA = {"prompt": "instruction", "response": "output", "input": "input"}
TURNS = {"prompt": "conversations", "chosen": "chosen", "rejected": "rejected"}
KTO = {"messages": "messages", "label": "label"}
TOOLS = {"messages": "conversations", "tools": "tools"}
COMPLETION = {"prompt": "prompt", "response": "completion"}
SETS = {  # file: shape, records, columns, problems that cost a record
    "chat/llamafactory-demos/alpaca_en_demo.json.gz": ("chat", 999, ALPACA, 0),
    "chat/llamafactory-demos/alpaca_zh_demo.json.gz": ("chat", 1000, ALPACA, 0),
    "chat/llamafactory-demos/identity.json": ("chat", 91, ALPACA, 0),
    "chat/llamafactory-demos/dpo_en_demo.json.gz": ("preference", 300, TURNS, 0),
    "chat/llamafactory-demos/dpo_zh_demo.json.gz": ("preference", 300, TURNS, 0),
    "chat/llamafactory-demos/kto_en_demo.json.gz": ("unpaired_preference", 300, KTO, 0),
    "chat/llamafactory-demos/glaive_toolcall_en_demo.json.gz": ("chat", 300, TOOLS, 0),
    "chat/rasbt-instructions/instruction-data.json": ("chat", 1100, ALPACA, 0),
    "chat/rasbt-instructions/instruction-data-with-preference.json": (
        "preference", 1094, {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "input": "input"}, 6),
    "chat/self-instruct-seed/seed_tasks.jsonl": ("chat", 175, {"prompt": "instruction", "instances": "instances"}, 0),
    "classification/banking77/train.csv.gz": ("labelled", 10003, {"text": "text", "label": "category"}, 0),
    "classification/banking77/categories.json": ("text", 77, {"text": "text"}, 0),
    "classification/chnsenticorp/train.tsv.gz": ("labelled", 9600, {"text": "text_a", "label": "label"}, 0),
    "classification/chnsenticorp/dev.tsv": ("labelled", 1200, {"text": "text_a", "label": "label"}, 0),
    "classification/sst2/train.tsv.gz": ("labelled", 6920, {"text": "1", "label": "2"}, 0),
    "classification/sst2/dev.tsv": ("labelled", 872, {"text": "1", "label": "2"}, 0),
    "classification/thucnews-titles/dev.txt.gz": ("labelled", 10000, {"text": "1", "label": "2"}, 0),
    "classification/thucnews-titles/class.txt": ("text", 1, {"text": "text"}, 0),
    "classification/toxicity-cold-zh/dev.csv.gz": ("labelled", 6431, {"text": "TEXT", "label": "label"}, 0),
    "classification/toxicity-davidson/labeled_data.csv.gz": ("labelled", 24783, {"text": "tweet", "label": "class"}, 0),
    "classification/trec/TREC.train.all": ("labelled", 5451, {"text": "text", "label": "label"}, 1),
    "question-answering/cmrc2018-trial/cmrc2018_trial.json.gz": ("qa", 1000, {"paragraphs": "paragraphs"}, 0),
    "question-answering/xquad/xquad.en.first-half.json.gz": ("qa", 632, {"paragraphs": "paragraphs"}, 0),
    "question-answering/xquad/xquad.zh.first-half.json.gz": ("qa", 632, {"paragraphs": "paragraphs"}, 0),
    "summarisation/cnn-dailymail-200/cnn_dailymail_tldr.jsonl.gz": ("chat", 200, COMPLETION, 0),
    "summarisation/csl-zh-titles/dev.tsv.gz": ("pair", 1000, {"source": "2", "target": "3"}, 0),
    "summarisation/dialogsum/dialogsum.dev.jsonl.gz": ("pair", 500, {"source": "dialogue", "target": "summary"}, 0),
    "tagging/conll2003/eng.train.gz": ("tagged", 14041, {"tokens": "1", "tags": "4"}, 0),
    "tagging/conll2003/eng.testa.gz": ("tagged", 3250, {"tokens": "1", "tags": "4"}, 0),
    "tagging/resume-zh/train.char.bmes.gz": ("tagged", 3821, {"tokens": "1", "tags": "2"}, 0),
    "tagging/resume-zh/dev.char.bmes": ("tagged", 463, {"tokens": "1", "tags": "2"}, 0),
    "tagging/weibo-zh/weibo.train.gz": ("tagged", 1350, {"tokens": "1", "tags": "2"}, 0),
    "tagging/weibo-zh/weibo.dev": ("tagged", 270, {"tokens": "1", "tags": "2"}, 0),
    "tagging/ud-english-ewt/en_ewt-ud-dev.conllu.gz": ("tagged", 2001, {"tokens": "form", "tags": "upos"}, 0),
    "tagging/ud-chinese-gsdsimp/zh_gsdsimp-ud-dev.conllu.gz": ("tagged", 500, {"tokens": "form", "tags": "upos"}, 0),
    "translation/tatoeba-en-zh/pairs.tsv.gz": ("pair", 19000, {"source": "1", "target": "2"}, 0),
    "translation/classical-modern-zh/pairs.tsv.gz": ("pair", 19591, {"source": "2", "target": "3"}, 0),
    "benchmarks/gsm8k/train_first1500.jsonl.gz": ("pair", 1500, {"source": "question", "target": "answer"}, 0),
    "language-modelling/chinese-classics/唐诗三百首.json": ("text", 366, {"text": "paragraphs"}, 0),
    "language-modelling/chinese-classics/纳兰性德诗集.json": ("text", 258, {"text": "para"}, 0),
    "language-modelling/chinese-classics/daxue.json": ("text", 1, {"text": "paragraphs"}, 0),
    "language-modelling/tinyshakespeare/input.txt.gz": ("text", None, {"text": "text"}, 0),
    "language-modelling/wiki-demo/wiki_demo.txt.gz": ("text", None, {"text": "text"}, 0),
    "language-modelling/wikitext2-valid/valid.txt.gz": ("text", None, {"text": "text"}, 0),
    "bias/winobias-dev/anti_stereotyped_type1.txt.dev": ("text", None, {"text": "text"}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_sets(name):
    shape, count, columns, lost = SETS[name]
    problems = Problems()
    reading = shapes.read(FOLDER / name, problems=problems)
    (found,) = reading.detections
    assert (reading.shape, dict(found.columns)) == (shape, columns)
    read = list(reading)
    assert count is None or len(read) == count
    assert problems.faults == lost, problems.summary()
    assert all(isinstance(placed.record, shapes.SHAPES[shape]) for placed in read)


def test_schemes_of_tags():
    for name, scheme in (
        ("conll2003/eng.train.gz", "IOB1"),
        ("resume-zh/dev.char.bmes", "BMES"),
        ("weibo-zh/weibo.train.gz", "BIO"),
    ):
        assert shapes.detect(FOLDER / "tagging" / name).notes[0] == f"tags: {scheme}"


def test_parallel_files():
    folder = FOLDER / "translation" / "multi30k-en-de"
    assert len(list(shapes.read([folder / "train.en.gz", folder / "train.de.gz"]))) == 29000
    assert len(list(shapes.read(folder, columns={"source": "en", "target": "de"}))) == 30014


def test_tagged_words_of_brown():
    archive = FOLDER / "language-modelling" / "brown" / "brown.zip"
    problems = Problems()
    read = list(shapes.read(archive, shape="tagged", problems=problems))
    assert len(read) == 57340
    assert problems.counts["unsupported"] == 3, "README and the like"


@pytest.mark.parametrize("name", ["benchmarks/cmmlu-dev/dev_logical.csv", "benchmarks/xcopa-zh/val.zh.jsonl",
                                  "bias/crows-pairs-500/crows_pairs_first500.csv"])  # fmt: skip
def test_what_is_no_shape_of_records_is_not_guessed(name):
    with pytest.raises(BadInput, match="columns"):
        shapes.read(FOLDER / name)


CHAT = sorted(name for name in SETS if name.startswith("chat/"))


@pytest.mark.parametrize("name", CHAT)
def test_the_doctor_reads_chat_sets_and_mends_them(name, tmp_path):
    with examine(FOLDER / name) as diagnosis:
        assert not {"unreadable", "shape"} & set(diagnosis.findings.counts)
        (target,) = write_mended(diagnosis, tmp_path)
        good = diagnosis.plans[0].records
    assert len(list(shapes.read(target))) == good
    with examine(target) as again:
        left = {kind for kind in again.findings.counts if KINDS[kind].mend}
    assert left <= {"special"}, "special tokens in the middle of a text are left to people"
