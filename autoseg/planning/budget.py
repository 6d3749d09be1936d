"""What the graphics memory pays for: reference values measured once, scaled to the memory at hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many feature map elements a network may have, and the batch size at which that was measured.

    The reference values are nnU-Net's (reference rules 3.5), so that plans agree; the defaults are those of its default
    planner. `encoder_blocks` counts per stage, the last entry for all that follow; `patch_share_2d` is how many times
    the reference one single 2d patch may take.
    """

    network: str = "plain_unet"
    encoder_blocks: tuple[int, ...] = (2,)
    decoder_blocks: int = 2
    patch_share_2d: float = 6.0
    reference_3d: float = 560e6
    reference_2d: float = 85e6
    reference_memory_gb: float = 8.0
    memory_gb: float = 8.0
    reference_batch_3d: int = 2
    reference_batch_2d: int = 12
    min_batch: int = 2
    base_features: int = 32
    max_dataset_share: float = 0.05  # of all voxels in one batch: more would be the same images again

    def elements(self, dimensions: int) -> float:
        """Feature map elements that fit into the memory at the reference batch size."""
        reference = self.reference_3d if dimensions == 3 else self.reference_2d
        return reference * self.memory_gb / self.reference_memory_gb

    def patch_elements(self, dimensions: int) -> float:
        """Feature map elements that the network may have for a single patch."""
        return self.elements(dimensions) * (1.0 if dimensions == 3 else self.patch_share_2d)

    def reference_batch(self, dimensions: int) -> int:
        """Batch size at which the reference was measured."""
        return self.reference_batch_3d if dimensions == 3 else self.reference_batch_2d
