"""Bad input over the whole program: every one is one clear message and the right exit code, and nothing is lost.

Here: recipes, text, models, arguments. The commands run in this process, through the very `main` that users call.
"""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zhixing
from tests.bad_inputs.support import TEXT, check, content, cut, remove, replace
from zhixing.core.errors import BadInput, MissingResource

# Recipes


RECIPES = {
    "binary": (b"\xff\xfe\x00\x01", ["tiny.yaml", "UTF-8"]),
    "NUL": (b"\0\0", ["tiny.yaml", "not valid YAML"]),
    "not YAML": ("a: [1, 2", ["tiny.yaml:1", "not valid YAML"]),
    "a list": ("- 1\n- 2", ["mapping of sections, not a list", "name, data, tokenizer"]),
    "a word": ("hello", ["mapping of sections, not 'hello'"]),
    "code": ("!!python/object/apply:os.system ['true']", ["tiny.yaml:1", "python/object"]),
    "deep": ("a: " + "[" * 5000, ["nested beyond"]),
    "itself": ("model: &a {depth: *a}", ["nested beyond"]),
    "empty": ("", ["data.paths", "no text to train on"]),
    "no paths": ("data: {paths: []}", ["data.paths", "no text to train on"]),
    "unknown section": ("modle: {depth: 2}", ["unknown key 'modle'", "did you mean model?"]),
    "unknown key": ("model: {dept: 2}", ["unknown key 'model.dept'", "did you mean model.depth?"]),
    "key of another section": ("model: {steps: 2}", ["'model.steps'", "did you mean train.steps?"]),
    "key that is a number": ("1: 2", ["unknown key '1'"]),
    "text for a number": ("model: {depth: two}", ["model.depth = 'two'", "integer", "--set model.depth=VALUE"]),
    "number for a section": ("model: 3", ["model = 3", "a section holds fields"]),
    "nothing for a section": ("train:", ["train = None", "a section holds fields"]),
    "number for a text": ("name: 5", ["name = 5", "string"]),
    "text for a list": ("data: {paths: text}", ["data.paths = 'text'", "list"]),
    "two faults": ("train: {steps: x, keep: y}", ["train.steps", "1 more faults"]),
    "path as name": ("name: ../x", ["name = '../x'", "only letters"]),
    "dots as name": ("name: ..", ["name = '..'", "only letters"]),
    "fraction": ("data: {validation_fraction: 1}", ["data.validation_fraction = 1", "less than 1"]),
}


@pytest.mark.parametrize(("recipe", "words"), RECIPES.values(), ids=RECIPES)
def test_recipes(tmp_path, monkeypatch, call, recipe, words):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    check(call("train", "tiny.yaml"), 2, *words)
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"], "no run folder is left behind"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("train.steps", 2, ["'train.steps' is not KEY=VALUE", "--set train.steps=500"]),
        ("=3", 2, ["'=3' is not KEY=VALUE"]),
        ("model..depth=3", 2, ["is not KEY=VALUE"]),
        ("train.stepz=3", 2, ["unknown key 'train.stepz'", "did you mean train.steps?"]),
        ("train.steps.x=3", 2, ["'steps' is a value, not a section"]),
        ("train.steps=[", 2, ["not valid YAML"]),
        ("train.steps=two", 2, ["--set train.steps: train.steps = 'two'"]),
        ("train.steps=0", 2, ["--set train.steps", "greater than or equal to 1"]),
        ("train.steps=1000000000", 2, ["less than or equal to 999999999"]),
        ("train.seed=99999999999999999999", 2, ["--set train.seed"]),
        ("train.minutes=1", 2, ["train.steps and train.minutes both", "give one"]),
        ("train.block=99", 2, ["train.block (99) is longer than model.context (16)"]),
        ("train.objective=fill", 2, ["unknown objective 'fill'", "causal"]),
        ("train.device=abacus", 2, ["'abacus' is not a device", "auto"]),
        ("train.device=meta", 3, ["no device 'meta' on this machine"]),
        ("train.batch_size=1000000000000", 3, ["train.batch_size", "of memory, this machine has", "lower"]),
        ("model.width=4194304", 3, ["parameters in training", "of memory, this machine has", "model.depth"]),
        ("model.heads=3", 2, ["model.width (16) is not a multiple of model.heads (3)", "divide"]),
        ("model.kv_heads=3", 2, ["model.heads (2) must be a multiple of model.kv_heads (3)"]),
        ("model.head_dim=3", 2, ["even model.head_dim", "got 3"]),
        ("model.family=bert", 2, ["unknown model family 'bert'", "llama"]),
        ("model.context=1", 2, ["--set model.context"]),
        ("model.context=100000000", 2, ["a block of 100000000 needs 100000001", "give more text"]),
        ("optimizer.name=sgd", 2, ["'muon' or 'adamw'"]),
        ("optimizer.learning_rate=fast", 2, ["optimizer.learning_rate = 'fast'", "number"]),
        ("tokenizer.kind=words", 2, ["tokenizer.kind = 'words'", "'byte-bpe'"]),
        ("tokenizer.vocab_size=10", 2, ["a vocabulary of 10 is too small", "257"]),
        ("tokenizer.special_tokens=[]", 2, ["no end-of-text token", "data.separator"]),
        ("tokenizer.path=nowhere", 3, ["nowhere", "no such file"]),
        ("data.paths=[nowhere]", 3, ["nowhere", "no such file"]),
        ("data.validation_fraction=0.99999", 2, ["the text to train on has 0 tokens"]),
    ],
)
def test_changes_of_a_recipe(place, call, change, code, words):
    check(call("train", "tiny.yaml", "--run", "new", "--set", change), code, *words)
    assert not Path("new").exists(), "the same command can be given again once the fault is mended"


