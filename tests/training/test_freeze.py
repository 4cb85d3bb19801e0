"""Parameters and running statistics of frozen layers are bit-identical after ten steps."""

import pytest
import torch
from torch import nn

from rtdetr import zoo
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.models.layers import FrozenBatchNorm2d
from rtdetr.training import build_optimizer
from rtdetr.training.freeze import freeze
from rtdetr.weights import load_model, save_weights
from tests.training.small import only_the_loop, run_tiny, write_folder

STEM = ["backbone.conv1."]
PARTS = {
    0: STEM,
    2: [*STEM, "backbone.res_layers.0.", "backbone.res_layers.1."],
    "backbone": ["backbone."],
    "encoder": ["backbone.", "encoder."],
}


@pytest.mark.parametrize("part", PARTS)
def test_ten_steps_change_everything_except_frozen_layers(part):
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=2)
    for norm in model.modules():  # values that a run starting from weights has
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    freeze(model, part)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, zoo.recipe("test-tiny").replace(lr=1e-2))
    for _ in range(10):
        model.train()
        box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
        output = model(torch.rand(2, 3, 64, 64), [{"labels": torch.tensor([1]), "boxes": box}] * 2)
        sum(value.sum() for layer in (output, *output.encoder) for value in layer[:2]).backward()
        optimizer.step()
        optimizer.zero_grad()
    frozen = tuple(PARTS[part])
    after = model.state_dict()
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(after[name], value), name
        elif name.endswith("running_var"):
            assert not torch.equal(after[name], value), name
    assert all(name.startswith(frozen) != value.requires_grad for name, value in model.named_parameters())


def test_the_output_stays_the_same():
    torch.manual_seed(0)
    model = build_model("rtdetrv2_hgnetv2_l", num_classes=2).eval()
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        before = model.backbone(images)
        freeze(model, "backbone")
        after = model.backbone(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in model.encoder.modules()) == 0
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["decoder", 5, -1])
def test_invalid_parts(part):
    with pytest.raises(ConfigError, match="freeze: expected 'backbone', 'encoder' or a number of stages"):
        freeze(build_model("test-tiny"), part)


def test_frozen_layers_may_change_when_resuming(tmp_path, caplog):
    data, run = write_folder(tmp_path / "data"), tmp_path / "run"
    settings = {"freeze": "backbone", "rehearsal": False, "evaluate_every": 0}
    weights, told = [], []
    with only_the_loop():
        run_tiny(data, run, **settings, epochs=1)
        weights.append(load_model(run / "last.pth")[0].backbone.state_dict())
        for epochs, part in ((2, "none"), (3, "backbone")):
            caplog.clear()
            run_tiny(None, resume=run, freeze=part, epochs=epochs)
            weights.append(load_model(run / "last.pth")[0].backbone.state_dict())
            told += [text for text in caplog.messages if text.startswith("resume: ")]
    frozen, trained, kept = ([value for name, value in one.items() if "conv.weight" in name] for one in weights)
    assert not any(map(torch.equal, frozen, trained))
    assert len(told) == 2
    count = int(told[0].split()[1])
    assert told == [
        f"resume: {count} tensors are now trained, starting with zero moments",
        f"resume: {count} tensors are no longer trained",
    ]
    assert len(kept) == len(trained)


def test_a_run_with_a_frozen_backbone_keeps_it_and_resumes(tmp_path):
    torch.manual_seed(0)
    source = build_model("test-tiny", num_classes=3)
    save_weights(source, tmp_path / "w.pth")
    data = write_folder(tmp_path / "data")
    run = tmp_path / "run"
    settings = {
        "recipe": "finetune",
        "weights": tmp_path / "w.pth",
        "freeze": "backbone",
        "rehearsal": False,
        "evaluate_every": 0,
    }
    with only_the_loop():
        run_tiny(data, run, **settings, epochs=1)
        result = run_tiny(None, resume=run, epochs=2)
    trained, _ = load_model(result.last_weights)
    for name, value in source.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(trained.backbone.state_dict()[name], value) or "running" in name, name
    assert not torch.equal(trained.decoder.enc_output.proj.weight, source.decoder.enc_output.proj.weight)
