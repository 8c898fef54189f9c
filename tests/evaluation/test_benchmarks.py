"""Benchmarks on our networks against lm-eval's own `hf` backend on the same folder and the same local tasks."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput, MissingResource
from zhixing.evaluation.benchmarks.run import run_benchmarks
from zhixing.evaluation.benchmarks.task_files import load_task_file
from zhixing.families.llama import FIXED
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.train import train_tokenizer

pytest.importorskip("lm_eval")

WORDS = "the a cat dog sees runs and red house is on small 知行 合一".split()


def text(generator: random.Random, least: int, most: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_tokenizer([" ".join(WORDS) * 3], "byte-bpe", 300).tokenizer
    sizes = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 48, "context": 96}
    network = Transformer(TransformerConfig(vocab_size=tokenizer.vocab_size, init_std=0.3, **sizes, **FIXED))
    network.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    save_folder(folder, network.eval(), tokenizer, "llama")
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    generator = random.Random(0)
    rows = []
    for _ in range(24):
        # Some contexts are longer than the model reads, some choices are one token, some several.
        choices = [text(generator, 1, 4) for _ in range(3)] if generator.random() < 0.7 else ["a", "cat", "dog"]
        rows.append(
            {
                "question": text(generator, 1, generator.choice([20, 60, 160])),
                "choices": choices,
                "label": generator.randrange(3),
                "text": text(generator, 1, 150),
            }
        )
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    shared = {"dataset_path": "data.jsonl", "test_split": "test"}
    files = {
        "choice": {
            "task": "tiny-choice", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "likelihood": {
            "task": "tiny-likelihood", "output_type": "loglikelihood", "doc_to_text": "{{question}}",
            "doc_to_target": " {{choices[0]}}", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "rolling": {
            "task": "tiny-rolling", "output_type": "loglikelihood_rolling", "doc_to_text": "",
            "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
        },
        "writing": {
            "task": "tiny-writing", "output_type": "generate_until", "doc_to_text": "{{question}}",
            "doc_to_target": "a", "generation_kwargs": {"until": ["\n", "se"], "max_gen_toks": 12, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }  # fmt: skip
    paths = {}
    for name, values in files.items():
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({**shared, **values}), encoding="utf-8")
    return paths


def theirs(model: Path, task: Path, shots: int = 0) -> dict[str, Any]:
    """Runs lm-eval as it comes, on transformers."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(model), device="cpu", batch_size=4, dtype="float32")
    return lm_eval.simple_evaluate(
        model=lm, tasks=[load_task_file(task)], bootstrap_iters=0, num_fewshot=shots, fewshot_random_seed=0,
        task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shots"), [("choice", 0), ("choice", 1), ("likelihood", 0), ("rolling", 0), ("writing", 0)]
)
def test_as_lm_evals_own_backend(model: Path, tasks: dict[str, Path], name: str, shots: int) -> None:
    opened = load_folder(model)
    assert opened.tokenizer is not None
    ours = run_benchmarks(opened.model, opened.tokenizer, [str(tasks[name])], few_shot=shots)
    expected = theirs(model, tasks[name], shots)
    task = f"tiny-{name}"
    assert ours.figures
    for figure in ours.figures:
        assert figure.value == pytest.approx(expected["results"][task][f"{figure.metric},none"], rel=1e-5), (
            figure.metric
        )
    for mine, other in zip(ours.samples[task], expected["samples"][task], strict=True):
        assert mine["doc"] == other["doc"]
        for one, two in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
            if isinstance(one, tuple):
                assert one[0] == pytest.approx(two[0], rel=1e-4, abs=1e-4)
                assert one[1] == two[1]
            elif isinstance(one, float):
                assert one == pytest.approx(two, rel=1e-5)
            else:
                assert one == two
    if name == "choice":
        assert ours.truncated > 0
        figure = next(one for one in ours.figures if one.metric == "acc")
        assert figure.interval is not None
        assert figure.interval.low <= figure.value <= figure.interval.high
        assert figure.n == 24


