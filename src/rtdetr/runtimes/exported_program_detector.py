"""Detection with a `.pt2` file: a `torch.export` program, or an AOTInductor package of compiled code.

Both need torch, but not the network's Python code. A package contains machine code and a program can contain pickled
constants: load only files from sources you trust.
"""

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rtdetr.devices import choose_device, continue_in_fork, no_autocast, pytorch_defaults
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.runtimes.base import BaseDetector
from rtdetr.runtimes.graph_form import OUTPUTS, check_precision, existing, output_of, unreadable
from rtdetr.runtimes.metadata import KEY, ExportMetadata
from rtdetr.runtimes.options import DEFAULTS, LoadOptions
from rtdetr.runtimes.outputs import Batch, Output
from rtdetr.runtimes.processes import FileDetector


class ExportedProgramDetector(FileDetector):
    """A detector that runs a `.pt2` file; `rtdetr.load` documents the arguments.

    Args:
        path: a file written by `rtdetr export --format torch`.
        options: `device` is "auto" or the type of device the file was exported for; `precision` is "auto" or the
            precision of the file; `num_threads` applies to the whole process.

    Raises:
        ConfigError: the device or precision differs from the file's.
        WeightsError: the file is missing, damaged, not a model of this library, or for another machine.
    """

    def __init__(self, path: Path, options: LoadOptions = DEFAULTS) -> None:
        wanted = None if options.device == "auto" else choose_device(options.device).type
        if options.num_threads is not None:
            torch.set_num_threads(options.num_threads)
        text, compiled = _inspect(existing(path, kind="torch.export"))
        metadata = ExportMetadata.from_json(text, source=path)
        check_precision(options.precision, metadata, source=path)
        super().__init__(metadata, options)
        self.batch_sizes = (1, None) if metadata.dynamic_batch else (1, 1)
        self._program, self.device = _load(path, compiled=compiled)
        if wanted not in (None, self.device.type):
            raise ConfigError(
                f"{path} was exported for {self.device.type}, got device {options.device!r}; export it again"
            )
        self.num_threads = torch.get_num_threads() if self.device.type == "cpu" else None
        self.where = f"{self.device.type} ({'AOTInductor' if compiled else 'torch.export'})"

    def enter_fork(self) -> None:
        """Continue without the parent's threads."""
        continue_in_fork(self.device)
        BaseDetector.enter_fork(self)  # the program does not need to be opened again

    @torch.inference_mode()
    def infer(self, batch: Batch) -> Output:
        """Run the network and wait for its result."""
        pixels = batch.pixels if batch.pixels.flags.writeable else batch.pixels.copy()  # otherwise torch warns
        images = torch.from_numpy(pixels).to(self.device)
        if self.metadata.preprocess == "external":
            images = images.to(torch.float32).div_(255)
        feed = [images]
        if self.metadata.preprocess == "external" and self.metadata.postprocess == "boxes":
            feed.append(torch.from_numpy(batch.padded_sizes_wh).to(self.device))
        try:
            with no_autocast():
                result = self._program(*feed)
        except Exception as error:  # compiled code and exported programs raise many types
            raise WeightsError(f"{self.description} failed: {' '.join(str(error).split())[:300]}") from None
        if isinstance(result, Mapping):
            result = [result[name] for name in OUTPUTS[self.metadata.postprocess]]
        values = [value.cpu().numpy() for value in result]
        return output_of(values, self.metadata)


def _inspect(path: Path) -> tuple[str, bool]:
    """Return the metadata of a `.pt2` file, and whether it contains compiled code; nothing in it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} has a wrong checksum")
            compiled = any("aotinductor" in name for name in names)
            for name in names:
                if Path(name).parts[-2:] in (("extra", KEY), ("extra_files", KEY)):  # the latter up to torch 2.7
                    return archive.read(name).decode(), compiled
            for name in names:
                if name.endswith("_metadata.json"):
                    return json.loads(archive.read(name))[KEY], compiled
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        NotImplementedError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise unreadable(path, engine="torch.export", error=error) from None
    raise WeightsError(f"{path} was not exported by rtdetr: it has no entry {KEY!r}; use: rtdetr export --format torch")


@pytorch_defaults()
def _load(path: Path, *, compiled: bool) -> tuple[Callable[..., Any], torch.device]:
    """Load the program of a file, and return it with its device."""
    log = logging.getLogger("torch.export")
    was_disabled, log.disabled = log.disabled, True  # it logs a long traceback for a damaged file
    try:
        content = str(path) if path.suffix == ".pt2" else io.BytesIO(path.read_bytes())  # torch rejects .PT2
        if compiled:
            package = torch._inductor.aoti_load_package(content)
            return package, torch.device(package.get_metadata().get("AOTI_DEVICE_KEY", "cpu"))
        program = torch.export.load(content)
    except Exception as error:  # torch raises many types for a damaged archive
        raise unreadable(path, engine="torch.export", error=error) from None
    finally:
        log.disabled = was_disabled
    return program.module(), next((value.device for value in program.state_dict.values()), torch.device("cpu"))
