"""`register()`: make the Auto classes and pipelines of transformers use this library for RT-DETRv2."""

from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForObjectDetection
from transformers import RTDetrV2Config as StockConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from rtdetr.hf.configuration import RTDetrV2Config
from rtdetr.hf.image_processing import RTDetrImageProcessor
from rtdetr.hf.loading import OWN_TYPE
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection, RTDetrV2Model

_MODELS: dict[Any, type] = {AutoModel: RTDetrV2Model, AutoModelForObjectDetection: RTDetrV2ForObjectDetection}


def register() -> None:
    """Make AutoConfig, AutoModel, AutoModelForObjectDetection, AutoImageProcessor and pipelines use this library.

    This applies to this process, to the model type rt_detr_v2, and to every image processor named RTDetrImageProcessor,
    including those in RT-DETR v1 repositories. Calling it again has no effect; `unregister` undoes it.
    """
    AutoConfig.register(RTDetrV2Config.model_type, RTDetrV2Config, exist_ok=True)
    CONFIG_MAPPING.register(OWN_TYPE, RTDetrV2Config, exist_ok=True)  # for models beyond transformers
    for auto, model in _MODELS.items():
        auto.register(RTDetrV2Config, model, exist_ok=True)
        auto._model_mapping.register(StockConfig, model, exist_ok=True)  # for code that builds a stock configuration
    backends = {"torchvision": RTDetrImageProcessor, "pil": RTDetrImageProcessor}
    AutoImageProcessor.register(RTDetrV2Config, image_processor_classes=backends, exist_ok=True)


def unregister() -> None:
    """Restore the stock classes of the Auto classes; no effect if `register` was not called."""
    # transformers has no public function for this
    for model_type in (RTDetrV2Config.model_type, OWN_TYPE):
        CONFIG_MAPPING._extra_content.pop(model_type, None)
    for mapping in (*(auto._model_mapping for auto in _MODELS), IMAGE_PROCESSOR_MAPPING):
        for config in (RTDetrV2Config, StockConfig):
            mapping._extra_content.pop(config, None)