def test_a_task_file_is_data(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("q,a\nx,y\n", encoding="utf-8")
    good = {"task": "t", "dataset_path": "data.csv", "doc_to_text": "{{q}}"}

    def written(**changes: Any) -> Path:
        file = tmp_path / "task.yaml"
        file.write_text(yaml.safe_dump({**good, **changes}), encoding="utf-8")
        return file

    loaded = load_task_file(written())
    assert loaded["dataset_path"] == "csv"
    assert loaded["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "data.csv")}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"doc_to_target": "{{a}}"}), encoding="utf-8")
    assert load_task_file(written(include="base.yaml"))["doc_to_target"] == "{{a}}"
    for changes, message in (
        ({"class": "os.system"}, "a class of Python"),
        ({"unsafe_code": True}, "generated code"),
        ({"metric_list": [{"metric": "x", "hf_evaluate": True}]}, "fetched and run"),
        ({"task": None}, "names its task"),
        ({"include": "task.yaml"}, "includes itself"),
    ):
        with pytest.raises(BadInput, match=message):
            load_task_file(written(**changes))
    with pytest.raises(MissingResource, match="data are not there"):
        load_task_file(written(dataset_path="none.jsonl"))
    with pytest.raises(MissingResource, match="no such task file"):
        load_task_file(tmp_path / "none.yaml")
    file = tmp_path / "task.yaml"
    file.write_text("task: t\ndoc_to_text: !function utils.evil\n", encoding="utf-8")
    (tmp_path / "utils.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    with pytest.raises(BadInput, match="names code to run"):
        load_task_file(file)
    file.write_text("task: [", encoding="utf-8")
    with pytest.raises(BadInput, match="not valid YAML"):
        load_task_file(file)


def test_templates_do_not_reach_python(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"q": "x", "a": 0}\n{"q": "y", "a": 1}\n', encoding="utf-8")
    task = {
        "task": "evil", "dataset_path": "data.jsonl", "output_type": "multiple_choice", "doc_to_choice": ["a", "b"],
        "doc_to_text": "{{ q.__class__.__mro__[1].__subclasses__() }}", "doc_to_target": "a",
    }  # fmt: skip
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    opened = load_folder(model)
    assert opened.tokenizer is not None
    with pytest.raises(BadInput, match="SecurityError"):
        run_benchmarks(opened.model, opened.tokenizer, [str(tmp_path / "evil.yaml")])


@pytest.mark.slow  # thousands of task files are looked through
def test_unknown_tasks_name_the_nearest(model: Path) -> None:
    opened = load_folder(model)
    assert opened.tokenizer is not None
    with pytest.raises(BadInput, match="did you mean 'hellaswag'"):
        run_benchmarks(opened.model, opened.tokenizer, ["helaswag"])


def test_bits_per_byte_is_that_of_eval(model: Path, tmp_path: Path) -> None:
    """The rolling likelihood of a short text is what `zhixing eval` measures."""
    from zhixing.evaluation.language_modelling import evaluate_text

    line = "the cat sees the red house and runs"
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": line}) + "\n", encoding="utf-8")
    task = {
        "task": "one", "dataset_path": "data.jsonl", "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    opened = load_folder(model)
    assert opened.tokenizer is not None
    found = run_benchmarks(opened.model, opened.tokenizer, [str(tmp_path / "one.yaml")]).figures[0]
    expected = evaluate_text(opened.model, opened.tokenizer, [line])
    assert found.value == pytest.approx(expected.bits_per_byte, rel=1e-5)
    assert math.isfinite(found.value)


TASK = {
    "task": "mine", "dataset_path": "data.csv", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
    "doc_to_choice": ["yes", "no"], "doc_to_target": "{{answer}}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "data", "shots", "message"),
    [
        ({"metric_list": [{"metric": "acuracy"}]}, None, None, r"mine\.yaml: unknown metric 'acuracy'"),
        ({"metric_list": ["acc"]}, None, None, "metric_list is a list of mappings"),
        ({"doc_to_txt": "x"}, None, None, r"unknown key of a task 'doc_to_txt'[\s\S]*did you mean 'doc_to_text'"),
        ({"doc_to_text": "{{questio}}"}, None, None, r"'questio' is undefined"),
        ({"doc_to_target": "maybe"}, None, None, "doc_to_target is 'maybe', which is none of the choices"),
        ({"doc_to_target": 2}, None, None, "list index out of range"),
        ({}, None, 3, "3 solved examples are wanted, its data give 1"),
        ({"num_fewshot": 9}, None, None, "9 solved examples are wanted"),
        ({"output_type": "generate_until"}, None, None, "256 tokens be written, the model reads 96"),
        ({"output_type": "generate_until", "generation_kwargs": {"beams": 3}}, None, None, "'beams' of generation"),
        ({}, "", None, "No columns"),
    ],
)
def test_a_broken_task_is_said_before_the_model_works(
    changes: dict[str, Any], data: str | None, shots: int | None, message: str, model: Path, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model worked")

    monkeypatch.setattr("zhixing.evaluation.continuations.ContinuationScorer.__call__", refuse)
    (tmp_path / "data.csv").write_text("question,answer\nTo know?,yes\nTo do?,no\n" if data is None else data)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TASK, **changes}))
    loaded = load_folder(model)
    assert loaded.tokenizer is not None
    with pytest.raises(BadInput, match=message):
        run_benchmarks(loaded.model, loaded.tokenizer, [str(tmp_path / "mine.yaml")], few_shot=shots)


def test_two_files_with_one_name_and_no_task(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("question,answer\nTo know?,yes\nTo do?,no\n")
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    for file in files:
        Path(file).write_text(yaml.safe_dump(TASK))
    loaded = load_folder(model)
    assert loaded.tokenizer is not None
    with pytest.raises(BadInput, match=r"two files name the task 'mine': \S*a\.yaml and \S*b\.yaml"):
        run_benchmarks(loaded.model, loaded.tokenizer, files)
    with pytest.raises(BadInput, match="no task is named"):
        run_benchmarks(loaded.model, loaded.tokenizer, [])
    found = run_benchmarks(loaded.model, loaded.tokenizer, [files[0], files[0]], few_shot=1)
    assert {figure.n for figure in found.figures} == {2}
