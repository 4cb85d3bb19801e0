"""INT8: a network in 8-bit integers whose average precision is measured and bounded.

The backbone, the encoder and the decoder's projections are quantized; the decoder itself stays in float, where 8 bits
cost most accuracy and gain least time. Where too much AP is lost, the stage that adds the largest error goes back to
float, and so on until the loss is small enough.

Weights use 7 of their 8 bits. Processors with AVX2 or AVX-512 but without VNNI add two products of 8 bits in 16 bits
and clip the sum: a file with full weights is right on one machine and may find nothing on another. With weights up to
64 no sum is clipped (2 * 255 * 64 < 32768), and the file means the same everywhere.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from rtdetr.export.job import Job
from rtdetr.export.report import ROUNDING
from rtdetr.export.samples import Samples
from rtdetr.export.stages import STAGE, stage_errors
from rtdetr.export.verify import measure_ap
from rtdetr.preprocessing import resize
from rtdetr.runtimes import load

_log = logging.getLogger(__name__)
_ROOMS = ("backbone", "encoder", "decoder.input_proj")  # of the network, that may be quantized


class Written(NamedTuple):
    """A file that was written.

    num_nodes: operators in its graph; None where not counted.
    kept_float: stages that went back to float, in the order in which they did.
    ap: average precision of the file, 0..1; None: not measured.
    reference_ap: that of the float32 network.
    """

    num_nodes: int | None
    kept_float: tuple[str, ...] = ()
    ap: float | None = None
    reference_ap: float | None = None


def quantize(job: Job, samples: Samples, file: Path, write: Callable[..., int | None]) -> Written:
    """Write a model in INT8; with a dataset, as much of it as costs at most `max_drop` of AP.

    Args:
        job: what to write.
        samples: what to calibrate on, and to measure AP on.
        file: the file to write.
        write: an `Int8Writer` of `rtdetr.export.formats`.
    """
    dataset, max_drop = samples.dataset, job.options.int8_or_default.max_drop
    before = measure_ap(job.reference, dataset) if dataset else None
    stages = _stages(job.reference.network)
    kept: list[str] = []
    while True:
        num_nodes = write(job, file, [stage for stage in stages if stage not in kept], samples.feeds)
        after = measure_ap(load(file, device="cpu"), dataset) if dataset else None
        if before is None or after is None or before - after <= max_drop + ROUNDING or len(kept) == len(stages):
            return Written(num_nodes, tuple(kept), after, before)
        _log.info("AP falls by %.4f with %d stages in INT8", before - after, len(stages) - len(kept))
        image = resize(samples.images[0], job.metadata.size_hw)
        kept.append(_worst(stage_errors(file, job.reference.network, image) or {}, stages, kept))


def _stages(network: nn.Module) -> list[str]:
    """What may be quantized, in the order of the network."""
    names = [match[1] for name, _ in network.named_modules() if (match := STAGE.search(name))]
    return [name for name in names if name.startswith(_ROOMS)]


def _worst(errors: dict[str, float], stages: list[str], kept: list[str]) -> str:
    """The quantized stage that adds most error to what came before it."""
    added, before = {}, 0.0
    for stage, error in errors.items():
        if stage in stages and stage not in kept:
            added[stage] = error - before
        before = error
    return max(added, key=lambda stage: added[stage]) if added else next(s for s in stages if s not in kept)
