"""Published YAML files: every configuration equals that of the zoo, and unsupported values are explained."""

import contextlib
import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtdetr import zoo
from rtdetr.config import HGNetv2Config
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.published import read_published
from rtdetr.published.data import read_train_data
from rtdetr.published.read import IGNORED, MARKS, zoo_name
from rtdetr.published.section import Section
from rtdetr.recipes.config_file import read_config
from rtdetr.training import build_optimizer
from rtdetr.yaml_files import Document
from tests.published.files import DATA, LOADER, MODEL, OPTIMIZER, RUNTIME, write_files, write_over

WIDE = "HybridEncoder: {hidden_dim: 384, dim_feedforward: 2048}\nRTDETRTransformerv2: {feat_channels: [384, 384, 384]}"
HGNET = """
RTDETR: {backbone: HGNetv2}
HGNetv2: {name: %s, return_idx: [1, 2, 3], freeze_at: 0, freeze_norm: True, pretrained: True}
"""
V1 = """
criterion: RTDETRCriterion
RTDETR: {backbone: PResNet, encoder: HybridEncoder, decoder: RTDETRTransformer}
RTDETRTransformer:
  feat_channels: [256, 256, 256]
  feat_strides: [8, 16, 32]
  hidden_dim: 256
  num_levels: 3
  num_queries: 300
  num_layers: 6
  num_denoising: 100
  eval_idx: -1
HybridEncoder: {version: v1}
RTDETRCriterion:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2,}
  losses: ['vfl', 'boxes', ]
  alpha: 0.75
  gamma: 2.0
  matcher: {type: HungarianMatcher, weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}, alpha: 0.25, gamma: 2.0}
train_dataloader: {dataset: {transforms: {policy: ~}}, collate_fn: {stop_epoch: ~}}
"""
R34 = """
PResNet: {depth: 34, freeze_at: -1, freeze_norm: False}
HybridEncoder: {in_channels: [128, 256, 512], expansion: 0.5}
RTDETRTransformerv2: {num_layers: 4}
epoches: 120
train_dataloader: {dataset: {transforms: {policy: {epoch: 117}}}, collate_fn: {stop_epoch: 117}}
optimizer:
  params:
    - {params: '^(?=.*backbone)(?!.*norm|bn).*$', lr: 0.00005}
    - {params: '^(?=.*backbone)(?=.*norm|bn).*$', lr: 0.00005, weight_decay: 0.}
    - {params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$', weight_decay: 0.}
"""
SP1 = "RTDETRTransformerv2: {num_points: [1, 1, 1]}"
DISCRETE = """
tuning: https://github.com/lyuwenyu/storage/releases/download/v0.1/rtdetrv2_r50vd_6x_coco_ema.pth
RTDETRTransformerv2: {cross_attn_method: discrete}
epoches: 12
train_dataloader: {dataset: {transforms: {policy: {epoch: 10}}}, collate_fn: {stop_epoch: 10}}
"""
VARIANTS = {
    "rtdetrv2_r50vd": "",
    "rtdetrv2_r34vd": R34,
    "rtdetrv2_r50vd_dsp": DISCRETE,
    "rtdetrv2_hgnetv2_l": HGNET
    % "'L'"
    + "optimizer: {params: [{params: '^(?=.*backbone)(?!.*norm|bn).*$', lr: 0.000005}, "
    "{params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$', weight_decay: 0.}]}",
    "rtdetr_r50vd": V1 + "optimizer: {params: [{params: '^(?=.*backbone)(?!.*norm).*$', lr: 0.00001}, {params: "
    "'^(?=.*backbone)(?=.*norm).*$', lr: 0.00001, weight_decay: 0.}, "
    "{params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn|bias)).*$', weight_decay: 0.}]}",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_the_one_of_the_zoo(tmp_path, name):
    found = read_published(write_over(tmp_path, VARIANTS[name]))
    published = zoo.recipe(name)
    assert_is_the_zoo_s(found, name, schedule="constant", milestones=(), tuning_from=published.tuning_from)


def test_the_older_folder(tmp_path):
    found = read_published(write_files(tmp_path) / "rtdetr_r18vd_6x_coco.yml")
    recipe = found.settings["recipe"]
    assert (recipe.batch_size, recipe.warmup_iterations) == (4, 0)  # of one process, of four there; no warm-up there
    same = {"schedule": "constant", "milestones": (), "batch_size": 16, "warmup_iterations": 2000}
    assert_is_the_zoo_s(found, "rtdetr_r18vd", **same)


@pytest.mark.parametrize(
    ("file", "name"),
    [("deim_r50vd_60e_coco.yml", "deim_rtdetrv2_r50vd"), ("deim_r18vd_120e_coco.yml", "deim_rtdetrv2_r18vd")],
)
def test_deim_files_are_the_deim_recipes(tmp_path, file, name):
    found = read_published(write_files(tmp_path) / file)
    assert found.settings["recipe_name"] == file and "network" not in found.settings
    assert_is_the_zoo_s(found, name)


def test_rtdetrv2_in_the_form_of_deim(tmp_path):
    plain = """
PResNet: {freeze_at: 0, freeze_norm: True}
RTDETRTransformerv2: {query_pos_method: default, activation: relu, mlp_act: relu}
DEIMCriterion: {losses: [vfl, boxes], gamma: 2.0}
lrsheduler: ~
epoches: 72
optimizer:
  lr: 0.0001
  params:
    - {params: '^(?=.*backbone)(?!.*norm).*$', lr: 0.00001}
    - {params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$', weight_decay: 0.}
train_dataloader:
  dataset:
    transforms:
      ops:
        - {type: RandomPhotometricDistort, p: 0.5}
        - {type: RandomZoomOut, fill: 0}
        - {type: RandomIoUCrop, p: 0.8}
        - {type: RandomHorizontalFlip}
        - {type: Resize, size: [640, 640]}
      policy: {epoch: 71, ops: [RandomPhotometricDistort, RandomZoomOut, RandomIoUCrop]}
  collate_fn: {stop_epoch: 71, mixup_prob: 0.0}
"""
    found = read_published(write_over(tmp_path, plain, base="deim_r50vd_60e_coco.yml"))
    assert_is_the_zoo_s(found, "rtdetrv2_r50vd", schedule="constant", milestones=())


def assert_is_the_zoo_s(found, name, **same):
    """Network, recipe and parameter groups are the zoo's but for the values in `same`, of which both have their own."""
    assert found.network == zoo.model_config(name)
    recipe, published = found.settings["recipe"], zoo.recipe(name)
    assert recipe.milestones_after_warmup == (recipe.schedule == "steps")
    assert recipe.replace(groups=published.groups, milestones_after_warmup=False, **same) == published
    model = build_model(name)
    of_file, of_zoo = (build_optimizer(model, one).param_groups for one in (recipe, published))
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in of_file] == [
        (len(g["params"]), g["lr"], g["weight_decay"]) for g in of_zoo
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rtdetrv2_r101vd", "PResNet: {depth: 101}\n" + WIDE),
        ("rtdetrv2_r50vd_m", "HybridEncoder: {expansion: 0.5}\nRTDETRTransformerv2: {eval_idx: 2}"),
        ("rtdetrv2_hgnetv2_x", HGNET % "'X'" + WIDE),
        (
            "rtdetrv2_hgnetv2_h",
            HGNET % "'H'"
            + "HybridEncoder: {hidden_dim: 512, dim_feedforward: 2048, num_encoder_layers: 2}\n"
            + "RTDETRTransformerv2: {feat_channels: [512, 512, 512]}",
        ),
    ],
)
def test_the_networks_of_the_other_files(tmp_path, name, text):
    assert read_published(write_over(tmp_path, text)).network == zoo.model_config(name)


