"""Saved models open in stock transformers with equal outputs and vice versa, with every variant of names."""

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rtdetr
from rtdetr import files, zoo
from rtdetr.categories import Categories, Category
from rtdetr.errors import RTDETRError, WeightsError
from rtdetr.models.hgnetv2 import HGNetv2

transformers = pytest.importorskip("transformers")

from rtdetr.hf import loading  # noqa: E402
from rtdetr.hf.configuration import RTDetrV2Config  # noqa: E402
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection, RTDetrV2Model  # noqa: E402
from rtdetr.weights import load_model, read_checkpoint, save_huggingface  # noqa: E402
from tests.hf.models import TINY, assert_same_outputs, filled, ours, stock, tiny  # noqa: E402

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# every size, discrete sampling, and another number of points
NAMES = [f"rtdetrv2_{size}" for size in ("r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd", "r18vd_dsp", "r18vd_sp1")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved small model; tests must not change it."""
    folder = tmp_path_factory.mktemp("saved")
    tiny().save_pretrained(folder)
    return folder


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a folder with other entries in its weight file."""
    shutil.copytree(source, target)
    save_file(change(load_file(target / WEIGHTS)), target / WEIGHTS, metadata={"format": "pt"})
    return target


def test_saved_here_opens_in_transformers_and_the_reverse(folder: Path, tmp_path: Path) -> None:
    model, there = tiny().double(), stock(folder, dtype=torch.float64)
    assert_same_outputs(model, there, tolerance=1e-10)
    there.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / WEIGHTS)) == set(load_file(folder / WEIGHTS))
    back = ours(tmp_path, dtype=torch.float64)
    for key, value in back.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert_same_outputs(model, back, tolerance=1e-10)  # sums are rounded according to where in memory the weights lie
    assert not back.training and back.config.name_or_path == str(tmp_path)


def test_four_levels_both_ways(tmp_path: Path) -> None:
    model = tiny(decoder={"num_points": (2, 2, 2, 2)}).double()
    model.save_pretrained(tmp_path / "ours")
    there = stock(tmp_path / "ours", dtype=torch.float64)
    assert_same_outputs(model, there, tolerance=1e-10)
    there.save_pretrained(tmp_path / "theirs")
    assert_same_outputs(model, ours(tmp_path / "theirs", dtype=torch.float64), tolerance=1e-10)


def test_wrong_number_of_class_names_gives_numbered_classes(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Category ids taken for labels: what was trained is saved, and the classes are numbered, which is said."""
    options = {"id2label": {1: "a", 2: "b", 3: "c"}, "ignore_mismatched_sizes": True}
    model = RTDetrV2ForObjectDetection.from_pretrained(folder, **options)
    model.save_pretrained(tmp_path)
    assert ours(tmp_path).config.id2label == options["id2label"]
    with caplog.at_level(logging.WARNING):
        assert model.to_detector().categories.names == [f"class {i}" for i in range(3)]
    assert "Number the classes from 0, without leading zeros. Using numbered classes instead" in caplog.text
    with pytest.raises(WeightsError, match=r"the label '3', expected the labels of the weights, '0' to '2'"):
        rtdetr.load(tmp_path)


def test_no_entries_given(folder: Path, tmp_path: Path) -> None:
    assert_equal_states(ours(folder, state_dict=None), ours(folder))
    entries = load_file(folder / WEIGHTS)
    model = RTDetrV2ForObjectDetection.from_pretrained(None, config=folder, state_dict=entries)
    assert_equal_states(model, ours(folder))
    with pytest.raises(WeightsError, match="expected entries in state_dict, got none"):
        model.save_pretrained(tmp_path, state_dict={})


@pytest.mark.slow
@pytest.mark.parametrize("affine", [False, True])
def test_hgnetv2_of_transformers(affine: bool, tmp_path: Path) -> None:
    """What stock transformers saves around its own HGNetV2 opens here, with this library's network, and the reverse."""
    backbone = transformers.HGNetV2Config(out_indices=[2, 3, 4], use_learnable_affine_block=affine)
    config = transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[512, 1024, 2048],
        freeze_backbone_batch_norms=not affine,
        num_queries=50,
    )
    there = transformers.RTDetrV2ForObjectDetection(config).double().eval()
    for key, value in there.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    there.save_pretrained(tmp_path / "theirs")
    here = ours(tmp_path / "theirs", dtype=torch.float64)
    assert isinstance(here.model.backbone, HGNetv2)
    assert_same_outputs(there, here, tolerance=1e-10)
    here.save_pretrained(tmp_path / "ours")
    assert_same_outputs(there, stock(tmp_path / "ours", dtype=torch.float64), tolerance=1e-10)
    assert load_model(tmp_path / "theirs")[0].config.backbone.use_lab == affine


