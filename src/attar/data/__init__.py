"""Real images in: image sets, where they come from, named subsets, augmentation."""