def test_r18_has_no_multiscale_and_one_group(tmp_path):
    path = write_files(tmp_path) / "rtdetrv2_r18vd_120e_coco.yml"
    recipe = read_published(path).settings["recipe"]
    published = zoo.recipe("rtdetrv2_r18vd")
    assert (recipe.multiscale_sizes, recipe.multiscale_stop_epoch) == ((), None)
    assert (recipe.epochs, recipe.augmentation_stop_epoch) == (120, 117)
    assert [group.pattern for group in recipe.groups] == ["^(?=.*(?:norm|bn)).*$"]  # the list was replaced, not joined
    assert (recipe.lr, recipe.weight_decay, recipe.betas) == (published.lr, published.weight_decay, published.betas)
    sp1 = read_published(write_over(tmp_path, SP1, base="rtdetrv2_r18vd_120e_coco.yml"))
    assert sp1.settings["model"] == "rtdetrv2_r18vd_sp1" and "network" not in sp1.settings


def test_settings_of_the_run(tmp_path):
    settings = read_config(write_files(tmp_path) / "rtdetrv2_r50vd_6x_coco.yml")
    recipe = settings.pop("recipe")
    assert settings == {
        "data": "./dataset/coco/annotations/instances_train2017.json",
        "images": "./dataset/coco/train2017/",
        "val_data": "./dataset/coco/annotations/instances_val2017.json",
        "val_images": "./dataset/coco/val2017/",
        "workers": 4,
        "log_every": 100,
        "output_dir": "./output/rtdetrv2_r50vd_6x_coco",
        "backbone_weights": "auto",
        "recipe_name": "rtdetrv2_r50vd_6x_coco.yml",
        "model": "rtdetrv2_r50vd",
    }
    assert (recipe.precision, recipe.batch_size, recipe.sync_batch_norm) == ("auto", 16, True)


