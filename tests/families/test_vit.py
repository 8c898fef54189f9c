"""The Vision Transformer against `transformers`: vectors, scores and gradients of tiny random models, both ways."""

import json

import pytest
import torch

from zhixing.checkpoints.describe import describe
from zhixing.checkpoints.folder import load_folder
from zhixing.checkpoints.image_folder import load_image_encoder, save_image_encoder
from zhixing.checkpoints.opening import check_model
from zhixing.core.errors import BadInput, MissingResource

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
CASES = {
    "vectors": ("ViTModel", SMALL),
    "labels": ("ViTForImageClassification", {**SMALL, "num_labels": 3}),
    "no query bias, tanh": ("ViTModel", {**SMALL, "qkv_bias": False, "hidden_act": "gelu_new"}),
    "an edge that is left over": ("ViTModel", {**SMALL, "image_size": 18, "patch_size": 5}),
    "not square": ("ViTModel", {**SMALL, "image_size": [12, 20], "patch_size": [4, 5]}),
    "grey": ("ViTForImageClassification", {**SMALL, "num_channels": 1, "num_labels": 2}),
}


def make(case, folder, **changes):
    name, options = CASES[case]
    torch.manual_seed(3)
    model = getattr(transformers, name)(transformers.ViTConfig(**{**options, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def pixels_for(model):
    size, channels = model.config.image_size, model.config.num_channels
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return torch.randn(5, channels, height, width, generator=torch.Generator().manual_seed(1))


def their_scores(model, pixels):
    out = model(pixel_values=pixels)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


@pytest.fixture(params=CASES)
def published(request, tmp_path):
    return tmp_path / "published", make(request.param, tmp_path / "published")


def test_their_folder_gives_the_same_scores_here(published):
    folder, theirs = published
    pixels = pixels_for(theirs)
    with torch.no_grad():
        expected, found = their_scores(theirs, pixels), load_image_encoder(folder).model(pixels)
    assert float(expected.abs().max()) > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_our_folder_opens_there_with_the_same_scores(published, tmp_path):
    folder, theirs = published
    opened = load_image_encoder(folder)
    save_image_encoder(tmp_path / "ours", opened.model, opened.processor, unused=opened.unused, card="# A card")
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        expected, found = (their_scores(model.eval(), pixels_for(theirs)) for model in (theirs, again))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert load_image_encoder(tmp_path / "ours").model.labels == opened.model.labels


def test_gradients_equal_theirs(published, tmp_path):
    folder, theirs = published
    ours = load_image_encoder(folder).model
    pixels = pixels_for(theirs)
    their_scores(theirs, pixels).sin().sum().backward()
    ours(pixels).sin().sum().backward()
    # The names in the network are not those of the file; so the gradients are saved as if they were weights.
    for parameter in theirs.parameters():
        if parameter.grad is not None:
            parameter.data = parameter.grad
    theirs.save_pretrained(tmp_path / "gradients")
    expected = dict(load_image_encoder(tmp_path / "gradients").model.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].data, atol=2e-4, rtol=1e-3, msg=name)


def test_it_is_described_and_checked(tmp_path):
    make("labels", tmp_path)
    facts = describe(tmp_path)
    assert (facts.family, facts.sizes["layers"], facts.sizes["width"]) == ("vit", 2, 32)
    assert check_model(tmp_path) == [
        f"{tmp_path}: no preprocessor_config.json; images are resized to 16 x 16, from -1 to 1"
    ]
    with pytest.raises(BadInput, match="image encoder: it reads images and writes no text"):
        load_folder(tmp_path)


def test_images_of_another_size_are_refused(tmp_path):
    make("labels", tmp_path)
    with pytest.raises(BadInput, match=r"\(3, 16, 16\) values .* got \(3, 8, 8\)"):
        load_image_encoder(tmp_path).model(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 32}, "a patch of 32 pixels does not fit into an image of 16"),
        ({"image_size": [16]}, "'image_size' is \\[16\\]"),
        ({"image_size": 1 << 15}, "from 1 to 16384 pixels"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"qkv_bias": "yes"}, "true or false"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "unknown architecture"),
        ({"layer_scale": 0.1}, "unknown configuration field 'layer_scale'"),
        ({"hidden_size": 40}, "shape"),
        ({"num_hidden_layers": 3}, "missing tensors"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(tmp_path, change, message):
    make("labels", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match=message) as caught:
        load_image_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_weights(tmp_path):
    make("vectors", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingResource):
        load_image_encoder(tmp_path)