def test_config_json_is_what_transformers_writes(folder: Path, tmp_path: Path) -> None:
    stock(folder).save_pretrained(tmp_path)
    here, there = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert here["architectures"] == ["RTDetrV2ForObjectDetection"] and here["model_type"] == "rt_detr_v2"
    assert here["dtype"] == "float32" and here["transformers_version"] == transformers.__version__
    del here["backbone_config"]["dtype"], there["backbone_config"]["dtype"]
    assert here == there


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_size_both_ways(name: str, tmp_path: Path) -> None:
    """Where the evaluated layer is not the last one, the trimmed model is what both sides agree on."""
    model = filled(zoo.model_config(name))
    trimmed = model.trim_decoder()
    trimmed.save_pretrained(tmp_path / "ours")
    there = stock(tmp_path / "ours", dtype=torch.float64)
    assert_same_outputs(model.double(), there, size_hw=(256, 320), tolerance=1e-10)
    there.float().save_pretrained(tmp_path / "stock", max_shard_size="30MB")
    assert (tmp_path / "stock" / INDEX).exists()
    assert_same_outputs(ours(tmp_path / "stock").double(), trimmed.double(), size_hw=(256, 320))


@pytest.mark.slow
def test_an_external_backbone(tmp_path: Path) -> None:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrV2Config.from_model_config(zoo.model_config("test-tiny").replace(encoder={"num_blocks": 3}))
    config.backbone_config, config.encoder_in_channels = backbone, [16, 32, 64]
    model = RTDetrV2ForObjectDetection(config).eval()
    model.save_pretrained(tmp_path / "ours")
    there = stock(tmp_path / "ours")
    there.save_pretrained(tmp_path / "stock")
    assert_equal_states(ours(tmp_path / "stock"), model)


@pytest.mark.slow
def test_eval_idx_is_kept_here_and_ignored_by_transformers(tmp_path: Path) -> None:
    model = tiny(decoder={"num_layers": 3, "eval_idx": 1})
    model.save_pretrained(tmp_path / "all")
    assert json.loads((tmp_path / "all" / "config.json").read_text())["eval_idx"] == 1
    assert_same_outputs(model, ours(tmp_path / "all"))
    assert load_model(tmp_path / "all")[0].config.decoder.eval_idx == 1
    there = stock(tmp_path / "all", dtype=torch.float64)
    last = tiny(decoder={"num_layers": 3, "eval_idx": -1}).double()
    assert_same_outputs(last, there, tolerance=1e-10)
    model.trim_decoder().save_pretrained(tmp_path / "trimmed")
    assert "eval_idx" not in json.loads((tmp_path / "trimmed" / "config.json").read_text())
    assert_same_outputs(model.double(), stock(tmp_path / "trimmed", dtype=torch.float64), tolerance=1e-10)


