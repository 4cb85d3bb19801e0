"""INT8: quantize a network to 8-bit integers with a measured, bounded loss of average precision.

The backbone, the encoder and the layers of the decoder are quantized. Query selection, the heads and the positions of
sampling points stay in float: small errors there change which queries are selected and move boxes. With symmetric
ranges, which are for TensorRT, the decoder's layers stay in float too: they lose more AP with them. If too much AP is
lost, the stage that adds the largest error is returned to float, until the loss is small enough.

Weights use 7 of their 8 bits. Processors with AVX2 or AVX-512 but without VNNI add two 8-bit products in 16 bits and
saturate the sum: a file with full 8-bit weights that works on one machine may detect nothing on another. With weights
up to 64 no sum saturates (2 * 255 * 64 < 32768), and a file gives the same results everywhere.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rtdetr.export.job import Job
from rtdetr.export.report import ROUNDING
from rtdetr.export.samples import Samples
from rtdetr.export.stages import stage_errors, stages_of
from rtdetr.export.verify import measure_ap
from rtdetr.preprocessing import resize
from rtdetr.runtimes import load

_log = logging.getLogger(__name__)
_QUANTIZABLE = ("backbone", "encoder", "decoder.input_proj")
_IF_ASYMMETRIC = ("decoder.decoder.layers",)


class Written(NamedTuple):
    """Result of writing a file.

    num_nodes: number of operators in its graph; None if not counted.
    kept_float: stages that were returned to float, in that order.
    ap: average precision of the file, 0..1; None: not measured.
    reference_ap: average precision of the float32 network.
    """

    num_nodes: int | None
    kept_float: tuple[str, ...] = ()
    ap: float | None = None
    reference_ap: float | None = None


def quantize(job: Job, samples: Samples, file: Path, write: Callable[..., int | None]) -> Written:
    """Write a model in INT8; with a dataset, quantize as many stages as the limit `max_drop` on the loss of AP allows.

    Args:
        job: the export to write.
        samples: images to calibrate on, and the dataset to measure AP on.
        file: the file to write.
        write: an `Int8Writer` of `rtdetr.export.formats`.
    """
    dataset, max_drop = samples.dataset, job.options.int8_or_default.max_drop
    quantizable = _QUANTIZABLE if job.options.int8_or_default.symmetric else (*_QUANTIZABLE, *_IF_ASYMMETRIC)
    before = measure_ap(job.reference, dataset) if dataset else None
    stages = [stage for stage in stages_of(job.reference.network) if stage.startswith(quantizable)]
    kept: list[str] = []
    while True:
        num_nodes = write(job, file, [stage for stage in stages if stage not in kept], samples.feeds)
        after = measure_ap(load(file, device="cpu"), dataset) if dataset else None
        if before is None or after is None or before - after <= max_drop + ROUNDING or len(kept) == len(stages):
            return Written(num_nodes, tuple(kept), after, before)
        _log.info("AP drops by %.4f with %d stages in INT8", before - after, len(stages) - len(kept))
        image = resize(samples.images[0], job.metadata.size_hw)
        kept.append(_worst(stage_errors(file, job.reference.network, image) or {}, stages, kept))


def _worst(errors: dict[str, float], stages: list[str], kept: list[str]) -> str:
    """Return the quantized stage that adds the largest error to that of the stage before it."""
    added, before = {}, 0.0
    for stage, error in errors.items():
        if stage in stages and stage not in kept:
            added[stage] = error - before
        before = error
    return max(added, key=lambda stage: added[stage]) if added else next(s for s in stages if s not in kept)