def test_recipe_is_not_there_or_a_folder(place, call):
    check(call("train", "none.yaml"), 3, "none.yaml", "no such recipe", "quickstart")
    check(call("train", "run"), 2, "a recipe is a file, this is a folder", "zhixing resume run")


# Text


@pytest.mark.parametrize(
    ("name", "data", "code", "words"),
    [
        ("nowhere.txt", None, 3, ["no such file or folder"]),
        ("no*.txt", None, 3, ["no file matches"]),
        ("folder/", None, 2, ["nothing readable here"]),
        ("empty.txt", b"", 2, ["no text to read", "the file is empty"]),
        ("white.txt", b" \n\t\r\n ", 2, ["nothing but white space"]),
        ("binary.txt", bytes(range(256)) * 9, 2, ["binary.txt", "NUL byte"]),
        ("nul.txt", b"abc\0def" * 99, 2, ["NUL byte at offset 3"]),
        ("short.txt", b"hi", 2, ["the text to train on has", "needs 17", "give more text"]),
        ("latin.txt", "café naïve ".encode("latin-1") * 99, 2, ["latin.txt:1", "not UTF-8", "iconv"]),
        ("picture.png", b"\x89PNG", 2, ["a .png file is not text"]),
        ("no-text.csv", b"a,b\n1,2\n", 2, ["no field", "--field", "found: a, b"]),
        ("no-text.jsonl", b'{"a": 1}\n', 2, ["no field", "found: a"]),
        ("broken.json", b'{"a":', 2, ["broken.json:1", "not valid JSON"]),
        ("broken.parquet", b"PAR1junk", 2, ["not a Parquet file"]),
        ("broken.txt.gz", b"\x1f\x8b\x08junk", 2, ["damaged"]),
        ("broken.txt.zst", b"junk", 2, ["damaged"]),
        ("broken.zip", b"PKjunk", 2, ["not a zip archive"]),
    ],
)
def test_text_that_cannot_be_used(place, call, name, data, code, words):
    if data is not None:
        Path(name).write_bytes(data)
    elif name.endswith("/"):
        Path(name).mkdir()
    check(call("train", "tiny.yaml", name, "--run", "new", "--set", "tokenizer.kind=byte", "--set",
               "tokenizer.vocab_size=257"), code, *words)  # fmt: skip
    assert not Path("new").exists()
    if name != "short.txt":  # which can be measured
        check(call("eval", "run", name), code, *words)
        check(call("tokenizer", "train", name, "--out", "tokenizer"), code, *words)
        check(call("quickstart", name, "--run", "new"), code, *words)
        assert not Path("tokenizer").exists()
        assert not Path("new").exists()


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("gb18030.txt", ("道可道，非常道。\n\n" * 60).encode("gb18030"), "gb18030.txt"),
        ("utf-16.txt", TEXT.encode("utf-16"), "utf-16.txt"),
        (
            "good and bad.jsonl",
            (json.dumps({"text": TEXT}) + '\n{"text": \n[1]\n').encode(),
            'good and bad.jsonl", "line": 2',
        ),
        ("知行 文 😀 ü's $HOME.txt", TEXT.encode(), None),
    ],
)
def test_odd_text_is_read_and_what_is_left_out_is_said(place, call, capsys, name, data, problem):
    folder = Path("a folder 文 😀")
    folder.mkdir()
    (folder / name).write_bytes(data)
    ended = call("eval", "run", folder, "--json")
    assert ended.code == 0, ended.err
    values = json.loads(ended.out)
    assert values["tokens"] > 100
    assert (problem is None) == (not values["problems"]["counts"])
    assert problem is None or problem in json.dumps(values["problems"], ensure_ascii=False)
    small = ["--set", "train.steps=1", "--set", "data.validation_fraction=0.3"]
    ended = call("train", "tiny.yaml", folder, "--run", "my run 文 😀", *small)
    assert ended.code == 0, ended.err
    assert call("generate", "my run 文 😀", "道", "--max-tokens", "2").code == 0
    assert call("resume", "my run 文 😀").code == 0


