"""What every backbone is to the rest of the library: images in, three maps out, in a stem and stages."""

from collections.abc import Sequence

from torch import Tensor, nn

from rtdetr.models.layers import freeze_norms


class Backbone(nn.Module):
    """Base class. The forward pass turns images (b, c, h, w) into maps of strides 8, 16 and 32, finest first."""

    out_channels: tuple[int, ...]  # of the three maps

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        raise NotImplementedError

    def stem_and_stages(self) -> list[list[nn.Module]]:
        """The modules of the stem, then those of each stage, in the order in which they run.

        Freezing counts in them, and gradient checkpointing computes each module of a stage a second time. By default
        the backbone is one piece.
        """
        return [[self]]

    def freeze(self, freeze_at: int) -> None:
        """Stop training of the stem (0) and of the first `freeze_at` stages; nothing if it is negative."""
        for modules in self.stem_and_stages()[: freeze_at + 1]:
            for module in modules:
                module.requires_grad_(False)

    def load_pretrained(self) -> None:
        """Fetch the weights that `pretrained` of the configuration asks for; for backbones that have such a setting."""
        raise NotImplementedError

    def freeze_norms(self, modules: Sequence[nn.Module]) -> None:
        """Make constants of the batch norms in some of the backbone's modules, which may be norms themselves."""
        freeze_norms(self, modules)
