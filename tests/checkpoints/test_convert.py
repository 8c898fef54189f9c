"""Conversions: what comes out is what went in, nothing that is pickled ever runs, and memory stays bounded."""

import contextlib
import io
import json
import pickle
import shutil
import subprocess
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from tests.bad_inputs.support import make_models
from zhixing.checkpoints import unpickle
from zhixing.checkpoints.convert import convert_folder, gguf_to_folder, pickle_files, reshard, to_gguf
from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import load_folder
from zhixing.checkpoints.opening import open_model
from zhixing.core.errors import BadInput, MissingResource

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("made"))


@pytest.fixture
def pickled(made, tmp_path):
    """The same model as old programs wrote it."""
    folder = shutil.copytree(made, tmp_path / "old")
    content = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """A process of its own takes seconds to start; what it does is the same here, without its limits."""

    def run(words, **options):
        monkeypatch.setattr("sys.argv", words[2:])
        monkeypatch.setattr(unpickle, "_limit", lambda memory, seconds: None)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            code = unpickle.main()
        return subprocess.CompletedProcess(words, code, output.getvalue(), "")

    monkeypatch.setattr("zhixing.checkpoints.convert.subprocess.run", run)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_weights_become_the_same_safetensors(made, pickled, tmp_path, zipped, in_this_process):
    content = load_file(made / WEIGHTS)
    torch.save(content, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (pickled / "training_args.bin").write_bytes(b"never read")
    (pickled / "run.py").write_text("import os")
    done = convert_folder(pickled, tmp_path / "new")
    same(load_file(tmp_path / "new" / WEIGHTS), content)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in made.iterdir()}
    assert done.notes == ["not copied, because no model needs it: run.py"]
    assert load_folder(tmp_path / "new").model.config.layers == 2


