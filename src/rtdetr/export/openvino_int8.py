"""INT8 in OpenVINO: NNCF calibrates and inserts FakeQuantize operations, which OpenVINO runs in integers."""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import nncf
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

from rtdetr.export.job import Job
from rtdetr.export.openvino import convert, count_operations, save_ir
from rtdetr.export.samples import Feed
from rtdetr.export.stages import is_quantizable


def write_int8_openvino(job: Job, file: Path, stages: Sequence[str], feeds: Sequence[Feed]) -> int:
    """Write an `.xml` file and its `.bin` file with the stages in INT8; return the number of operators."""
    for name in ("nncf", "torch.utils.cpp_extension"):  # they log every ignored operation, and a missing CUDA
        logging.getLogger(name).setLevel(logging.ERROR)
    model = convert(job)
    ignored = [
        op.get_friendly_name()
        for op in model.get_ops()
        if not any(
            is_quantizable(name.removesuffix("/WithoutBiases"), stages)
            for name in (op.get_friendly_name(), *(name for out in op.outputs() for name in out.get_names()))
        )
    ]
    if stages:
        presets = nncf.QuantizationPreset
        with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress bar
            model = nncf.quantize(
                model,
                nncf.Dataset(feeds),
                preset=presets.PERFORMANCE if job.options.int8_or_default.symmetric else presets.MIXED,
                subset_size=len(feeds),
                model_type=nncf.ModelType.TRANSFORMER,  # moves outliers of activations into weights
                # 7 bits, see `rtdetr.export.quantize`
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            )
    save_ir(model, file, metadata=job.metadata, half=False)
    return count_operations(model)