def test_a_repository_that_runs_all_layers_there_runs_them_here(tmp_path: Path) -> None:
    last = tiny(decoder={"num_layers": 3, "eval_idx": -1})
    last.save_pretrained(tmp_path)
    assert "eval_idx" not in json.loads((tmp_path / "config.json").read_text())
    loaded = ours(tmp_path)
    assert loaded.config.decoder_layers == 3 and len(loaded.model.decoder.decoder.layers) == 3
    assert_same_outputs(loaded, last)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": {"num_points": (1, 3, 2)}},
        pytest.param({"decoder": {"query_selection": "agnostic"}}, marks=pytest.mark.slow),
    ],
    ids=["points per level", "query selection"],
)
def test_models_unsupported_by_transformers_are_saved_with_our_type(changes: dict[str, Any], tmp_path: Path) -> None:
    model = filled(zoo.model_config("test-tiny").replace(**changes))
    model.save_pretrained(tmp_path / "facade")
    assert json.loads((tmp_path / "facade" / "config.json").read_text())["model_type"] == "rtdetr"
    with pytest.raises(ValueError, match="rtdetr"):
        transformers.AutoConfig.from_pretrained(tmp_path / "facade")
    assert_same_outputs(model, ours(tmp_path / "facade"))
    save_huggingface(model.model.network, tmp_path / "core")
    assert_same_outputs(model, ours(tmp_path / "core"))
    assert_same_outputs(model, ours(tmp_path / "facade"))
    assert load_model(tmp_path / "facade")[0].config.decoder == model.model.network.config.decoder


def dialects(stock_model: torch.nn.Module) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    memory = {key: value.clone() for key, value in stock_model.state_dict().items()}
    network = tiny().model.network.state_dict()
    return {
        "in memory, with tied copies": lambda _: memory,
        "in memory, without tied copies": lambda _: {
            key: value for key, value in memory.items() if not key.startswith(("class_embed.", "bbox_embed."))
        },
        "on disk, with tied copies": lambda disk: (
            disk
            | {
                key.removeprefix("model.decoder."): value.clone()
                for key, value in disk.items()
                if key.startswith(("model.decoder.class_embed.", "model.decoder.bbox_embed."))
            }
        ),
        "without counters": lambda disk: {k: v for k, v in disk.items() if not k.endswith("num_batches_tracked")},
        "without constants": lambda disk: {
            k: v for k, v in disk.items() if not k.endswith(("num_batches_tracked", "n_points_scale"))
        },
        "official": lambda _: dict(network),
        "official with anchors": lambda _: (
            network
            | {"decoder.anchors": torch.zeros(1, 12, 4), "decoder.valid_mask": torch.ones(1, 12, 1, dtype=torch.bool)}
        ),
        "half precision": lambda disk: {k: v.half() if v.is_floating_point() else v for k, v in disk.items()},
    }


def test_frozen_layers_of_the_configuration_stay_frozen(tmp_path: Path) -> None:
    built = tiny(backbone={**TINY["backbone"], "freeze_at": 0})
    frozen = [name for name, parameter in built.named_parameters() if not parameter.requires_grad]
    built.save_pretrained(tmp_path)
    loaded = RTDetrV2ForObjectDetection.from_pretrained(tmp_path)
    assert frozen == [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad] != []


@pytest.mark.parametrize(
    "dialect",
    [
        "in memory, with tied copies",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("in memory, without tied copies", "on disk, with tied copies", "without counters")
        ),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("official", "official with anchors", "without constants", "half precision")
        ),
    ],
)
def test_every_variant_of_names(dialect: str, folder: Path, tmp_path: Path) -> None:
    place = rewritten(folder, tmp_path / "other", dialects(stock(folder))[dialect])
    loaded = ours(place, dtype=torch.float32)
    expected = tiny()
    if dialect == "half precision":
        expected = ours(folder).half().float()
    assert_same_outputs(loaded, expected)
    counters = [value for key, value in loaded.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counters and all(int(value) == 0 for value in counters)


@pytest.mark.slow
def test_shards_both_ways(folder: Path, tmp_path: Path) -> None:
    model = ours(folder)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    index = json.loads((tmp_path / INDEX).read_text())
    files = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(files) > 3 and set(index["weight_map"].values()) == files
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for name in files for tensor in load_file(tmp_path / name).values()
    )
    assert_same_outputs(model.double(), stock(tmp_path, dtype=torch.float64), tolerance=1e-10)
    assert_same_outputs(model, ours(tmp_path, dtype=torch.float64))
    assert rtdetr.load(tmp_path).categories.names == rtdetr.load(folder).categories.names
    model.float().save_pretrained(tmp_path)  # whole again: nothing of before may be read
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "config.json"}
    (tmp_path / "other").mkdir()
    stock(folder).save_pretrained(tmp_path / "other", max_shard_size="300KB")
    assert_same_outputs(ours(tmp_path / "other"), ours(folder))


