"""Transformers' own tests of every model, for our classes; run by test_transformers_suite.py in a process of its own.

TRANSFORMERS_TESTS is the folder `tests` of transformers' source distribution, which lacks two files that these tests
import for models of other kinds.
"""

import importlib
import os
import sys
import types
import unittest

import torch
import transformers

from rtdetr.hf import RTDetrV2Config, RTDetrV2ForObjectDetection, RTDetrV2Model

PACKAGE = "transformers_tests"


def common() -> types.ModuleType:
    """The module test_modeling_common, in a package of another name than ours."""
    for name, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        module = types.ModuleType(f"{PACKAGE}.{name}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[module.__name__] = module
    package = types.ModuleType(PACKAGE)
    package.__path__ = [os.environ["TRANSFORMERS_TESTS"]]
    sys.modules[PACKAGE] = package
    return importlib.import_module(f"{PACKAGE}.test_modeling_common")


class SmallModels:
    """What the tests ask of a model: a small configuration and inputs for it."""

    batch_size, num_hidden_layers, num_attention_heads, is_training = 2, 2, 4, False

    def get_config(self) -> RTDetrV2Config:
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_indices=[2, 3, 4],
        )
        return RTDetrV2Config(
            backbone_config=backbone,
            encoder_hidden_dim=32,
            encoder_in_channels=[16, 24, 32],
            d_model=32,
            decoder_in_channels=[32, 32, 32],
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            num_queries=12,
            num_labels=5,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[RTDetrV2Config, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values": torch.rand(2, 3, 64, 64)}


class Suite(common().ModelTesterMixin):
    """All of them."""

    is_encoder_decoder = True
    test_resize_embeddings = False
    has_attentions = True

    def setUp(self) -> None:
        self.model_tester = SmallModels()


class OursTest(Suite, unittest.TestCase):
    """Of this library."""

    all_model_classes = (RTDetrV2Model, RTDetrV2ForObjectDetection)


class StockTest(Suite, unittest.TestCase):
    """Of transformers."""

    all_model_classes = (transformers.RTDetrV2Model, transformers.RTDetrV2ForObjectDetection)
