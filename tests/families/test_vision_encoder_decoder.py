"""Networks that describe images against `transformers`: logits, gradients and written texts, both ways."""

import json

import pytest
import torch

from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import load_folder
from zhixing.checkpoints.opening import check_model
from zhixing.checkpoints.vision_folder import describes_images, load_vision, save_vision
from zhixing.core.errors import BadInput
from zhixing.generation.generate import Generator
from zhixing.generation.options import SamplingOptions
from zhixing.models.ragged import Ragged

transformers = pytest.importorskip("transformers")

VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
GPT2 = {
    "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "add_cross_attention": True,
    "is_decoder": True, "bos_token_id": 3, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
CASES = {
    "one width": {},
    "two widths": {"n_embd": 24},
    "untied": {"n_embd": 24, "tie_word_embeddings": False, "activation_function": "relu"},
}
TEXTS = [[3, 8, 9, 33, 41], [3], [3, 7, 7, 7]]


def make(case, folder, std=0.3):
    torch.manual_seed(5)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VIT), transformers.GPT2Config(**{**GPT2, **CASES[case]})
    )
    config.decoder_start_token_id, config.pad_token_id = 3, 0
    model = transformers.VisionEncoderDecoderModel(config=config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    model.decoder.tie_weights()
    model.generation_config.decoder_start_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return model


def pixels(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def their_logits(model):
    rows = []
    for image, text in zip(pixels(), TEXTS, strict=True):
        rows.append(model(pixel_values=image[None], decoder_input_ids=torch.tensor([text])).logits[0])
    return torch.cat(rows)


@pytest.fixture(params=CASES)
def published(request, tmp_path):
    return tmp_path / "published", make(request.param, tmp_path / "published")


def test_their_folder_gives_the_same_logits_here(published):
    folder, theirs = published
    opened = load_vision(folder)
    assert describes_images(folder)
    assert opened.model.config.start == 3
    with torch.no_grad():
        expected, found = their_logits(theirs), opened.model(pixels(), Ragged.of(TEXTS))
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_our_folder_opens_there_with_the_same_logits(published, tmp_path):
    folder, theirs = published
    opened = load_vision(folder)
    save_vision(
        tmp_path / "ours", opened.model, None, opened.processor, generation=opened.generation, unused=opened.unused
    )
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        expected, found = (their_logits(model.eval()) for model in (theirs, again))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_theirs(published, tmp_path):
    folder, theirs = published
    ours = load_vision(folder).model
    their_logits(theirs).sin().sum().backward()
    ours(pixels(), Ragged.of(TEXTS)).sin().sum().backward()
    # The names in the network are not those of the file; so the gradients are saved as if they were weights.
    for parameter in theirs.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "gradients")
    expected = dict(load_vision(tmp_path / "gradients").model.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].data, atol=5e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize("beams", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_written_texts_equal_theirs(case, tmp_path, beams):
    folder, theirs = tmp_path, make(case, tmp_path, std=0.7)  # so that no image gets the text of another
    with torch.no_grad():
        expected = theirs.generate(pixels(4), max_new_tokens=12, num_beams=beams, do_sample=False)
    model = load_vision(folder).model
    options = SamplingOptions(max_tokens=12, temperature=0.0, num_beams=beams, end_tokens=(0,))
    found = Generator(model.reading(pixels(4)), None).generate([[3]] * 4, options)
    texts = [[token for token in answer.tokens if token != 0] for answer in found]
    assert texts == [[token for token in row[1:].tolist() if token != 0] for row in expected]
    assert len({tuple(text) for text in texts}) > 1


def test_the_loss_is_that_of_the_logits(tmp_path):
    make("two widths", tmp_path)
    model = load_vision(tmp_path).model
    inputs, targets = Ragged.of(TEXTS), torch.tensor([8, 9, 33, 41, 0, 0, 7, 7, 7, 0])
    logits = model(pixels(), inputs)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(model.loss_sum(pixels(), inputs, targets), expected)
    assert model.config.parameter_count() == sum(p.numel() for p in model.parameters())


def test_it_is_described_and_checked(tmp_path):
    make("two widths", tmp_path)
    facts = describe(tmp_path)
    assert facts.family == "vision-encoder-decoder"
    assert (facts.sizes["layers"], facts.sizes["width"], facts.context) == (2, 24, 24)
    assert (facts.sizes["image_size"], facts.sizes["patch_size"], facts.sizes["image_layers"]) == (16, 4, 2)
    assert check_model(tmp_path) == [
        f"{tmp_path}: no preprocessor_config.json; images are resized to 16 x 16, from -1 to 1"
    ]
    with pytest.raises(BadInput, match="it describes images"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"model_type": "swin"}}, "unknown architecture 'swin'"),
        ({"decoder": {"model_type": "bert"}}, "unknown architecture 'bert'"),
        ({"decoder": {"n_head": 5}}, "heads|shape"),
        ({"decoder": {"add_cross_attention": False}}, "add_cross_attention"),
        ({"decoder": {"n_layer": 3}}, "missing tensors"),
        ({"encoder": {"image_size": 32}}, "shape"),
        ({"decoder_start_token_id": 50}, "start token 50 is outside"),
        ({"adapter": 1}, "unknown configuration field 'adapter'"),
        ({"decoder": None}, "decoder"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(tmp_path, change, message):
    make("one width", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    with pytest.raises(BadInput, match=message) as caught:
        load_vision(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_without_a_start_token_the_file_is_refused(tmp_path):
    make("one width", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["decoder_start_token_id"]
    del values["decoder"]["bos_token_id"]
    values.pop("bos_token_id", None)
    path.write_text(json.dumps(values))
    with pytest.raises(BadInput, match="no 'decoder_start_token_id'"):
        load_vision(tmp_path)