def test_pickled_weights_run_no_code(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(load_file(folder / WEIGHTS), tmp_path / "pytorch_model.bin")
    assert_same_outputs(ours(tmp_path), ours(folder))
    with pytest.raises(WeightsError, match=r"expected model\.safetensors or"):
        RTDetrV2ForObjectDetection.from_pretrained(tmp_path, use_safetensors=True)
    torch.save({"model.x": os.system}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="code from files is never run"):
        RTDetrV2ForObjectDetection.from_pretrained(tmp_path)


@pytest.mark.slow
def test_variants_and_subfolders(folder: Path, tmp_path: Path) -> None:
    model = ours(folder)
    model.half().save_pretrained(tmp_path / "sub", variant="fp16")
    assert (tmp_path / "sub" / "model.fp16.safetensors").exists()
    loaded = ours(tmp_path, subfolder="sub", variant="fp16")
    assert loaded.dtype == torch.float16 and loaded.config.dtype == torch.float16
    assert ours(tmp_path, subfolder="sub", variant="fp16", dtype=torch.float32).dtype == torch.float32


@pytest.mark.slow
def test_the_base_model_alone(folder: Path, tmp_path: Path) -> None:
    base, report = RTDetrV2Model.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    base.save_pretrained(tmp_path / "ours")
    theirs = transformers.RTDetrV2Model.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "theirs")
    keys = set(load_file(tmp_path / "ours" / WEIGHTS))
    heads = {key for key in keys if key.startswith(("decoder.class_embed.", "decoder.bbox_embed."))}
    assert heads and keys - heads == set(load_file(tmp_path / "theirs" / WEIGHTS))
    assert_equal_states(ours(tmp_path / "ours"), ours(folder))
    _, report = RTDetrV2ForObjectDetection.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert report["missing_keys"] and all("dec_" in key for key in report["missing_keys"])


