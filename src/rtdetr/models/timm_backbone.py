"""Backbones of timm, by name: every model of its `features_only` interface that has maps of strides 8, 16 and 32."""

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rtdetr.config import STRIDES, TimmConfig
from rtdetr.errors import ConfigError, WeightsError, nearest, require_extra
from rtdetr.models.backbone import Backbone

_STEM_STRIDE = 4  # stride of the first stage's map; everything before it is the stem


class TimmBackbone(Backbone):
    """A network of timm with random weights; `load_pretrained` downloads the published ones.

    Raises:
        ConfigError: the model does not exist or has no maps of strides 8, 16 and 32, or `freeze_at` is too large.
        MissingDependencyError: timm is not installed.
    """

    def __init__(self, config: TimmConfig, *, in_channels: int = 3) -> None:
        super().__init__()
        self.config, self.in_channels = config, in_channels
        self.network: Any = _create(config.timm, in_chans=in_channels)
        strides = self.network.feature_info.reduction()
        chosen = _choice(config.timm, strides)
        self.network = _create(config.timm, in_chans=in_channels, out_indices=chosen)
        self.out_channels = tuple(self.network.feature_info.channels())
        self.channels_last = str(getattr(self.network, "output_fmt", "")).endswith("NHWC")  # as Swin's maps are
        if config.freeze_at > self.num_stages:
            raise ConfigError(
                f"backbone.freeze_at: {config.timm} has {self.num_stages} stages that can be frozen, got "
                f"{config.freeze_at}; freeze 'backbone' freezes all of it"
            )
        self.freeze(config.freeze_at)
        if config.freeze_norm:
            self.freeze_norms([self])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of strides 8, 16 and 32."""
        maps = self.network(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else list(maps)

    @property
    def num_stages(self) -> int:
        """Number of stages that can be frozen separately; 0 if timm's network cannot be split."""
        return len(self.stem_and_stages()) - 1

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """Return the children of timm's network, split after the modules that return its maps."""
        features = [info for info in self.network.feature_info.info if info.get("module")]
        ends = {info["module"].replace(".", "_") for info in features if info["reduction"] >= _STEM_STRIDE}
        names = {info["module"].partition(".")[0] for info in features}
        groups: list[list[nn.Module]] = [[]]
        for name, child in self.network.named_children():
            inner = child.named_children() if name in names and name not in ends else ()
            for path, module in [(f"{name}_{key}", x) for key, x in inner] or [(name, child)]:
                if path in ends and len(groups) == 1:
                    groups.append([])  # the stem ends before the first stage
                groups[-1].append(module)
                if path in ends:
                    groups.append([])
        groups = groups if groups[-1] else groups[:-1]
        return groups if len(groups) > len(STRIDES) else [[self]]

    def freeze_norms(self, modules: Sequence[nn.Module]) -> None:
        """Freeze batch norms; the activation that some norms of timm include is kept."""
        frozen = {module for part in modules for module in part.modules()}
        convert = importlib.import_module("timm.layers").freeze_batch_norm_2d
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if child in frozen and isinstance(child, nn.BatchNorm2d):
                    parent.add_module(name, convert(child))

    def load_pretrained(self) -> None:
        """Download timm's pretrained weights.

        Raises:
            WeightsError: timm has none for this model, or they cannot be downloaded.
        """
        name = self.config.timm
        try:
            fetched = _create(
                name, in_chans=self.in_channels, out_indices=self.network.feature_info.out_indices, pretrained=True
            )
        except ConfigError:
            raise
        except Exception as error:  # of timm, of the hub, of the network
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise WeightsError(
                f"timm cannot download the pretrained weights of {name}: {reason}. Check the connection, start without "
                "them (--set model.backbone.pretrained=false), or start from a checkpoint (--weights)"
            ) from None
        own, state = self.network.state_dict(), fetched.state_dict()
        self.network.load_state_dict({key: state[key] for key in own})


def pixel_statistics(name: str, *, in_channels: int) -> dict[str, tuple[float, ...]]:
    """Return the `pixel_mean` and `pixel_std` that timm's pretrained weights expect; nothing is downloaded.

    For a number of channels other than three, each channel gets the average of the three.
    """
    expected = _timm().get_pretrained_cfg(name)
    if expected is None:
        return {}
    values = {"pixel_mean": tuple(expected.mean), "pixel_std": tuple(expected.std)}
    if in_channels == len(expected.mean):
        return values
    return {key: (sum(numbers) / len(numbers),) * in_channels for key, numbers in values.items()}


def _timm() -> Any:
    with require_extra():
        return importlib.import_module("timm")


def _create(name: str, **options: Any) -> Any:
    """Build the network of timm that returns feature maps."""
    timm = _timm()
    if not timm.is_model(name):
        raise ConfigError(f"backbone.timm: timm has no model {name!r}.{nearest(name, timm.list_models())}")
    try:
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, AttributeError, AssertionError) as error:
        if options.get("pretrained"):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"backbone.timm: {name} does not return feature maps (features_only): {reason}") from None


def _choice(name: str, strides: list[int]) -> tuple[int, ...]:
    """Return the indices of the maps with strides 8, 16 and 32; of several with one stride, the last."""
    if not set(STRIDES) <= set(strides):
        found = ", ".join(map(str, dict.fromkeys(strides)))
        raise ConfigError(f"backbone.timm: {name} returns maps of strides {found}, expected 8, 16 and 32 among them")
    return tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)
