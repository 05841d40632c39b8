"""What a synthetic item is said to be."""

from attar.labels.hard import HardLabels, class_major_labels

__all__ = ["HardLabels", "class_major_labels"]
