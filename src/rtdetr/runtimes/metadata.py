"""Metadata of exported files: one JSON text, written by every exporter and read by every runtime.

ONNX stores it in `metadata_props`, OpenVINO in `rt_info`, an engine file in its JSON header, a `.pt2` file in an extra
file; always under the key "rtdetr".
"""

import json
from typing import Literal

from pydantic import Field, model_validator

from rtdetr.categories import Categories, Category
from rtdetr.config import DEFAULT_SIZE_HW, Fraction, Size, SizeHW
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.strict import Strict
from rtdetr.wording import counted

KEY = "rtdetr"
WEIGHTS_KEY = "rtdetr_weights_sha256"  # in OpenVINO's `.xml`: the hash of its `.bin`
FORMAT_VERSION = 1


class ExportMetadata(Strict):
    """Description of an exported model: its inputs, outputs and origin."""

    format_version: Literal[1] = FORMAT_VERSION
    model: str  # zoo name, or the caller's name of the network
    names: tuple[str, ...] = Field(min_length=1)  # class names by label
    category_ids: tuple[int, ...]  # ids of the classes in the dataset the model was trained on, by label
    size_hw: SizeHW = DEFAULT_SIZE_HW  # the fixed input size, or the default size if sizes are dynamic
    dynamic_batch: bool = False
    dynamic_size: bool = False
    in_channels: Size = 3
    preprocess: Literal["external", "in_graph"] = "external"  # in_graph: the input is uint8 (1, h, w, c) of any size
    postprocess: Literal["raw", "boxes"] = "boxes"
    mean: tuple[float, ...] | None = None  # per channel, subtracted in the graph from images in [0, 1]; informative
    std: tuple[float, ...] | None = None  # per channel, divided by in the graph; informative
    thresholds: tuple[Fraction, ...] | None = None  # best score threshold by label
    precision: str = "float32"  # of most weights: float32, float16, bfloat16, int8 or mixed
    num_queries: Size = 300
    one_label: bool = False  # the graph outputs only the best class of each query, not the best query-class pairs
    license: str | None = None  # of the weights
    source_sha256: str | None = None  # of the checkpoint
    library_version: str

    @model_validator(mode="after")
    def _one_value_per_class(self) -> "ExportMetadata":
        for field in ("category_ids", "thresholds"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.names):
                raise ConfigError(f"{counted(len(self.names), 'name')} but {len(values)} {field}")
        if len(set(self.category_ids)) < len(self.category_ids):
            raise ConfigError("category_ids must differ from each other")
        return self

    @property
    def categories(self) -> Categories:
        """The classes by label."""
        return Categories(map(Category, self.category_ids, self.names))

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: object) -> "ExportMetadata":
        """Read the metadata of a file.

        Args:
            text: the text written by `to_json`.
            source: the file, for messages.

        Raises:
            WeightsError: the text is damaged, or was written by a newer version of this library.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise WeightsError(f"{source}: its metadata (key {KEY!r}) is damaged; export the model again")
        version = values.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise WeightsError(f"{source}: its format {version} is newer than {FORMAT_VERSION}; upgrade rtdetr")
        try:
            return cls.from_record(values)
        except (ConfigError, TypeError) as error:
            raise WeightsError(
                f"{source}: its metadata (key {KEY!r}) is damaged: {error} Export the model again"
            ) from None
