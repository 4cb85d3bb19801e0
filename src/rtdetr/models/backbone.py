"""The interface of backbones: images in, three maps out, computed by a stem and stages."""

from collections.abc import Sequence

from torch import Tensor, nn

from rtdetr.models.layers import freeze_norms


class Backbone(nn.Module):
    """Base class. The forward pass turns images (b, c, h, w) into maps of strides 8, 16 and 32, finest first."""

    out_channels: tuple[int, ...]  # of the three maps

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        raise NotImplementedError

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """Return the modules of the stem, then those of each stage, in the order in which they run.

        Freezing counts in them, and gradient checkpointing computes each module of a stage a second time. By default
        the backbone is one piece.
        """
        return [[self]]

    def freeze(self, freeze_at: int) -> None:
        """Freeze the stem (0) and the first `freeze_at` stages; freeze nothing if it is negative."""
        for modules in self.stem_and_stages()[: freeze_at + 1]:
            for module in modules:
                module.requires_grad_(False)

    def load_pretrained(self) -> None:
        """Download pretrained weights, for backbones whose configuration has the setting `pretrained`."""
        raise NotImplementedError

    def freeze_norms(self, modules: Sequence[nn.Module]) -> None:
        """Freeze the batch norms in the given modules of the backbone; a module may be a norm itself."""
        freeze_norms(self, modules)
