"""Images: image folders, the embedded default, dead leaves, and reproducible training crops."""

from tcm_lab.data.crops import CropSource
from tcm_lab.data.dead_leaves import paint_dead_leaves
from tcm_lab.data.images import ImageSet, open_images
from tcm_lab.data.prefetch import prefetch

__all__ = ["CropSource", "ImageSet", "open_images", "paint_dead_leaves", "prefetch"]