# Models


def edit_config(**changes):
    path = Path("run/model/config.json")
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def edit_weights(change):
    path = Path("run/model/model.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def config(**changes):
    return lambda: edit_config(**changes)


def weights(change):
    return lambda: edit_weights(change)


def long_header():
    path = Path("run/model/model.safetensors")
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])


def pickled():
    Path("run/model/model.safetensors").unlink()
    torch.save({"a": torch.zeros(2)}, "run/model/pytorch_model.bin")


def index(target):
    def write():
        Path("run/model/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": target}}))

    return write


def foreign_tokenizer():
    from zhixing.tokenization.train import train_tokenizer

    train_tokenizer([TEXT * 2], "byte-bpe", 500, min_frequency=1).tokenizer.save("run/model")


CONFIG, WEIGHTS, WORDS = "run/model/config.json", "run/model/model.safetensors", "run/model/tokenizer.json"
HEAD = "lm_head.weight"
MODELS = {
    "config is broken": (replace(CONFIG, b"{"), 2, ["config.json:1", "not valid JSON"]),
    "config is empty": (replace(CONFIG, b""), 2, ["config.json:1", "not valid JSON"]),
    "config is a list": (replace(CONFIG, b"[]"), 2, ["not a mapping"]),
    "config is binary": (replace(CONFIG, b"\xff\xfe"), 2, ["config.json", "not UTF-8"]),
    "config is deep": (replace(CONFIG, b"[" * 99_999), 2, ["nested beyond"]),
    "config is missing": (remove(CONFIG), 3, ["no model yet"]),
    "architecture is unknown": (config(model_type="whisper"), 2, ["unknown architecture 'whisper'", "llama"]),
    "encoder": (config(model_type="bert"), 2, ["'bert' is an encoder", "writes none", "zhixing embed"]),
    "architecture is missing": (config(model_type=...), 2, ["no 'model_type'"]),
    "field is unknown": (config(secret=3), 2, ["unknown configuration field 'secret' = 3"]),
    "size is missing": (config(hidden_size=...), 2, ["'hidden_size' is missing"]),
    "size is text": (config(hidden_size="16"), 2, ["'hidden_size'", "whole number", "'16'"]),
    "size is negative": (config(hidden_size=-4), 2, ["'hidden_size'", "-4"]),
    "size is a fraction": (config(intermediate_size=0.5), 2, ["'intermediate_size'", "0.5"]),
    "size is huge": (config(hidden_size=1 << 29), 2, ["has shape", "config.json asks for", "different models"]),
    "layers are too many": (config(num_hidden_layers=1 << 29), 2, ["'num_hidden_layers'", "from 1 to 1000"]),
    "one layer more": (config(num_hidden_layers=2), 2, ["missing tensors: blocks.1", "different models"]),
    "vocabulary is another": (config(vocab_size=299), 2, ["has shape (300, 16)", "(299, 16)"]),
    "number is text": (config(rms_norm_eps="x"), 2, ["'rms_norm_eps' must be a number"]),
    "number is none": (config(rms_norm_eps=float("nan")), 2, ["'rms_norm_eps' must be a number"]),
    "rope is a number": (config(rope_parameters=5), 2, ["'rope_parameters' must be a mapping"]),
    "rope holds text": (config(rope_parameters={"rope_theta": "x"}), 2, ["'rope_theta' must be a number"]),
    "rope scaling is a list": (config(rope_scaling=[1]), 2, ["'rope_scaling' must be a mapping"]),
    "rope base is negative": (config(rope_theta=-1, rope_parameters=None), 2, ["rope_theta must be above 0"]),
    "flag is text": (config(tie_word_embeddings="yes"), 2, ["'tie_word_embeddings' must be true or false"]),
    "heads do not fit": (config(num_attention_heads=3), 2, ["config.json", "multiple of model.kv_heads"]),
    "head size is odd": (config(head_dim=7), 2, ["config.json", "even model.head_dim"]),
    "activation is another": (config(hidden_act="quick_gelu"), 2, ["'hidden_act' is 'quick_gelu'", "only silu"]),
    "weights are missing": (remove(WEIGHTS), 3, ["no model.safetensors"]),
    "weights are empty": (lambda: cut(WEIGHTS, 0), 2, ["not a whole safetensors file", "copy it again"]),
    "weights end in the header": (lambda: cut(WEIGHTS, 0.01), 2, ["not a whole safetensors file"]),
    "weights end half way": (lambda: cut(WEIGHTS, 0.5), 2, ["not a whole safetensors file"]),
    "weights lack the end": (lambda: cut(WEIGHTS, 0.9999), 2, ["not a whole safetensors file"]),
    "header is too long": (long_header, 2, ["not a whole safetensors file"]),
    "weights are junk": (replace(WEIGHTS, b"junk" * 99), 2, ["not a whole safetensors file"]),
    "tensor is missing": (weights(lambda t: t.pop("model.norm.weight")), 2, ["missing tensors: final_norm.weight"]),
    "head is missing": (weights(lambda t: t.pop(HEAD)), 2, ["output head is missing", "tie_word_embeddings"]),
    "tensor is unknown": (weights(lambda t: t.update(evil=torch.ones(2))), 2, ["'evil' has no place"]),
    "shape is wrong": (weights(lambda t: t.update({HEAD: torch.ones(2, 3)})), 2, ["has shape (2, 3)"]),
    "type is wrong": (weights(lambda t: t.update({HEAD: t[HEAD].int()})), 2, ["the type I32", "weights are float32"]),
    "weights are NaN": (weights(lambda t: t[HEAD].fill_(float("nan"))), 2, ["not numbers (NaN)", "earlier checkpoint"]),
    "weights are pickled": (pickled, 2, ["pickled weights", "never loaded", "safetensors"]),
    "index leads outside": (index("../x.safetensors"), 2, ["outside the folder"]),
    "index names nothing": (index("x.safetensors"), 3, ["'x.safetensors' is missing"]),
    "tokenizer is broken": (replace(WORDS, b"{"), 2, ["tokenizer.json:1", "not valid JSON"]),
    "tokenizer is none": (replace(WORDS, b"{}"), 2, ["not a tokenizer definition"]),
    "tokenizer is binary": (replace(WORDS, b"\xff" * 9), 2, ["not UTF-8"]),
    "tokenizer has a huge id": (
        replace(WORDS, b'{"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}'), 2, ["id 4000000000"],
    ),
    "tokenizer is another's": (foreign_tokenizer, 2, ["tokens but the model only 300", "another model"]),
    "tokenizer is missing": (remove(WORDS), 2, ["no tokenizer"]),
    "roles are broken": (replace("run/model/tokenizer_config.json", b"{"), 2, ["tokenizer_config.json:1"]),
    "settings are broken": (replace("run/model/generation_config.json", b"["), 2, ["generation_config.json:1"]),
    "settings are a list": (replace("run/model/generation_config.json", b"[1]"), 2, ["not a mapping"]),
    "setting is out of range": (
        replace("run/model/generation_config.json", b'{"temperature": -1}'), 2, ["generation_config.json", "got -1"],
    ),
    "setting is of another kind": (
        replace("run/model/generation_config.json", b'{"eos_token_id": "x"}'), 2, ["generation_config.json", "'x'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "code", "words"), MODELS.values(), ids=MODELS)
def test_models(place, call, damage, code, words):
    damage()
    check(call("generate", "run", "hi", "--max-tokens", "2", "--greedy"), code, *words)
    error = BadInput if code == 2 else MissingResource
    with pytest.raises(error):
        zhixing.load("run").generate("hi", max_tokens=2, temperature=0.5)
    if not words[0].startswith("generation_config"):  # which does not concern measuring
        ended = call("eval", "run", "text.txt")
        check(ended, 3 if words[0] == "no tokenizer" else code)


def test_references(place, call, monkeypatch):
    Path("young").mkdir()
    shutil.copy("run/recipe.yaml", "young")
    monkeypatch.setenv("ZHIXING_CACHE", str(place / "cache"))
    for command in (["generate", "REF", "x"], ["eval", "REF", "text.txt"]):

        def check_reference(ref, code, *words, command=command):
            check(call(*[ref if word == "REF" else word for word in command]), code, *words)

        check_reference("nowhere", 3, "nowhere", "no such model", "zhixing runs", "zhixing models list")
        check_reference("rum", 3, "did you mean run?")
        check_reference("", 2, "the model reference is empty")
        check_reference("text.txt", 2, "a model is a folder or a .gguf file", "another file")
        check_reference(".", 2, "neither a model folder nor a run folder", "models inside: run")
        check_reference("young", 3, "no model yet", "zhixing resume young")
        check_reference("hf:a/b", 3, "HF_HUB_OFFLINE=1 forbids the network", "zhixing models pull hf:a/b")
        check_reference("hf:a", 3, "forbids the network")
        check_reference("ms:a", 2, "not a place on ModelScope")
        check_reference("pypi:a", 2, "not a place in a wheel")
        check_reference("smollm2-13m", 3, "did you mean smollm2-135m?")
    with pytest.raises(MissingResource, match="no such model"):
        zhixing.load("nowhere")
    with pytest.raises(BadInput, match="number type 'int4'"):
        zhixing.load("run", dtype="int4")
    with pytest.raises(BadInput, match="'abacus' is not a device"):
        zhixing.load("run", device="abacus")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], ["temperature must be", "got -1"]),
        (["--temperature", "nan"], ["temperature must be", "nan"]),
        (["--top-p", "0"], ["top_p must be", "got 0"]),
        (["--top-p", "2"], ["top_p must be", "got 2"]),
        (["--top-k", "-1"], ["top_k must be", "got -1"]),
        (["--max-tokens", "0"], ["max_tokens must be", "got 0"]),
        (["--samples", "0"], ["at least 1", "got 0"]),
        (["--repetition-penalty", "0"], ["repetition_penalty must be", "got 0"]),
        (["--stop", ""], ["stop must be", "none of them empty"]),
        (["--greedy", "--temperature", "1"], ["contradict"]),
        (["--device", "abacus"], ["'abacus' is not a device"]),
        (["--sliding", "word " * 99], ["the model's context is 16", "shorten the prompt"]),
    ],
)
def test_generation_options(place, call, options, words):
    prompt = [] if " " in options[-1] else ["hi"]
    check(call("generate", "run", *prompt, *options), 2, *words)