def test_tuning_takes_the_place_of_imagenet_weights(tmp_path):
    found = read_published(write_over(tmp_path, DISCRETE)).settings
    assert found["weights"] == "rtdetrv2_r50vd:coco" and "backbone_weights" not in found
    assert zoo_name("own.pth") == "own.pth"


def test_a_network_that_is_not_in_the_zoo(tmp_path):
    text = "RTDETRTransformerv2: {num_queries: 500, num_levels: 4, num_points: 2}\nnum_classes: 3\n"
    text += "HybridEncoder: {depth_mult: 0.34}"
    found = read_published(write_over(tmp_path, text))
    network = found.settings["network"]
    assert (network.name, network.num_classes, network.encoder.num_blocks) == ("own", 3, 1)
    assert (network.decoder.num_queries, network.decoder.num_points) == (500, (2, 2, 2, 2))


def test_inline_types_start_from_the_defaults_of_the_class(tmp_path):
    text = "RTDETR: {backbone: {type: HGNetv2, name: X}}"  # the block PResNet stays unused
    backbone = read_published(write_over(tmp_path, text)).network.backbone
    assert backbone == HGNetv2Config(size="X")
    # freezes its norms as the class does, and no stage
    inline = "RTDETR: {backbone: {type: PResNet, depth: 50, return_idx: [1, 2, 3]}}"
    assert read_published(write_over(tmp_path, inline)).network.backbone.model_dump() == {
        "kind": "presnet",
        "depth": 50,
        "blocks": None,
        "base_width": 64,
        "freeze_at": -1,
        "freeze_norm": True,
    }


def test_pascal_voc(tmp_path):
    path = write_over(tmp_path, "")
    text = """
num_classes: 20
remap_mscoco_category: False
train_dataloader:
  dataset: {type: VOCDetection, root: ./dataset/voc/, ann_file: trainval.txt, label_file: label_list.txt}
  total_batch_size: 32
val_dataloader:
  dataset: {type: VOCDetection, root: ./dataset/voc/, ann_file: test.txt, label_file: label_list.txt}
"""
    files = tmp_path / "dataset" / "coco.yml"
    files.write_text(
        "\n".join(line for line in files.read_text().splitlines() if "2017" not in line and "masks" not in line)
    )
    path.write_text(path.read_text() + text)
    found = read_published(path)
    assert (found.settings["data"], found.settings["val_data"]) == ("dataset/voc/trainval.txt", "dataset/voc/test.txt")
    assert (found.network.num_classes, found.settings["recipe"].batch_size) == (20, 32)


def test_updates_win_over_files(tmp_path):
    updates = {
        "epoches": 3,
        "train_dataloader.num_workers": 0,
        "RTDETRTransformerv2.num_queries": 100,
        "resume": "a.pth",
    }
    found = read_published(write_files(tmp_path) / "rtdetrv2_r50vd_6x_coco.yml", updates=updates)
    assert (found.settings["recipe"].epochs, found.settings["workers"], found.resume) == (3, 0, "a.pth")
    assert found.network.decoder.num_queries == 100
    assert "backbone_weights" not in found.settings  # they would be overwritten
    with pytest.raises(ConfigError, match=r"^command line: PResNet.depth: expected 18, 34, 50 or 101, got 51"):
        read_published(tmp_path / "models" / "rtdetrv2_r50vd_6x_coco.yml", updates={"PResNet.depth": 51})


