"""A small network and small datasets, for tests of training."""

from pathlib import Path

import torch
from transformers import RTDetrResNetConfig

from rtdetr import zoo
from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset
from rtdetr.hf.configuration import RTDetrV2Config
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection
from rtdetr.recipes.named_recipes import finetune
from tests.coco_files import many_images, write_dataset

SIZE_HW = (64, 96)


def tiny_model(*, num_labels: int = 3, num_denoising: int = 10) -> RTDetrV2ForObjectDetection:
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[2, 3, 4],
    )
    config = RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[16, 32, 64],
        encoder_hidden_dim=32,
        encoder_ffn_dim=32,
        encoder_attention_heads=4,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=30,
        num_denoising=num_denoising,
        num_labels=num_labels,
    )
    return RTDetrV2ForObjectDetection(config)


def dataset(folder: Path, num_images: int = 12) -> DetectionDataset:
    """Images of noise, some without objects."""
    return DetectionDataset(*write_dataset(folder, many_images(num_images)))


def recipe(num_images: int = 12, *, epochs: int = 2) -> Recipe:
    """Four images a step, the last epoch without augmentation, a rectangle with multi-scale."""
    base = finetune(zoo.recipe("rtdetrv2_r18vd"), num_images=num_images, batch_size=4, epochs=epochs)
    return base.replace(train_size_hw=SIZE_HW, multiscale_sizes=(64, 128, 160))
