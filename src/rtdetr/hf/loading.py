"""`HuggingFaceFiles`: from_pretrained, save_pretrained and load_state_dict of the `rtdetr.hf` models.

In memory, entries have the published names with a prefix. Files have transformers names, so stock transformers opens
what is saved here and vice versa. All variants are read: transformers names on disk and in memory, with and without
tied copies, and official names; in one file, in shards, or pickled, without running code.

Models that stock transformers cannot represent (points per level, query selection, ...) are saved with official names
and model type "rtdetr", which stock transformers refuses to open. A model that is evaluated before its last layer is
saved with its `eval_idx`. Stock transformers ignores it and evaluates the last layer; `trim_decoder()` makes both
agree.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from rtdetr.errors import RTDETRError, WeightsError
from rtdetr.expected import shown_value
from rtdetr.files import write_bytes
from rtdetr.hf.adapters import check_adapter, find_adapter
from rtdetr.hf.configuration import RTDetrV2Config, categories_of, model_config, own_backbone
from rtdetr.hf.entries import NETWORK, ensure_memory_names, to_file_names, to_memory_names
from rtdetr.text_files import read_text
from rtdetr.weights.huggingface import INDEX, PICKLED, WEIGHTS, read_entries, write_json
from rtdetr.weights.huggingface_config import OWN_TYPE, unsupported_by_transformers
from rtdetr.weights.huggingface_fields import CONFIG
from rtdetr.weights.huggingface_reading import stated_version
from rtdetr.weights.names import State
from rtdetr.weights.official import Metadata, merged_metadata, metadata

if TYPE_CHECKING:

    class _Base(PreTrainedModel):
        config: RTDetrV2Config
else:
    _Base = object

# fields that stock transformers does not have; written only if they differ from the default
_OWN_FIELDS = RTDetrV2Config().to_dict().keys() - transformers.RTDetrV2Config().to_dict().keys()
# arguments of transformers and huggingface_hub that locate files
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PUSH = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


class HuggingFaceFiles(_Base):
    """Load and save a model around an `rtdetr.models.RTDETR`; must precede `PreTrainedModel` in the bases."""

    # constants that the network creates itself
    _keys_to_ignore_on_load_unexpected: ClassVar = [
        r"num_batches_tracked$",
        r"num_points_scale$",
        r"decoder\.(anchors|valid_mask)$",
    ]
    _keys_to_ignore_on_load_missing: ClassVar = _keys_to_ignore_on_load_unexpected

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **options: Any
    ) -> Any:
        """Build a model in eval mode and load its weights from a folder or a hub repository.

        Args:
            pretrained_model_name_or_path: a folder, a hub repository ("PekingU/rtdetr_v2_r18vd"), a weight file with
                `config`, or None with `config` and `state_dict`. For a PEFT adapter, the base model is opened and the
                adapter is loaded under the name `adapter_name` ("default").
            model_args: as in transformers.
            config: a configuration to use instead of that of the repository, or a path or repository with one.
            options: those of transformers: cache_dir, force_download, local_files_only, revision, subfolder, token,
                variant, use_safetensors (True refuses .bin files), dtype ("auto" or omitted: as stored), device_map,
                ignore_mismatched_sizes, output_loading_info, attn_implementation, and fields of the configuration such
                as id2label.

        Raises:
            OSError: the repository does not exist, as in transformers.
            WeightsError: weights are missing, damaged or from another model.
            MissingDependencyError: the source is an adapter and PEFT is not installed.
        """
        source = pretrained_model_name_or_path
        if options.get("state_dict") is None:
            options.pop("state_dict", None)
        if source is None or "state_dict" in options:
            if config is not None and not isinstance(config, PreTrainedConfig):
                config = RTDetrV2Config.from_pretrained(config)
            if isinstance(config, PreTrainedConfig) and options.get("state_dict"):
                options["state_dict"] = ensure_memory_names(options["state_dict"], config)
            return _freeze_as_configured(super().from_pretrained(source, *model_args, config=config, **options))
        hub = {name: options.pop(name) for name in _HUB if name in options}
        source, adapter = find_adapter(source, hub, options)
        if adapter is not None and source != pretrained_model_name_or_path:  # the revision belongs to the adapter
            hub = {name: value for name, value in hub.items() if name not in ("revision", "subfolder")}
        pickled = options.pop("use_safetensors", None) is not True
        options.pop("trust_remote_code", None)  # there is no remote code
        dtype = {name: options.pop(name) for name in ("dtype", "torch_dtype") if name in options}
        stored = {}
        if not isinstance(config, PreTrainedConfig):
            with _name_source_on_error(config or source):
                stored, options = RTDetrV2Config.get_config_dict(config or source, **hub, **options)
            if not isinstance(stored, dict):
                raise WeightsError(f"{config or source}: {CONFIG}: expected a JSON object, got {shown_value(stored)}")
            if not stored:
                raise WeightsError(f"{config or source} has no {CONFIG}; pass config=RTDetrV2Config(...)")
            if config is None and stored.get("_commit_hash"):  # read all files from the same commit
                hub["revision"] = stored["_commit_hash"]
        file = _weights_file(source, variant=options.pop("variant", None), pickled=pickled, hub=hub)
        state, described = read_entries(file)
        if not isinstance(config, PreTrainedConfig):
            with _name_source_on_error(config or source):
                config, options = cls._configuration(stored, described, options)
        try:
            entries = to_memory_names(state, config)
        except WeightsError as error:
            raise WeightsError(f"{file}: {error}") from None
        with _add_source_to_report(source):
            result = super().from_pretrained(None, *model_args, config=config, state_dict=entries, **dtype, **options)
        model = result[0] if isinstance(result, tuple) else result
        model.config.name_or_path = model.name_or_path = str(source)
        _freeze_as_configured(result)
        if adapter is not None:
            model.load_adapter(adapter.source, adapter_name=adapter.name, adapter_kwargs=adapter.hub)
        return result

    def load_adapter(self, peft_model_id: Any = None, *arguments: Any, **options: Any) -> Any:
        """Load a PEFT adapter as transformers does; its entries must match the model exactly.

        Raises:
            WeightsError: the adapter is for a model with other modules, such as the class of transformers.
        """
        info = super().load_adapter(peft_model_id, *arguments, **options)  # pyright: ignore[reportArgumentType]
        check_adapter(info, peft_model_id)
        return info

    @classmethod
    def _configuration(
        cls, stored: dict[str, Any], described: Metadata | None, options: dict[str, Any]
    ) -> tuple[RTDetrV2Config, dict[str, Any]]:
        """Return the configuration of a repository, and the options that are not fields of it."""
        model_type = stored.get("model_type", RTDetrV2Config.model_type)
        if model_type not in (RTDetrV2Config.model_type, OWN_TYPE):
            raise WeightsError(
                f"{CONFIG}: expected model type {RTDetrV2Config.model_type!r}, got {model_type!r}. "
                "rtdetr.load reads RT-DETR v1 as well."
            )
        stated_version(stored)
        if model_type == OWN_TYPE and not stored.keys() & {"d_model", "rtdetr"}:  # the header of the weights may say it
            if described is None:
                raise WeightsError(f"{CONFIG} and the header of the weights have no description of the model")
            stored = RTDetrV2Config.from_description(described, stored)
        if isinstance(stored.get("rtdetr"), dict):
            stored = {**stored, "rtdetr": merged_metadata(stored["rtdetr"], described)}
        stored = {**stored, "model_type": RTDetrV2Config.model_type}
        made: Any = RTDetrV2Config.from_dict(stored, return_unused_kwargs=True, **options)
        return made

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        **options: Any,
    ) -> None:
        """Write config.json and the weights in a form that transformers and this library open.

        Files are replaced atomically one by one, config.json last; an interrupted call leaves no partial file.

        Args:
            save_directory: the folder; created if missing.
            is_main_process: False writes nothing; for the other processes of a distributed run.
            state_dict: entries to write instead of those of the model, with the same names.
            push_to_hub: also upload the files; see `push_to_hub` of transformers.
            max_shard_size: maximum size of one file, in bytes or as text such as "5GB".
            variant: writes model.VARIANT.safetensors.
            options: `repo_id` (default: name of the folder) and other arguments of `push_to_hub`.

        Raises:
            WeightsError: the model is fused or quantized, or the folder cannot be written.
        """
        if getattr(self, "_hf_peft_config_loaded", False):  # writes only adapters, under their own names
            super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, **options)  # pyright: ignore[reportArgumentType]
            return
        folder = Path(save_directory)
        self._check_savable(folder)
        if not is_main_process:
            return
        if state_dict is not None and not state_dict:
            raise WeightsError("expected entries in state_dict, got none; omit it to save the entries of the model")
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        foreign = own_backbone(self.config) is not None and bool(unsupported_by_transformers(model_config(self.config)))
        state = self.state_dict() if state_dict is None else dict(state_dict)
        self._write_weights(folder, state, max_shard_size=max_shard_size, variant=variant, foreign=foreign)
        stored = json.loads(self.config.to_json_string(use_diff=True))
        stored = {k: v for k, v in stored.items() if k not in _OWN_FIELDS or v != getattr(RTDetrV2Config, k)}
        if foreign:
            stored["model_type"] = OWN_TYPE
        write_json(folder / CONFIG, stored)
        if push_to_hub:
            arguments = {name: options[name] for name in _PUSH if name in options}
            self.push_to_hub(options.get("repo_id", folder.name), max_shard_size=max_shard_size, **arguments)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load entries with the names of this model, of transformers or of official files, as `torch.nn.Module` does.

        `Trainer` of transformers reads a checkpoint file and passes its entries to this method.
        """
        state_dict = ensure_memory_names(state_dict, self.config)
        if not self._is_detector:
            state_dict = {key.removeprefix("model."): value for key, value in state_dict.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @property
    def _is_detector(self) -> bool:
        """Whether this model contains a base model, rather than being one."""
        return self.base_model is not self

    def _check_savable(self, folder: Path) -> None:
        if folder.is_file():
            raise WeightsError(f"expected a folder to save to, got the file {folder}")
        network: Any = self.base_model.network
        if network.is_fused:
            raise WeightsError("a fused model is for inference only and cannot be saved; save the original model")
        if getattr(self, "hf_quantizer", None) is not None:
            raise WeightsError("a quantized model cannot be saved; save the original model")

    def _write_weights(
        self, folder: Path, state: State, *, max_shard_size: int | str, variant: str | None, foreign: bool
    ) -> None:
        """Write one file, or shards with their index, then remove the weights of an earlier call."""
        prefix = NETWORK if self._is_detector else NETWORK.removeprefix("model.")
        network = {key.removeprefix(prefix): value.detach().cpu() for key, value in state.items()}
        header = {"format": "pt"}
        if own_backbone(self.config) is not None:
            config = model_config(self.config)
            header["rtdetr"] = json.dumps(metadata(config, categories_of(self.config)))
        weights, index = _with_variant(WEIGHTS, variant), _with_variant(INDEX, variant)
        # split before renaming, so the three parts of a stacked projection stay in one file
        pattern = weights.replace(".safetensors", "{suffix}.safetensors")
        plan = split_torch_state_dict_into_shards(network, filename_pattern=pattern, max_shard_size=max_shard_size)
        places: dict[str, str] = {}
        for name, keys in plan.filename_to_tensors.items():
            entries = {key: network[key] for key in keys}
            if not foreign:
                entries = to_file_names(entries, self.config)
                if not self._is_detector:
                    entries = {key.removeprefix("model."): value for key, value in entries.items()}
            # the format supports neither strides nor shared memory
            entries = {key: value.clone(memory_format=torch.contiguous_format) for key, value in entries.items()}
            write_bytes(folder / name, save(entries, metadata=header), error=WeightsError)
            places |= dict.fromkeys(entries, name)
        if plan.is_sharded:
            parameters = sum(parameter.numel() for parameter in self.parameters())
            about = {"total_parameters": parameters, **plan.metadata}
            write_json(folder / index, {"metadata": about, "weight_map": places})
        written = {*plan.filename_to_tensors, *([index] if plan.is_sharded else [])}
        stem = weights.removesuffix(".safetensors")
        for old in (folder / weights, folder / index, *folder.glob(f"{stem}-?????-of-?????.safetensors")):
            if old.name not in written:
                old.unlink(missing_ok=True)


@contextmanager
def _name_source_on_error(source: Any) -> Iterator[None]:
    """Name the source of a configuration in any exception that transformers raises for it."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, RTDETRError):
            raise
        raise WeightsError(f"{source}: {CONFIG} is not valid: {type(error).__name__}: {error}") from error


@contextmanager
def _add_source_to_report(source: Any) -> Iterator[None]:
    """Add the source to the loading report of transformers, which receives entries instead of a path."""

    def name(record: logging.LogRecord) -> bool:
        record.msg = str(record.msg).replace("from: None\n", f"from: {source}\n")
        return True

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(name)
    try:
        yield
    finally:
        logger.removeFilter(name)


def _weights_file(source: Any, *, variant: str | None, pickled: bool, hub: dict[str, Any]) -> Path:
    """Return the weight file, or the index of shards next to it, downloading them if necessary."""
    if Path(source).is_file():
        return Path(source)
    names = [_with_variant(name, variant) for name in (WEIGHTS, INDEX, PICKLED, f"{PICKLED}.index.json")]
    for name in names if pickled else names[:2]:
        found = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub)
        if found is None:
            continue
        if name.endswith(".json"):
            for shard in _shards(Path(found)):
                cached_file(source, shard, **hub)
        return Path(found)
    raise WeightsError(f"{source} contains no weights: expected {' or '.join(names if pickled else names[:2])}")


def _shards(index: Path) -> list[str]:
    """Return the files listed in an index; they must be next to it."""
    try:
        files = json.loads(read_text(index, what="index of weights", error=WeightsError))["weight_map"].values()
        names = sorted({str(name) for name in files})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError(f"{index}: expected an object 'weight_map' from entry names to files") from None
    if wrong := [name for name in names if Path(name).name != name or not name.endswith((".safetensors", ".bin"))]:
        raise WeightsError(f"{index}: expected names of files in the same folder, got {wrong[0]!r}")
    return names


def _with_variant(name: str, variant: str | None) -> str:
    """Turn model.safetensors into model.fp16.safetensors, the transformers name of a variant."""
    head, _, kind = name.rpartition(".")
    return f"{head}.{variant}.{kind}" if variant else name


def _freeze_as_configured(loaded: Any) -> Any:
    """Freeze what the configuration freezes again, because transformers makes all loaded parameters trainable."""
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    with torch.device("meta"):
        built = type(model)(model.config)
    for parameter, twin in zip(model.parameters(), built.parameters(), strict=True):
        parameter.requires_grad_(twin.requires_grad)
    return loaded
