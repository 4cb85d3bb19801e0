import pytest
import torch

from rtdetr import zoo
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.models.fuse import fuse
from rtdetr.weights import load_model, save_huggingface, save_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pair():
    """The same tiny network without and with normalization of its images."""
    plain = build_model("test-tiny").eval()
    normalizing = build_model(plain.config.replace(pixel_mean=MEAN, pixel_std=STD)).eval()
    normalizing.load_state_dict(plain.state_dict())  # strict: the same keys
    return plain, normalizing


def test_the_network_normalizes_its_own_images():
    plain, normalizing = pair()
    images = torch.rand(2, 3, 64, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = plain((images - mean) / std)
    for model in (normalizing, fuse(normalizing)):
        torch.testing.assert_close(model(images).logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain(images).logits, expected.logits, atol=1e-2)
    assert normalizing.double()(images.double()).logits.dtype == torch.float64


@pytest.mark.parametrize("model", [None, "test-tiny"])
def test_a_checkpoint_keeps_it(tmp_path, model):
    _, normalizing = pair()
    loaded, _ = load_model(save_weights(normalizing, tmp_path / "weights.pth"), model=model)
    assert (loaded.config.pixel_mean, loaded.config.pixel_std) == (MEAN, STD)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded(images).logits, normalizing(images).logits)


def test_the_layout_of_transformers_keeps_it_for_us_and_says_so(tmp_path):
    reasons = save_huggingface(pair()[1], tmp_path / "folder")
    assert any("does not support pixel normalization" in reason for reason in reasons)
    assert load_model(tmp_path / "folder")[0].config.pixel_std == STD


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pixel_mean": (0.5, 0.5)}, r"pixel_mean needs one number per image channel \(3\)"),
        ({"pixel_mean": MEAN, "pixel_std": (1.0,)}, r"pixel_std needs one number per image channel \(3\)"),
        ({"pixel_mean": MEAN, "pixel_std": (1.0, 0.0, 1.0)}, "> 0"),
        ({"pixel_mean": MEAN, "pixel_std": STD, "in_channels": 1}, r"per image channel \(1\)"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem):
        zoo.model_config("test-tiny").replace(**changes)


def test_one_of_the_two_is_enough():
    config = zoo.model_config("test-tiny")
    images = torch.rand(1, 3, 64, 64)
    plain, _ = pair()
    for changes, expected in (
        ({"pixel_mean": MEAN}, images - torch.tensor(MEAN).view(3, 1, 1)),
        ({"pixel_std": (0.5,) * 3}, images * 2),
    ):
        model = build_model(config.replace(**changes)).eval()
        model.load_state_dict(plain.state_dict())
        torch.testing.assert_close(model(images).logits, plain(expected).logits)