def test_pickled_shards(made, pickled, tmp_path, in_this_process):
    content = load_file(made / WEIGHTS)
    (pickled / "pytorch_model.bin").unlink()
    table = {}
    for number, names in enumerate((sorted(content)[::2], sorted(content)[1::2]), start=1):
        torch.save({name: content[name] for name in names}, pickled / f"pytorch_model-{number}.bin")
        table |= dict.fromkeys(names, f"pytorch_model-{number}.bin")
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    done = convert_folder(pickled, tmp_path / "new", max_shard_size=8000)
    assert done.files == len(list((tmp_path / "new").glob("model-*.safetensors"))) > 2
    same(dict(load_folder(tmp_path / "new").model.named_parameters()), dict(load_folder(made).model.named_parameters()))
    (pickled / "pytorch_model-2.bin").unlink()
    with pytest.raises(MissingResource, match=r"'pytorch_model-2.bin' is missing"):
        convert_folder(pickled, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_the_embedding_is_written_once_where_they_are_tied(pickled, tmp_path, tied, in_this_process):
    content = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    content["lm_head.weight"] = content["model.embed_tokens.weight"]
    torch.save(content, pickled / "pytorch_model.bin")
    values = json.loads((pickled / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (pickled / "config.json").write_text(json.dumps(values))
    convert_folder(pickled, tmp_path / "new")
    new = load_file(tmp_path / "new" / WEIGHTS)
    assert ("lm_head.weight" in new) is not tied
    assert load_folder(tmp_path / "new")


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def raw_pickle(value):
    return lambda path: path.write_bytes(pickle.dumps(value))


def inside_zip(value):
    """A file in PyTorch's own format whose pickle is another one."""

    def write(path):
        torch.save({"a": torch.ones(3)}, path)
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, data in members.items():
                new.writestr(name, pickle.dumps(value, protocol=2) if name.endswith("data.pkl") else data)

    return write


def cut(path):
    torch.save({"a": torch.ones(3000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def huge_claim(path):
    """A small file whose one tensor claims to be large."""
    torch.save({"a": torch.ones(1).expand(1 << 33)}, path)


EVIL = {
    "raw pickle": (lambda trap: raw_pickle(trap), r"system.*could run code|no file of plain tensors"),
    "legacy with a call": (lambda trap: lambda path: torch.save(
        {"a": trap}, path, _use_new_zipfile_serialization=False), "system, which could run code"),
    "zip with a call": (lambda trap: lambda path: torch.save({"a": trap}, path), "system, which could run code"),
    "zip with another pickle": (lambda trap: inside_zip({"a": trap}), "system, which could run code"),
    "no tensors": (lambda trap: lambda path: torch.save({"a": 3}, path), "holds no tensors"),
    "a list": (lambda trap: lambda path: torch.save([torch.ones(2)], path), "not a table of tensors"),
    "empty": (lambda trap: lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda trap: lambda path: path.write_text("hello"), "damaged|no file of plain tensors"),
    "cut": (lambda trap: cut, "damaged"),
    "huge": (lambda trap: huge_claim, "more memory than a file of its size can need"),
    "sparse": (lambda trap: lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path), "of a kind"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in EVIL if kind != "huge"])
def test_what_is_no_table_of_tensors_is_refused(pickled, tmp_path, kind, in_this_process):
    check_refused(pickled, tmp_path, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVIL)
def test_what_is_more_than_tensors_is_refused_and_never_runs(pickled, tmp_path, kind):
    check_refused(pickled, tmp_path, kind)


def check_refused(pickled, tmp_path, kind):
    make, words = EVIL[kind]
    make(Trap(tmp_path / "sprung"))(pickled / "pytorch_model.bin")
    with pytest.raises(BadInput, match=rf"(?s)the pickled weights are refused: .*({words})") as error:
        convert_folder(pickled, tmp_path / "new")
    assert error.value.where == str(pickled / "pytorch_model.bin")
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_training_checkpoint_is_unwrapped(made, pickled, tmp_path, in_this_process):
    content = load_file(made / WEIGHTS)
    torch.save({"state_dict": content, "epoch": 3}, pickled / "pytorch_model.bin")
    convert_folder(pickled, tmp_path / "new")
    same(load_file(tmp_path / "new" / WEIGHTS), content)


def test_several_files_that_could_be_meant(pickled):
    shutil.copy(pickled / "pytorch_model.bin", pickled / "a.pt")
    assert [path.name for path in pickle_files(pickled)] == ["pytorch_model.bin"]
    (pickled / "pytorch_model.bin").rename(pickled / "b.pt")
    with pytest.raises(BadInput, match=r"several files could be the weights: a\.pt, b\.pt"):
        pickle_files(pickled)


def test_another_number_type(made, tmp_path):
    convert_folder(made, tmp_path / "half", torch.bfloat16)
    old, new = load_file(made / WEIGHTS), load_file(tmp_path / "half" / WEIGHTS)
    same(new, {name: tensor.bfloat16() for name, tensor in old.items()})
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "half/generation_config.json").read_text() == (made / "generation_config.json").read_text()


def test_values_that_do_not_fit_are_refused(made, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(made, tmp_path / "large")
    content = load_file(folder / WEIGHTS)
    content["model.norm.weight"][3] = 70_000.0
    save_file(content, folder / WEIGHTS)
    with pytest.raises(BadInput, match=r"'model.norm.weight' has values up to 7e\+04, beyond what float16"):
        convert_folder(folder, tmp_path / "new", torch.float16)
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_known_here_is_converted_and_it_is_said(pickled, tmp_path, in_this_process):
    values = json.loads((pickled / "config.json").read_text()) | {"model_type": "mystery"}
    (pickled / "config.json").write_text(json.dumps(values))
    done = convert_folder(pickled, tmp_path / "new")
    assert "converted, but it cannot be used here: unknown architecture 'mystery'" in done.notes


def test_shards_are_merged_and_cut_and_all_else_stays(made, tmp_path):
    sharded = made.with_name("sharded")
    shutil.copytree(sharded, tmp_path / "in")
    (tmp_path / "in/notes.txt").write_text("mine")
    (tmp_path / "in/1_Pooling").mkdir()
    (tmp_path / "in/1_Pooling/config.json").write_text("{}")
    assert reshard(tmp_path / "in", tmp_path / "one", None).files == 1
    same(load_file(tmp_path / "one" / WEIGHTS), load_file(made / WEIGHTS))
    assert not list((tmp_path / "one").glob("*index*"))
    assert (tmp_path / "one/notes.txt").read_text() == "mine"
    assert (tmp_path / "one/1_Pooling/config.json").exists()
    done = reshard(tmp_path / "one", tmp_path / "one", 8000)  # in its place
    assert done.files == len(list(sharded.glob("model-*.safetensors")))
    assert {path.name for path in (tmp_path / "one").glob("model*")} == {path.name for path in sharded.glob("model*")}
    assert load_folder(tmp_path / "one")


@pytest.mark.slow
def test_transformers_opens_the_shards(made):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(made.with_name("sharded"), dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.arange(12)[None]).logits
        ours = load_folder(made).transformer(torch.arange(12)[None])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_licence_goes_along(made, tmp_path):
    convert_folder(made, tmp_path / "licensed")
    (tmp_path / "licensed" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Mine\n", encoding="utf-8")
    to_gguf(tmp_path / "licensed", tmp_path / "x.gguf", "f16")
    assert describe(tmp_path / "x.gguf").licence == "cc-by-4.0"
    to_gguf(tmp_path / "x.gguf", tmp_path / "y.gguf", "q8_0")
    gguf_to_folder(tmp_path / "y.gguf", tmp_path / "back", torch.float32)
    assert describe(tmp_path / "back").licence == "cc-by-4.0"
    card = (tmp_path / "back" / "README.md").read_text(encoding="utf-8")
    assert "expanded from `y.gguf`" in card
    assert "\n# x\n" in card


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_to_gguf_and_back(made, tmp_path, kind):
    to_gguf(made, tmp_path / "x.gguf", kind)
    gguf_to_folder(tmp_path / "x.gguf", tmp_path / "back", torch.float32, max_shard_size=8000)
    old, new = load_folder(made), load_folder(tmp_path / "back")
    assert new.tokenizer.encode("know 知") == old.tokenizer.encode("know 知")
    for name, tensor in old.model.named_parameters():
        wanted = tensor.bfloat16().float() if kind == "bf16" and tensor.dim() > 1 else tensor
        assert torch.equal(dict(new.model.named_parameters())[name], wanted), name
    assert new.generation["eos_token_id"] == [old.generation["eos_token_id"]]
    convert_folder(made, tmp_path / "half", torch.bfloat16)
    to_gguf(tmp_path / "half", tmp_path / "half.gguf", kind)
    to_gguf(tmp_path / "x.gguf", tmp_path / "again.gguf", "q8_0")
    assert open_model(tmp_path / "half.gguf").model.config == open_model(tmp_path / "again.gguf").model.config