def test_prompts(place, call):
    check(call("generate", "run", "alpha " * 99), 2, "the model's context is 16", "at most 15 tokens")
    check(call("generate", "run", "a\udcffb"), 2, "half a character")
    ended = call("generate", "run", "", "--max-tokens", "2")
    assert ended.code == 0  # it starts from the end-of-text token, and says so unless told to be quiet
    with pytest.raises(BadInput, match="unknown option 'temprature'"):
        zhixing.load("run").generate("x", temprature=1)
    with pytest.raises(BadInput, match="outside of the vocabulary of 300"):
        zhixing.load("run").complete([[1, 300]])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["eval", "run", "text.txt", "--window", "0"], 2, ["--window", "context of 16", "--window 16"]),
        (["eval", "run", "text.txt", "--window", "99"], 2, ["--window", "context of 16"]),
        (["eval", "run", "text.txt", "--stride", "0"], 2, ["--stride", "window of 16"]),
        (["eval", "run", ""], 2, ["an empty path"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--kind", "words"], 2, ["'words'", "unigram"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--vocab-size", "9"], 2, ["of 9 is too small", "257"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--sample-mb", "0"], 2, ["--sample-mb", "above 0"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--sample-mb", "nan"], 2, ["--sample-mb", "above 0"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--max-digits", "9"], 2, ["max_digits is 9"]),
        (["tokenizer", "train", "text.txt", "--out", "t", "--special", ""], 2, ["not empty"]),
        (["tokenizer", "train", "text.txt", "--out", "run/model"], 2, ["there is a tokenizer", "--overwrite"]),
        (["tokenizer", "train", "text.txt", "--out", "tiny.yaml"], 3, ["a file is in the place of a folder"]),
        (["tokenizer", "show", "nowhere"], 3, ["nowhere", "no such file"]),
        (["tokenizer", "show", "text.txt"], 2, ["text.txt"]),
        (["tokenizer", "show", "."], 2, ["no tokenizer", "looked for"]),
        (["tokenizer", "show", "run/model/config.json"], 2, ["not a tokenizer definition"]),
        (["tokenizer", "show", "run/model", "\udcff"], 2, ["half a character"]),
        (["tokenizer", "compare", "run/model"], 2, ["--text or --data"]),
        (["tokenizer", "compare", "run/model", "nowhere", "--text", "x"], 3, ["nowhere"]),
        (["tokenizer", "compare", "run/model", "--text", ""], 2, ["no text to compare on"]),
        (["tokenizer", "compare", "run/model", "--data", "text.txt", "--sample-mb", "-5"], 2, ["--sample-mb"]),
        (["runs", "nowhere"], 3, ["nowhere", "no such folder"]),
        (["runs", "--by", "x"], 2, ["unknown order 'x'", "bits_per_byte"]),
        (["report", "nowhere"], 3, ["no such run", "zhixing runs"]),
        (["report", "."], 2, ["not a run folder"]),
        (["resume", "nowhere"], 3, ["no such run", "zhixing runs"]),
        (["resume", "text.txt"], 3, ["text.txt", "no such run"]),
        (["resume", "."], 2, ["not a run folder"]),
        (["quickstart", "text.txt", "--set", "a=1"], 2, ["unknown key 'a'"]),
        (["train", "tiny.yaml", "--run", "run"], 2, ["already holds a run", "never overwritten", "resume run"]),
        (["train", "tiny.yaml", "--run", "text.txt"], 2, ["a run is a folder, this is a file"]),
        (["train", "tiny.yaml", "--run", "text.txt/x"], 3, ["a file is in the place of a folder"]),
        (["train", "tiny.yaml", "--run", "."], 2, ["not an empty folder", "--run"]),
    ],
)
def test_other_arguments(place, call, arguments, code, words):
    before = content(place / "run")
    check(call(*arguments), code, *words)
    assert content(place / "run") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["Missing command"]),
        (["fly"], ["No such command 'fly'"]),
        (["train"], ["no recipe is named", "recipes/"]),
        (["generate", "run", "hi", "--temperature", "warm"], ["--temperature", "valid number"]),
        (["quickstart", "--minutes", "0"], ["--minutes"]),
        (["tokenizer", "train", "text.txt"], ["Missing option '--out'"]),
    ],
)
def test_commands_that_are_not_understood(place, call, arguments, words):
    ended = call(*arguments)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err + ended.out
