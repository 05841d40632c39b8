"""What a synthetic item is said to be."""

from attar.methods.labels.hard import HardLabels, class_major_labels
from attar.methods.labels.region_logits import label_regions, read_region_logits
from attar.methods.labels.regions import RegionLabels, apply_regions, draw_regions
from attar.methods.labels.soft import SoftLabels, class_logits, network_logits

__all__ = [
    "HardLabels",
    "RegionLabels",
    "SoftLabels",
    "apply_regions",
    "class_logits",
    "class_major_labels",
    "draw_regions",
    "label_regions",
    "network_logits",
    "read_region_logits",
]