def assert_equal_states(first: torch.nn.Module, second: torch.nn.Module) -> None:
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_another_number_of_classes_reports_reinitialized_entries(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {0: "cat", 1: "dog", 2: "bird"}
    options = {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_propagation()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        RTDetrV2ForObjectDetection.from_pretrained(folder, **options)
    model, report = RTDetrV2ForObjectDetection.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    reports = [message for message in caplog.messages if "LOAD REPORT" in message]
    transformers.logging.disable_propagation()
    assert reports and all(f"from: {folder}\n" in message for message in reports)
    fresh = {key for key, *_ in report["mismatched_keys"]}
    assert fresh == {
        f"model.network.decoder.{key}"
        for key in model.model.decoder.state_dict()
        if "score_head" in key or "denoising_class" in key
    }
    assert model.config.id2label == names and model.config.num_labels == 3
    decoder = model.model.decoder
    torch.testing.assert_close(decoder.dec_score_head[0].bias, torch.full((3,), -4.595), atol=1e-3, rtol=0)
    assert decoder.denoising_class_embed.weight[3].eq(0).all()
    assert torch.equal(
        decoder.dec_bbox_head[0].layers[0].weight, ours(folder).model.decoder.dec_bbox_head[0].layers[0].weight
    )


@pytest.mark.slow
def test_options_of_from_pretrained(folder: Path) -> None:
    assert ours(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert ours(folder, dtype="auto").config.dtype == ours(folder, trust_remote_code=True).dtype == torch.float32
    placed = ours(folder, device_map="cpu")
    assert_same_outputs(placed, ours(folder))
    eager = ours(folder, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    changed = ours(folder, num_queries=7, output_hidden_states=True)
    assert changed.config.num_queries == 7
    config = RTDetrV2Config.from_pretrained(folder, num_queries=5)
    assert ours(folder, config=config).config.num_queries == 5
    assert ours(folder / WEIGHTS, config=config).config.num_queries == 5
    for entries in (ours(folder).state_dict(), load_file(folder / WEIGHTS)):
        copied = RTDetrV2ForObjectDetection.from_pretrained(None, config=config, state_dict=entries)
        assert_equal_states(copied, ours(folder))


@pytest.mark.slow
def test_old_configurations_of_the_hub(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    old = {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_kwargs": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | old | {"disable_custom_kernels": True}))
    assert_same_outputs(ours(tmp_path / "old"), ours(folder))


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "error", "problem"),
    [
        (lambda f: (f / WEIGHTS).unlink(), WeightsError, "contains no weights: expected model.safetensors or"),
        (lambda f: corrupt(f / WEIGHTS), WeightsError, "is truncated or damaged, or not a safetensors file"),
        (lambda f: (f / "config.json").write_text("{"), OSError, "not a valid JSON"),
        (lambda f: (f / "config.json").unlink(), WeightsError, "has no config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "rt_detr"}'), WeightsError, "rtdetr.load reads"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), WeightsError, "got 'bert'"),
        (lambda f: (f / "config.json").write_text("[1]"), WeightsError, r"expected a JSON object, got a list \[1\]"),
        (
            lambda f: (f / "config.json").write_text('{"backbone_config": {"model_type": "nope"}}'),
            WeightsError,
            "broken: config.json is not valid: KeyError: 'nope'",
        ),
        (
            lambda f: save_file({"model.bert": torch.zeros(1)}, f / WEIGHTS),
            WeightsError,
            "not an RT-DETR checkpoint: 1 unknown entry",
        ),
        (lambda f: (f / WEIGHTS).rename(f / "x") and (f / INDEX).write_text("[]"), WeightsError, "weight_map"),
        (
            lambda f: (f / WEIGHTS).rename(f / "x") and (f / INDEX).write_text('{"weight_map": {"a": "../x"}}'),
            WeightsError,
            "files in the same folder",
        ),
        (  # an index that names itself
            lambda f: (f / WEIGHTS).rename(f / "x") and (f / INDEX).write_text(f'{{"weight_map": {{"a": "{INDEX}"}}}}'),
            WeightsError,
            "files in the same folder",
        ),
    ],
)
def test_damaged_repositories(
    damage: Callable[[Path], Any], error: type[Exception], problem: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    damage(tmp_path / "broken")
    with pytest.raises(error, match=problem):
        RTDetrV2ForObjectDetection.from_pretrained(tmp_path / "broken")


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["weight_map", "a"]), x),
        max_leaves=6,
    )
)
def test_random_shard_indexes(index: Any) -> None:
    """Names of files beside the index, or an error of ours."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / INDEX
        file.write_text(json.dumps(index))
        try:
            names = loading._shards(file)
        except WeightsError:
            return
        assert all(Path(name).name == name and name.endswith((".safetensors", ".bin")) for name in names)


def test_models_that_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    model = ours(folder)
    with pytest.raises(WeightsError, match="fused"):
        model.fuse().save_pretrained(tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="got the file"):
        model.save_pretrained(tmp_path / "file")
    model.save_pretrained(tmp_path / "second process", is_main_process=False)
    assert not (tmp_path / "second process").exists()


@pytest.mark.parametrize("failing", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_interrupted_call_leaves_the_old_files_or_the_new(
    failing: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "kept")
    calls = []

    def interrupted(path: Path, write: Any, *, error: Any) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return real(path, write, error=error)

    real = files.write_atomically
    monkeypatch.setattr(files, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny(num_classes=5).save_pretrained(tmp_path / "kept", max_shard_size="200KB")
    # the old weights are removed last but for config.json, so that all that can be read belongs together
    assert_same_outputs(ours(tmp_path / "kept"), ours(folder))
    assert not list((tmp_path / "kept").glob("*.tmp"))


def test_the_header_describes_the_model_for_the_rest_of_the_library(folder: Path) -> None:
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert set(file.metadata()) == {"format", "rtdetr"}
    detector = rtdetr.load(folder)
    assert len(detector.categories) == ours(folder).config.num_labels


def test_load_state_dict_accepts_every_variant_of_names(folder: Path) -> None:
    """`Trainer` reads the file of a checkpoint and gives its entries to the model."""
    expected = ours(folder)
    for entries in (load_file(folder / WEIGHTS), stock(folder).state_dict(), expected.model.network.state_dict()):
        model = tiny()
        for parameter in model.parameters():
            parameter.data.zero_()
        assert model.load_state_dict(entries, strict=False) == ([], [])
        assert_equal_states(model, expected)
    base = RTDetrV2Model.from_pretrained(folder)
    assert base.load_state_dict(load_file(folder / WEIGHTS)) == ([], [])
    assert expected.load_state_dict({}, strict=False).missing_keys


def test_an_edited_config_decides_here_and_in_the_facade(tmp_path: Path) -> None:
    """Also for models that only this library holds, whose config.json another of its rooms may have written."""
    changed = {"decoder": {"activation": "silu", "num_points": (1, 2, 3), "num_denoising": 4}}
    model = tiny(**changed)
    model.save_pretrained(tmp_path / "facade")
    save_huggingface(model.model.network, tmp_path / "weights")
    for name, place in (("facade", ()), ("weights", ("rtdetr", "model", "decoder"))):
        file = tmp_path / name / "config.json"
        stored = json.loads(file.read_text())
        functools.reduce(dict.__getitem__, place, stored)["num_queries"] = 11
        file.write_text(json.dumps(stored))
        expected = model.model.network.config.replace(decoder={"num_queries": 11}, eval_size_hw=None)
        assert ours(tmp_path / name).model.network.config == expected.replace(name="custom")
        assert read_checkpoint(tmp_path / name).config.replace(eval_size_hw=None) == expected
        del functools.reduce(dict.__getitem__, place, stored)["num_denoising"]
        file.write_text(json.dumps(stored))
        # without a field of transformers' the description in the header of the weights says it
        left = zoo.model_config("rtdetrv2_r18vd").decoder.num_denoising if name == "facade" else 4
        assert ours(tmp_path / name).config.num_denoising == left
        assert read_checkpoint(tmp_path / name).config.decoder.num_denoising == left


def test_fields_beside_our_description_are_followed(tmp_path: Path) -> None:
    """In the facade as in rtdetr.load, and a type that is another model's is refused by both."""
    model = tiny(decoder={"activation": "silu"}, num_classes=2)
    save_huggingface(model.model.network, tmp_path, categories=Categories([Category(4, "cat"), Category(6, "dog")]))
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    for own in ("rtdetr", "model_type"):
        kept = {name: value for name, value in stored.items() if name != "rtdetr" or own == "rtdetr"}
        file.write_text(json.dumps({**kept, "id2label": {"0": "cat", "1": "wolf"}, "num_queries": 11}))
        config = ours(tmp_path).config
        assert (config.id2label, config.label2id) == ({0: "cat", 1: "wolf"}, {"cat": 0, "wolf": 1})
        assert config.num_queries == 11 and config.network_settings == {"decoder": {"activation": "silu"}}
        found = read_checkpoint(tmp_path)
        assert found.config.decoder.num_queries == 11 and found.config.decoder.activation == "silu"
        assert found.categories == Categories([Category(4, "cat"), Category(6, "wolf")])
    for model_type in ("rt_detr", "rt_detr_v2"):
        file.write_text(json.dumps({**stored, "model_type": model_type}))
        for load in (ours, read_checkpoint):
            with pytest.raises(WeightsError, match=f"(model_type|model type) .*'{model_type}'"):
                load(tmp_path)


def test_eval_size_is_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text()) | {"eval_size": 640}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    for load in (ours, read_checkpoint):
        with pytest.raises(RTDETRError, match="eval_size 640 is not supported, expected None"):
            load(tmp_path)