def test_small_numbers_may_be_written_with_an_exponent(tmp_path):
    found = read_published(write_over(tmp_path, "optimizer: {lr: 2e-4}"))
    assert found.settings["recipe"].lr == 2e-4


def test_omitted_keys_with_an_unsupported_default_are_refused():
    text = "train_dataloader: {type: DataLoader, total_batch_size: 4, drop_last: True}"
    document = Document(yaml.safe_load(text), {(): Path("own.yml")})
    with pytest.raises(ConfigError, match=r"own.yml: train_dataloader.shuffle: .*, but the default is False"):
        read_train_data(Section(document, document.values, ()))


@pytest.mark.parametrize("name", ["BatchImageCollateFunction", "BatchImageCollateFuncion"])
def test_the_released_spelling_of_the_collate_class(tmp_path, name):
    text = f"train_dataloader: {{collate_fn: {{type: {name}, scales: [64]}}}}"
    assert read_published(write_over(tmp_path, text)).settings["recipe"].multiscale_sizes == (64,)


def test_batch_size_is_per_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    text = "train_dataloader: {total_batch_size: ~, batch_size: 2}"
    assert read_published(write_over(tmp_path, text)).settings["recipe"].batch_size == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", r"own.yml: unknown key 'epochs'. Did you mean 'epoches'\?"),
        ("PResNet: {dept: 18}", r"own.yml: PResNet: unknown key 'dept'. Did you mean 'depth'\?"),
        ("HybridEncodr: {}", r"own.yml: unknown key 'HybridEncodr'. Did you mean 'HybridEncoder'\?"),
        ("optimizer: {lrr: 1}", "own.yml: optimizer: unknown key 'lrr'. Did you mean 'lr'"),
        ("optimizer: {type: SGD}", "own.yml: optimizer.type: the optimizer is AdamW, so 'SGD' is not supported"),
        ("optimizer: {params: [{params: a, momentum: 1}]}", "own.yml: optimizer.params.0: unknown key 'momentum'"),
        ("lr_scheduler: {type: CosineAnnealingLR}", "own.yml: lr_scheduler.type: expected 'MultiStepLR', got 'Cos"),
        ("RTDETR: {backbone: CSPResNet}", "own.yml: RTDETR.backbone: expected 'PResNet' or 'HGNetv2'"),
        ("HybridEncoder: {dropout: 0.1}", "own.yml: HybridEncoder.dropout: the network has no dropout, so 0.1"),
        (
            "HybridEncoder: {hidden_dim: 384}",
            r"r50vd.yml: RTDETRTransformerv2.feat_channels: expected \[384, 384, 384\]",
        ),
        (
            "PResNet: {depth: 18}",
            r"HybridEncoder.in_channels: expected \[128, 256, 512\], the channels of the backbone",
        ),
        ("PResNet: {depth: yes}", "own.yml: PResNet.depth: expected a whole number of at least 1, got True"),
        (
            "use_focal_loss: False",
            "own.yml: use_focal_loss: class scores are independent sigmoids, so False is not supported",
        ),
        ("clip_max_norm: -1", "own.yml: clip_max_norm: expected a number of at least 0, got -1"),
        ("evaluator: {iou_types: [segm]}", "own.yml: evaluator.iou_types: only boxes are evaluated"),
        (
            "eval_spatial_size: [512, 512]",
            "expected the same size for eval_spatial_size and for Resize .* 512x512 and 640x640",
        ),
        ("train_dataloader: {drop_last: False}", "own.yml: train_dataloader.drop_last: an incomplete last batch"),
        (
            "train_dataloader: {dataset: {transforms: {policy: {ops: [RandomZoomOut]}}}}",
            "policy.ops: all strong augmentation",
        ),
        ("train_dataloader: {collate_fn: {scales: [500]}}", "own.yml: .*scales: expected multiples of 32, got 500"),
        ("train_dataloader: {batch_size: 4}", "expected total_batch_size or batch_size, got both"),
        ("train_dataloader: {dataset: {transforms: {ops: [{type: MixUp}]}}}", "ops.0.type: expected .*, got 'MixUp'"),
        ("train_dataloader: ~\noptimizer: 3", "own.yml: optimizer: expected 'key: value' lines, got 3"),
        ("num_classes: 0", "own.yml: num_classes: expected a whole number of at least 1"),
        ("HybridEncoder: {nhead: 7}", r"encoder width 256 must be a multiple of 4 and of num_heads \(7\)"),
        ("ema: {decay: 1.5}", "train.ema_decay: expected a number of at least 0 and less than 1; got 1.5"),
        ("RTDETRTransformerv2: {num_points: [4, 4]}", r"expected one number per level \(3\), got \[4, 4\]"),
        (
            "train_dataloader: {dataset: {transforms: {ops: [{type: RandomIoUCrop}]}}}",
            r"own.yml: .*ops.0.p: the augmentation is the published one, but the default is 1.0; expected 0.8",
        ),
        (
            "train_dataloader: {dataset: {transforms: {ops: [{type: ConvertBoxes, fmt: cxcywh}]}}}",
            "ops.0.normalize: .*, but the default is False; expected True",
        ),
        ("train_dataloader: {total_batch_size: ~}", "expected total_batch_size or batch_size, got neither"),
        (
            "RTDETR: {backbone: {type: PResNet, depth: 50}}",
            r"RTDETR.backbone.return_idx: .* the default is \[0, 1, 2, 3\]",
        ),
        (
            "criterion: {type: SetCriterion, matcher: {type: HungarianMatcher, "
            "weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}}}",
            "own.yml: criterion: missing key 'losses'",
        ),
        ("RTDETR: {multi_scale: [500]}", "own.yml: RTDETR.multi_scale: expected multiples of 32, got 500"),
        ("RTDETR: {multi_scale: [512]}", "expected either multi_scale in the model or scales in collate_fn, got both"),
        (
            "RTDETRTransformerv2: {activation: silu}",
            "expected the same value for activation and mlp_act, got silu and relu",
        ),
        ("HybridEncoder: {version: v1}", "HybridEncoder has version 'v1', which does not match"),
        ("__include__: [nowhere.yml]", "duplicate key '__include__'"),
    ],
)
def test_unsupported_values_are_refused_with_their_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_published(write_over(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HybridEncoder: {version: dfine}", "own.yml: HybridEncoder.version: the encoder of .* expected 'rt_detrv2'"),
        ("lrsheduler: cosine", "own.yml: lrsheduler: expected 'flatcosine', got 'cosine'"),
        ("ema: {start: 1000}", "own.yml: ema.start: EMA starts with the first step, so 1000"),
        ("DEIMCriterion: {use_uni_set: True}", "use_uni_set: each layer is matched separately"),
        (
            "train_dataloader: {collate_fn: {mixup_epochs: [4, 20]}}",
            r"mixup_epochs: .* expected \[4, 34\], got \[4, 20\]",
        ),
        ("train_dataloader: {collate_fn: {base_size: 650}}", "base_size: expected a multiple of 128, got 650"),
        (
            "train_dataloader: {dataset: {transforms: {policy: {epoch: 58}}}}",
            "policy.epoch: expected three epochs: .* 58",
        ),
        ("train_dataloader: {dataset: {transforms: {policy: {epoch: [4, 58]}}}}", "epoch: expected one epoch or three"),
        (
            "train_dataloader: {dataset: {transforms: {ops: [{type: Mosaic, output_size: 640}]}}}",
            "own.yml: .*ops.0.output_size: the mosaic is the published one, so 640",
        ),
    ],
)
def test_unsupported_values_of_deim_files_are_refused_with_their_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_published(write_over(tmp_path, text, base="deim_r50vd_60e_coco.yml"))


def test_a_resume_in_the_file_belongs_on_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--resume last\.pth"):
        read_config(write_over(tmp_path, "resume: last.pth"))


def test_every_ignored_key_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert [key for key in IGNORED if f"`{key}`" not in text] == []


def _places(value, at=()):
    yield at
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*at, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _places(part, (*at, index))


WHOLE = {}
for _text in (DATA, RUNTIME, LOADER, OPTIMIZER, MODEL):
    for _key, _value in yaml.safe_load(_text).items():
        old = WHOLE.get(_key)
        WHOLE[_key] = {**old, **_value} if isinstance(old, dict) else _value
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**9)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(sorted(MARKS)),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@given(place=st.sampled_from([place for place in _places(WHOLE) if place]), value=ODD)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_any_value_changed_is_read_or_refused(tmp_path, place, value):
    document = copy.deepcopy(WHOLE)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path = tmp_path / "changed.yml"
    path.write_text(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    found = None
    with contextlib.suppress(ConfigError):  # any other error fails the test
        found = read_published(path)
    assert found is None or found.settings["recipe"].epochs > 0
