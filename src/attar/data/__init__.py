"""Real images in: image sets, where they come from, named subsets, augmentation."""

from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images

__all__ = ["ImageSet", "Splits", "load_images"]
