"""PEFT adapters are opened with their base model or refused, and never ignored silently."""

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import rtdetr
from rtdetr.errors import MissingDependencyError, WeightsError
from rtdetr.hf import RTDetrV2ForObjectDetection, adapters, register, unregister
from rtdetr.weights.huggingface import read_entries
from tests.hf.models import tiny
from tests.parity.fill import image

CONFIG = "adapter_config.json"
PEFT_WARNINGS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    tiny().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(name="adapter")
def _adapter(base: Path) -> Path:
    """A folder that has nothing but the description of an adapter, as far as opening its model goes."""
    folder = base.with_name("adapter")
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"base_model_name_or_path": str(base)}))
    return folder


@pytest.fixture(name="loaded")
def _loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of transformers' `load_adapter`, which finds every entry and changes nothing."""
    calls: list[tuple[Any, ...]] = []

    def load_adapter(self: Any, source: Any, *, adapter_name: str, adapter_kwargs: dict[str, Any]) -> Any:
        calls.append((str(source), adapter_name, adapter_kwargs))
        return types.SimpleNamespace(missing_keys=set(), unexpected_keys=set())

    monkeypatch.setattr(transformers.PreTrainedModel, "load_adapter", load_adapter)
    monkeypatch.setattr(adapters, "is_peft_available", lambda: True)
    return calls


def test_the_base_model_of_an_adapter_is_opened_with_it(base: Path, adapter: Path, loaded: list[Any]) -> None:
    model = RTDetrV2ForObjectDetection.from_pretrained(adapter, adapter_name="mine")
    assert loaded == [(str(adapter), "mine", {})]
    assert model.name_or_path == str(base)


def test_an_adapter_next_to_a_model_is_applied_to_it(base: Path, adapter: Path, loaded: list[Any]) -> None:
    (base / CONFIG).write_text(json.dumps({"base_model_name_or_path": "somewhere/else"}))
    RTDetrV2ForObjectDetection.from_pretrained(base)
    assert loaded == [(str(base), "default", {})]


def test_adapter_arguments_of_auto_classes_are_used(base: Path, loaded: list[Any]) -> None:
    given = {"_adapter_model_path": "other/adapter", "revision": "v1"}
    RTDetrV2ForObjectDetection.from_pretrained(base, adapter_kwargs=given)
    assert loaded == [("other/adapter", "default", {"revision": "v1"})]
    RTDetrV2ForObjectDetection.from_pretrained(base, adapter_kwargs={"revision": None})  # of every model
    assert len(loaded) == 1


def test_an_adapter_without_peft_is_refused(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "is_peft_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"adapter_config\.json\), which needs .* pip install peft"):
        RTDetrV2ForObjectDetection.from_pretrained(adapter)


@pytest.mark.parametrize("text", ["{}", '{"base_model_name_or_path": null}', "[]", "{"])
def test_an_adapter_without_a_base_model_is_refused(adapter: Path, loaded: list[Any], text: str) -> None:
    (adapter / CONFIG).write_text(text)
    with pytest.raises(WeightsError, match="expected the name of the base model as base_model_name_or_path"):
        RTDetrV2ForObjectDetection.from_pretrained(adapter)


def test_functions_without_adapter_support_refuse_adapters(base: Path, adapter: Path) -> None:
    (base / CONFIG).write_bytes((adapter / CONFIG).read_bytes())
    for folder in (base, adapter):
        with pytest.raises(WeightsError, match=r"contains a PEFT adapter .* Merge it into its model"):
            rtdetr.load(folder)
    assert read_entries(base)[0]  # the weights themselves are whole


@pytest.fixture(name="trained")
def _trained(base: Path) -> tuple[Path, Any]:
    """A folder that PEFT saves, and the model that it comes from."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["out_proj", "linear1"])
    model = peft.get_peft_model(RTDetrV2ForObjectDetection.from_pretrained(base), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(base.with_name("trained"))
    return base.with_name("trained"), model


@PEFT_WARNINGS
@pytest.mark.parametrize("auto", [False, True])
@torch.inference_mode()
def test_a_trained_adapter_detects_as_before(trained: tuple[Path, Any], base: Path, auto: bool) -> None:
    folder, model = trained
    register()
    try:
        opener = transformers.AutoModelForObjectDetection if auto else RTDetrV2ForObjectDetection
        opened = opener.from_pretrained(folder)
    finally:
        unregister()
    images = image(96, 128)
    expected = model(pixel_values=images).logits
    assert torch.equal(opened(images).logits, expected)
    assert not torch.allclose(tiny()(images).logits, expected)
    merged = model.merge_and_unload()
    merged.save_pretrained(base.with_name("merged"))
    again = RTDetrV2ForObjectDetection.from_pretrained(base.with_name("merged"))
    torch.testing.assert_close(again(images).logits, expected, atol=1e-4, rtol=0)


@PEFT_WARNINGS
def test_an_adapter_of_the_stock_class_is_refused(trained: tuple[Path, Any]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = trained[0] / "adapter_model.safetensors"
    entries = {k.replace("network.decoder.", ""): v for k, v in safetensors.load_file(file).items()}
    safetensors.save_file(entries, file)
    with pytest.raises(WeightsError, match=r"does not fit this model: \d+ entries missing, .* unexpected"):
        RTDetrV2ForObjectDetection.from_pretrained(trained[0])
