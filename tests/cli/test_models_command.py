"""`zhixing models`: what is printed, what is asked, and what is refused."""

import json

import pytest
from tests.command_line import app
from typer.testing import CliRunner

from zhixing.checkpoints.hubs.store import Record
from zhixing.core.errors import BadInput, MissingResource

FETCHED = "pypi:tiny==1.0/tiny.gguf"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZHIXING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def fetched(place):
    path = place / "cache/pypi/tiny-1.0/tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF" * 250)
    Record(FETCHED, path, {path: 1000}).write()
    return path


def run(*arguments, **options):
    result = CliRunner().invoke(app, ["models", *map(str, arguments)], **options)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_list_names_every_source_and_what_is_here(fetched):
    text = run("list").stdout
    for words in ("smollm2-135m", "hf:google/gemma-3-270m", "gated", "Apache-2.0", FETCHED, "1.0 KB"):
        assert words in text
    values = json.loads(run("list", "--json").stdout)
    assert [entry["name"] for entry in values["catalogue"]] == ["smollm2-135m", "gemma3-270m", "minilm"]
    assert values["others"] == [
        {"reference": FETCHED, "path": str(fetched), "size": 1000, "files": 1, "verified": True}
    ]


def test_pull_prints_the_path_and_fetches_nothing_twice(fetched):
    result = run("pull", FETCHED)
    assert result.stdout.strip() == str(fetched)
    assert "already here" in result.stderr
    with pytest.raises(MissingResource, match="forbids the network"):
        run("pull", FETCHED, "smollm2-135m")
    with pytest.raises(BadInput, match="not a model of the catalogue"):
        run("pull", "runs/one")


def test_remove_asks_and_then_removes(fetched):
    assert run("remove", FETCHED, input="n\n").exit_code == 1
    assert fetched.exists()
    assert "1.0 KB freed" in run("remove", FETCHED, "--yes").stdout
    assert not fetched.exists()
    with pytest.raises(MissingResource, match="has not been fetched"):
        run("remove", FETCHED, "--yes")


def test_remove_never_touches_what_was_not_fetched(place):
    (place / "mine").mkdir()
    (place / "mine/config.json").write_text("{}")
    with pytest.raises(BadInput, match="only fetched models"):
        run("remove", place / "mine", "--yes")
    assert (place / "mine/config.json").exists()


@pytest.fixture
def folder(place):
    from tests.bad_inputs.support import make_models

    return make_models(place / "made")


def test_show_tells_what_a_model_is_and_whether_it_works(folder):
    text = run("show", folder).stdout
    for words in ("family         llama", "F32 100 %", "layers 2, width 16", "chat template  no", "model.safetensors"):
        assert words in text
    assert "works here" in run("show", folder, "--check").stdout
    assert json.loads(run("show", folder, "--check", "--json").stdout)["works"] is True
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"silu"', '"mystery"'))
    assert "family         llama" in run("show", folder).stdout
    with pytest.raises(BadInput, match="mystery"):
        run("show", folder, "--check")


def test_show_fetches_nothing(place):
    with pytest.raises(MissingResource, match="not fetched yet") as error:
        run("show", "smollm2-135m")
    assert error.value.remedy == "zhixing models pull smollm2-135m"


def test_merge_shards_and_the_reverse(folder, place):
    result = run("merge-shards", folder, place / "cut", "--max-shard-size", "8KB")
    assert "files" in result.stdout
    assert len(list((place / "cut").glob("model-*.safetensors"))) > 2
    run("merge-shards", place / "cut")
    assert (place / "cut/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_convert_writes_over_nothing(folder, place):
    run("convert", folder, place / "half", "--dtype", "float16")
    with pytest.raises(BadInput, match="there is something already"):
        run("convert", folder, place / "half")
    run("convert", folder, place / "half", "--dtype", "bfloat16", "--force")
    assert "BF16 100 %" in run("show", place / "half").stdout
    for out in (folder, folder.parent):
        with pytest.raises(BadInput, match="would replace the old one"):
            run("convert", folder, out, "--force")
    run("convert", folder, place / "x.gguf", "--type", "f16")
    assert "F16" in run("show", place / "x.gguf", "--check").stdout
    run("convert", place / "x.gguf", place / "back")
    assert "F32 100 %" in run("show", place / "back").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "float8"], "unknown number type 'float8'"),
        (["--type", "q8_0"], "--type is for GGUF files"),
        (["--max-shard-size", "many"], "not a size: 'many'"),
    ],
)
def test_convert_refuses_what_makes_no_sense(folder, place, arguments, words):
    with pytest.raises(BadInput, match=words):
        run("convert", folder, place / "new", *arguments)
    assert not (place / "new").exists()
