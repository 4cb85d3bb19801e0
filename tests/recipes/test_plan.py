"""The plan of a run, and whether its estimated memory is what a step takes."""

import re

import pytest
import torch

import rtdetr
from rtdetr import zoo
from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import open_dataset
from rtdetr.models import build_model
from rtdetr.recipes.named_recipes import deim, finetune
from rtdetr.recipes.plan import SplitCounts, describe
from rtdetr.training.freeze import freeze
from rtdetr.training.memory import estimate_memory
from rtdetr.training.optimizer import build_optimizer
from tests.coco_files import document, many_images, write_dataset
from tests.training.small import config_of


def kept_bytes(model, images):
    """What a true forward pass keeps."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(images)
    del output
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("size_hw", [(64, 64), (96, 160)])
def test_estimated_memory_agrees_with_a_real_forward_pass(size_hw):
    model = build_model("test-tiny").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = Recipe(batch_size=3, train_size_hw=size_hw, multiscale_sizes=())
    memory = estimate_memory(model, recipe, dtype=torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert memory.weights == 20 * parameters
    assert memory.activations == pytest.approx(kept_bytes(model, torch.rand(3, 3, *size_hw)), rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_estimated_memory_counts_the_state_of_the_optimizer(optimizer):
    model = build_model("test-tiny")
    first, second, *_ = model.decoder.dec_bbox_head
    second.layers[0].weight = first.layers[0].weight  # shared, so it has one state
    recipe = Recipe(optimizer=optimizer, train_size_hw=(64, 64), multiscale_sizes=())
    built = build_optimizer(model, recipe)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    moments = sum(value.nbytes for state in built.state.values() for value in state.values() if value.ndim)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    memory = estimate_memory(model, recipe, dtype=torch.float32)
    assert memory.weights == 3 * weights + moments  # EMA and gradients are as large as the weights


def test_memory_of_a_part_that_copies_itself(monkeypatch):
    model = build_model("test-tiny")
    recipe = Recipe(train_size_hw=(64, 64), multiscale_sizes=())
    expected = estimate_memory(model, recipe, dtype=torch.float32)
    monkeypatch.setattr(type(model.decoder), "__deepcopy__", lambda *_: build_model("test-tiny").decoder, raising=False)
    assert estimate_memory(model, recipe, dtype=torch.float32) == expected


@pytest.mark.slow
def test_memory_follows_the_recipe():
    model = build_model("test-tiny")
    recipe = Recipe(batch_size=4, train_size_hw=(64, 64), multiscale_sizes=())
    whole = estimate_memory(model, recipe, dtype=torch.float32)
    assert (
        estimate_memory(model, recipe.replace(accumulate=4), dtype=torch.float32).activations * 4 == whole.activations
    )
    assert estimate_memory(model, recipe, dtype=torch.float32, world_size=2).activations * 2 == whole.activations
    assert estimate_memory(model, recipe, dtype=torch.float16).activations * 2 == pytest.approx(
        whole.activations, abs=16
    )
    larger = estimate_memory(model, recipe.replace(multiscale_sizes=(64, 128)), dtype=torch.float32)
    assert 2 * whole.activations < larger.activations < 5 * whole.activations
    again = estimate_memory(model, recipe.replace(gradient_checkpointing=True), dtype=torch.float32)
    assert 0.2 * whole.activations < again.activations < 0.8 * whole.activations
    freeze(model, "backbone")
    frozen = estimate_memory(model, recipe, dtype=torch.float32)
    assert frozen.activations < whole.activations and frozen.weights < whole.weights
    assert estimate_memory(model, recipe, dtype=torch.float16).activations * 2 == pytest.approx(
        frozen.activations, abs=16
    )


def test_constant_norms_keep_two_bytes_under_autocast():
    model = build_model("test-tiny").train()
    images = torch.rand(1, 3, 384, 384)  # large, because autocast's copies of the weights are kept as well
    freeze(model, "backbone")
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # so that the backbone keeps something
    whole = kept_bytes(model.backbone, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model.backbone(images)
        assert all(one.dtype == torch.bfloat16 for one in maps)
        assert kept_bytes(model.backbone, images) < 0.7 * whole


def test_finetune_counts_the_steps_that_balancing_adds(tmp_path):
    content = many_images(12, seed=0)
    for annotation in content["annotations"]:  # one class is in a single image
        annotation["category_id"] = 7 if annotation["image_id"] == content["annotations"][0]["image_id"] else 3
    _, file = write_dataset(tmp_path, content)
    settings = {"weights": "none", "recipe": "finetune", "batch_size": 1, "epochs": 20, "evaluate_every": 0}
    settings |= {"model": "test-tiny", "device": "cpu", "workers": 0, "dry_run": True}
    steps = []
    for balance in (False, True):
        folder = rtdetr.train(file, output_dir=tmp_path / f"{balance}", balance=balance, **settings).output_dir
        steps.append(int(re.search(r"20 epochs of (\d+) steps", (folder / "plan.txt").read_text())[1]))
        assert config_of(folder)["recipe"]["warmup_iterations"] == round(20 * steps[-1] / 20)
    assert steps[0] == 12 < steps[1]


def plan(recipe, *, val=None, **changes):
    model = build_model("test-tiny", num_classes=3)
    values = {"data": "d", "model": "test-tiny", "output_dir": "runs/x", "recipe": recipe}
    config = TrainConfig(**{**values, **{k: v for k, v in changes.items() if k in TrainConfig.model_fields}})
    more = {k: v for k, v in changes.items() if k not in TrainConfig.model_fields}
    return describe(config, model=model, train=SplitCounts(1000, 12), val=val, steps_per_epoch=62, **more)


def test_plan_text():
    recipe = finetune(zoo.recipe("test-tiny"), num_images=1000)
    lines = plan(recipe, recipe_name="finetune", weights="w.pth", freeze=2).splitlines()
    assert lines == [
        "model          test-tiny, 0.4 M parameters (0.4 M trainable, frozen: stem and 2 stages), starting from the "
        "weights w.pth",
        "data           1,000 images (12 without objects); 3 classes; no evaluation",
        "training data  d",
        "recipe         finetune: adapted to this dataset; --recipe published is the published recipe of the model",
        "length         72 epochs of 62 steps, batch size 16; 4,464 steps in total",
        "learning rate  0.000145; 223 warm-up steps; constant for 36 epochs, then cosine decay to 5%",
        "EMA            decay 0.99552, 45 warm-up steps",
        "images         64x64; color, zoom-out and crop augmentation for 60 epochs; horizontal flips",
        "loss           2 MAL + 5 L1 + 2 GIoU",
        "compute        float32 on cpu",
        "time           unknown; the rehearsal measures it",
        "output         runs/x",
    ]


def test_where_the_data_comes_from():
    origins = {"data": "DATA", "val_data": "a.yml", "val_images": "a.yml"}
    more = {"data": ("d", "e"), "val_data": "v.json", "val_images": "v", "data_origins": origins}
    lines = plan(Recipe(), val=SplitCounts(1, 0), **more).splitlines()
    assert lines[2:4] == ["training data  d, e (DATA)", "validation     v.json (a.yml); images in v (a.yml)"]
    assert "\nvalidation     val split of the same data\n" in plan(Recipe(), val=SplitCounts(1, 0))


def test_crowd_regions_are_no_objects(tmp_path):
    content = document()  # of its three images one is empty
    for row in content["annotations"]:
        row["iscrowd"] = int(row["image_id"] == content["annotations"][0]["image_id"])
    counts = SplitCounts.of(open_dataset(write_dataset(tmp_path, content)[1], split="train"))
    assert counts == (3, 2)
    text = plan(Recipe(), val=SplitCounts(1, 1))
    assert "; 3 classes; validation: 1 image (1 without objects)\n" in text


def test_other_recipes():
    text = plan(deim("rtdetrv2_r50vd"), backbone_weights="auto", freeze="encoder")
    assert "frozen: backbone and encoder), starting from ImageNet backbone weights" in text
    rate = "0.0002, backbone 2e-05; 2,000 warm-up steps; constant for 34 epochs, then cosine decay to 50%"
    assert f"learning rate  {rate}\n" in text
    assert "multi-scale 480 to 800 for 58 epochs" in text
    assert "zoom-out and crop augmentation in epochs 5 to 58; mosaic with probability 0.5 in epochs 5 to 34" in text
    assert "1 MAL + 5 L1 + 2 GIoU" in text
    text = plan(deim("rtdetrv2_r50vd").replace(copy_paste=0.5, zoom_in=0.2, repeats=2))
    assert "; copy-paste with probability 0.5 in epochs 5 to 34; zoom-in on tiny objects with probability 0.2" in text
    assert "probability 0.2 in epochs 5 to 58; each image 2 times per batch; horizontal flips" in text
    text = plan(deim("rtdetrv2_r50vd").replace(augmentation_stop_epoch=9))
    assert "crop augmentation in epochs 5 to 9; mosaic with probability 0.5 in epochs 5 to 9" in text
    text = plan(deim("rtdetrv2_r50vd").replace(augmentation_stop_epoch=0))
    assert "; mosaic in no epoch, because train.augmentation_stop_epoch is 0; mixup in no epoch, because" in text
    text = plan(Recipe(augmentation_stop_epoch=0, mixing_stop_epoch=0, zoom_in=0.2))
    assert "zoom-in on tiny objects in no epoch, because train.augmentation_stop_epoch is 0" in text
    text = plan(Recipe(mixing_stop_epoch=0, mosaic=0.5))
    assert "mosaic in no epoch, because train.mixing_stop_epoch is 0" in text
    text = plan(Recipe(epochs=322), recipe_name="scratch")  # of 62 steps
    assert "\nrecipe         scratch: adapted to runs of fewer than 20,000 steps; --recipe published is the" in text
    text = plan(Recipe(epochs=323), recipe_name="scratch")
    assert "\nrecipe         scratch: as deim, in runs of at least 20,000 steps; --recipe published is the" in text
    text = plan(Recipe(epochs=9, schedule="steps", milestones=(6, 8)), rehearsal=False)
    assert "558 warm-up steps; multiplied by 0.1 at epochs 6, 8" in text
    late = {"milestones_after_warmup": True, "warmup_iterations": 125}  # of 62 steps an epoch
    text = plan(Recipe(epochs=11, schedule="steps", milestones=(6, 8), **late), rehearsal=False)
    assert "125 warm-up steps; multiplied by 0.1 at epochs 8, 10" in text
    assert "starting from random weights" in text and "unknown; shown after the first steps" in text


def test_unused_voc_classes_are_reported():
    text = plan(Recipe(), implied=["aeroplane"])
    assert (
        "\nclasses        3 classes, 2 of them in the data: the names are Pascal VOC's, so its whole list is used; to "
        "use only your own, add a classes.txt with their names to the dataset folder\n" in text
    )
