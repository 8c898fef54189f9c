"""`zhixing compare`: whole comparisons of tiny models, going on after a stop, and what users get wrong."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from zhixing.cli import compare as command
from zhixing.core.comparison_recipe import build_comparison, load_comparison
from zhixing.core.errors import BadInput, Interrupted, MissingResource
from zhixing.core.progress import human_time
from zhixing.evaluation.comparison_report import mean_seconds
from zhixing.training.resolve import resolve
from zhixing.workflows import compare as workflow
from zhixing.workflows.compare import Comparison, compare, open_comparison
from zhixing.workflows.comparison_checks import check_variants


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = random.Random(0)
    words = ["the", "cat", "dog", "sees", "runs", "and", "知行", "合一", "a", "red"]
    lines = [" ".join(generator.choices(words, range(10, 0, -1), k=generator.randint(3, 12))) for _ in range(300)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def values(text: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": {
            "data": {"paths": [str(text)], "split": "tail", "validation_fraction": 0.2, "separator": False},
            "tokenizer": {"kind": "character", "special_tokens": []},
            "model": {"context": 16},
            "train": {"batch_size": 4, "matmul": "torch"},
        },
        "variants": {
            "counted": {"model.family": "ngram", "model.order": 3},
            "gru": {"model": {"family": "gru", "depth": 1, "width": 8}, "optimizer.learning_rate": 0.02},
        },
        "seeds": [0, 1],
        "budget": {"tokens": 1500},
        **changes,
    }


@pytest.fixture(scope="module")
def done(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("comparison") / "tiny"
    return compare(build_comparison(values(text), "test"), folder)


def test_a_whole_comparison(done: Comparison) -> None:
    assert done.standings is not None
    by_name = {one.name: one for one in done.standings.standings}
    assert len(by_name["counted"].values) == 1
    assert by_name["counted"].fixed
    assert len(by_name["gru"].values) == 2
    assert done.standings.pairs[0].better == "counted"
    assert done.standings.examples == 21
    assert any("no seed and no budget" in sentence for sentence in done.sentences)
    kept = json.loads((done.folder / "comparison.json").read_text(encoding="utf-8"))
    assert kept["sentences"] == done.sentences
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    for part in ("counted", "gru", "Not told apart" if not done.standings.pairs[0].told_apart else "told apart", "知"):
        assert part in page
    assert page.count('<path class="curve') == 4  # two seeds, over tokens and over seconds
    assert "<script src" not in page


def test_the_figures_are_the_runs_own(done: Comparison) -> None:
    assert done.standings is not None
    for trial in done.trials:
        facts = json.loads((trial.folder / "facts.json").read_text(encoding="utf-8"))
        assert trial.value == pytest.approx(facts["evaluation"]["bits_per_byte"], rel=1e-5)
        if trial.variant == "gru":
            assert trial.tokens == 1472  # 23 steps of 64 tokens: the most that 1,500 pay for
            assert trial.flops > 0


def test_the_terminal_says_the_times_of_the_page(done: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [replace(trial, seconds=60.0 + 200 * number) for number, trial in enumerate(done.trials)]
    command._print(replace(done, trials=trials))
    shown = capsys.readouterr().out
    assert done.standings is not None
    for one in done.standings.standings:
        took = human_time(mean_seconds([trial for trial in trials if trial.variant == one.name]))
        line = next(line for line in shown.splitlines() if line.startswith(f"{one.name} "))
        assert took in line


def test_the_same_command_goes_on(done: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or measured again, and the result is the same."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained or measured again")

    monkeypatch.setattr(workflow, "start_run", refuse)
    monkeypatch.setattr(workflow, "resume_run", refuse)
    monkeypatch.setattr("zhixing.workflows.run_scores.stretch_sums", refuse)
    again = compare(open_comparison(done.folder), done.folder)
    assert again.standings == done.standings


def test_ctrl_c_says_how_to_go_on(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(workflow, "start_run", stop)
    with pytest.raises(Interrupted, match="zhixing compare"):
        compare(build_comparison(values(text), "test"), tmp_path / "tiny")


def test_a_run_that_diverges_is_left_out_and_said(text: Path, tmp_path: Path) -> None:
    recipe = values(text, seeds=[0])
    recipe["variants"]["wild"] = {"model": {"family": "rnn", "depth": 1, "width": 8}, "optimizer.learning_rate": 1e38}
    result = compare(build_comparison(recipe, "test"), tmp_path / "tiny")
    assert [trial.variant for trial in result.failed] == ["wild"]
    assert any("wild-seed0 failed" in sentence for sentence in result.sentences)
    assert any("no other seed" in sentence for sentence in result.sentences)
    assert "failed" in (tmp_path / "tiny" / "report.html").read_text(encoding="utf-8")
    again = compare(open_comparison(tmp_path / "tiny"), tmp_path / "tiny")
    assert again.standings == result.standings


def test_a_budget_of_operations(text: Path) -> None:
    recipe = build_comparison(values(text, budget={"flops": 3e6}), "test")
    assert recipe.variant("gru", 0).train.flops == 3e6
    seconds = build_comparison(values(text, budget={"seconds": 30}), "test")
    assert seconds.variant("gru", 1).train.minutes == 0.5
    assert seconds.variant("gru", 1).train.seed == 1


def test_operations_pay_for_fewer_steps_of_a_larger_network(text: Path, tmp_path: Path) -> None:
    recipe = values(text, budget={"flops": 1.5e6}, seeds=[0])
    recipe["variants"] = {
        "small": {"model": {"family": "gru", "depth": 1, "width": 4}},
        "large": {"model": {"family": "gru", "depth": 1, "width": 16}},
    }
    result = compare(build_comparison(recipe, "test"), tmp_path / "tiny")
    small, large = result.trials
    assert small.tokens is not None
    assert large.tokens is not None
    assert small.tokens > 2 * large.tokens
    for trial in (small, large):
        assert 0.9e6 < trial.flops <= 1.5e6


def test_models_of_records_are_compared_by_their_own_measure(tmp_path: Path) -> None:
    generator = random.Random(0)
    for name, count in (("train", 60), ("dev", 30)):
        lines = []
        for _ in range(count):
            label = generator.choice(["good", "bad"])
            words = generator.choices(["the", "room", "is", "很", "food"], k=generator.randint(2, 8))
            words.insert(generator.randint(0, len(words)), "great" if label == "good" else "awful")
            lines.append(json.dumps({"text": " ".join(words), "label": label}, ensure_ascii=False))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "name": "records",
        "base": {
            "data": {"paths": [str(tmp_path / "train.jsonl")], "validation_paths": [str(tmp_path / "dev.jsonl")]},
            "tokenizer": {"kind": "character"},
            "model": {"context": 64},
            "optimizer": {"name": "adamw", "learning_rate": 0.005},
            "train": {"objective": "classification", "batch_size": 16, "matmul": "torch"},
        },
        "variants": {
            "lstm": {"model": {"family": "lstm-encoder", "depth": 1, "width": 16}},
            "bert": {"model": {"family": "bert", "depth": 1, "width": 16, "heads": 2}},
        },
        "seeds": [0, 1],
        "budget": {"tokens": 6000},
    }
    result = compare(build_comparison(recipe, "test"), tmp_path / "records")
    assert result.standings is not None
    assert (result.standings.measure, result.standings.examples) == ("accuracy", 30)
    for trial in result.trials:
        facts = json.loads((trial.folder / "facts.json").read_text(encoding="utf-8"))
        assert trial.value == pytest.approx(facts["evaluation"]["measures"]["accuracy"])
    page = (tmp_path / "records" / "report.html").read_text(encoding="utf-8")
    assert "targets seen" in page
    assert "highest mean" in page
    passes = build_comparison({**recipe, "budget": {"epochs": 2.0}}, "test")
    assert passes.variant("bert", 0).train.epochs == 2.0


def write(tmp_path: Path, recipe: Any) -> Path:
    file = tmp_path / "compare.yaml"
    file.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe), encoding="utf-8")
    return file


def test_the_base_may_be_a_file(text: Path, tmp_path: Path) -> None:
    base = values(text)["base"]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    loaded = load_comparison(write(tmp_path, values(text, base="base.yaml")), ["base.train.batch_size=2", "seeds=[5]"])
    assert loaded.base["train"]["batch_size"] == 2
    assert loaded.seeds == [5]
    with pytest.raises(MissingResource):
        load_comparison(write(tmp_path, values(text, base="other.yaml")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"tokens": 1, "seconds": 2}}, "tokens and seconds"),
        ({"budget": {}}, "names nothing"),
        ({"budget": {"token": 5}}, "did you mean 'tokens'"),
        ({"budget": {"tokens": -5}}, "greater than or equal to 1"),
        ({"varants": {}}, "did you mean 'variants'"),
        ({"variants": {}}, "nothing to compare"),
        ({"variants": {"../x": {}}}, "names folders"),
        ({"variants": {"a": 3}}, "variants.a = 3"),
        ({"seeds": [1, 1]}, "comes twice"),
        ({"seeds": []}, "seeds = "),
        ({"variants": {"a": {"train": {"steps": 5}}}}, "the budget does"),
        ({"variants": {"a": {"train.minutes": 5}}}, "the budget does"),
    ],
)
def test_recipes_that_cannot_be(text: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_comparison(values(text, **change), "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("variants: [", "not valid YAML"),
        ("- 1", "is a mapping"),
        ("name: x", "'variants' is missing"),
        ("variants:\n  a: {}\n  a: {model.depth: 2}\n", r"compare\.yaml:3: not valid YAML: the key 'a' comes twice"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_comparison(write(tmp_path, content))


def test_a_fault_in_the_last_variant_is_said_before_anything_is_made(text: Path, tmp_path: Path) -> None:
    recipe = values(text)
    recipe["variants"]["last"] = {"model.famly": "gru"}
    with pytest.raises(BadInput, match=r"variants\.last.*model\.famly"):
        compare(build_comparison(recipe, "test"), tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_another_comparison_is_not_overwritten(done: Comparison, text: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="another recipe"):
        compare(build_comparison(values(text, seeds=[7]), "test"), done.folder)
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(BadInput, match="not an empty folder"):
        compare(build_comparison(values(text), "test"), tmp_path)
    with pytest.raises(MissingResource, match="no comparison here"):
        open_comparison(tmp_path)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"data.paths": ["nowhere.txt"]}, r"data\.paths is \['nowhere\.txt'\], of counted it is"),
        ({"data.validation_fraction": 0.3}, "data.validation_fraction is 0.3, of counted it is 0.2"),
        ({"model.family": "gru", "model.context": 100_000}, "model.context is 100,000 tokens, and all of the text has"),
    ],
)
def test_variants_that_cannot_be_compared_are_said_before_the_first_run(
    variant: dict[str, Any], message: str, text: Path, tmp_path: Path
) -> None:
    recipe = values(text)
    recipe["variants"]["last"] = variant
    with pytest.raises(BadInput, match=rf"variants\.last: {message}"):
        compare(build_comparison(recipe, "test"), tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_variants_with_other_objectives_have_no_measure_in_common(text: Path) -> None:
    recipe = values(text, base={"data": {"paths": [str(text)]}})
    recipe["variants"] = {"first": {"train.objective": "classification"}, "last": {"train.objective": "regression"}}
    plan = list(workflow._plan(build_comparison(recipe, "test")))
    with pytest.raises(BadInput, match="first learns 'classification' and last 'regression': they have no measure"):
        check_variants(plan)


def test_data_that_are_not_there_and_a_folder_where_no_run_began(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    recipe = values(text)
    recipe["base"]["data"]["paths"] = [str(tmp_path / "nowhere.txt")]
    with pytest.raises(MissingResource, match=r"nowhere\.txt: no such file"):
        compare(build_comparison(recipe, "test"), folder)
    assert not folder.exists()
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="a folder is expected"):
        compare(build_comparison(values(text), "test"), tmp_path / "file")
    folder.mkdir()
    workflow._keep_recipe(build_comparison(values(text, seeds=[9]), "test"), folder)
    workflow._keep_recipe(build_comparison(values(text), "test"), folder)  # no run would be lost
    assert open_comparison(folder).seeds == [0, 1]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"", b"- 1"])
def test_a_comparison_whose_recipe_is_broken(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "comparison.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=r"comparison\.yaml"):
        open_comparison(tmp_path)


@pytest.mark.parametrize("name", ["compare-shakespeare", "compare-sentiment", "compare-multi30k"])
def test_the_ready_recipes_are_whole(name: str) -> None:
    recipe = load_comparison(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    plan = list(workflow._plan(recipe))
    assert len(plan) == 3 * len(recipe.variants) - 2 * ("n-gram" in recipe.variants)
    for variant, seed, one in plan:
        assert (one.name, one.train.seed) == (variant, seed)
        if one.model.family != "ngram":
            one.train.matmul = "torch"
        resolve(one)
