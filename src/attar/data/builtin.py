"""A real data set that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from attar.data.image_set import ImageSet


def digits() -> ImageSet:
    """1797 scans of handwritten digits: 8 x 8, grey, ten classes; the values 0..16 become 0..255 by rounding 255/16.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (its test part), as shipped with
        scikit-learn.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.floor(found.images * (255 / 16) + 0.5).astype(np.uint8)
    labels = torch.from_numpy(found.target.astype(np.int64))
    return ImageSet(torch.from_numpy(pixels)[:, None], labels, tuple(str(digit) for digit in range(10)))
