"""What a synthetic item is said to be."""

from attar.labels.hard import HardLabels, class_major_labels
from attar.labels.soft import SoftLabels, class_logits, network_logits

__all__ = ["HardLabels", "SoftLabels", "class_logits", "class_major_labels", "network_logits"]
