"""Images that must not be mirrored."""

from __future__ import annotations

import re

# Words in the names of data sets of digits and characters: a mirrored image means something else or nothing.
DIGITS_AND_CHARACTERS = frozenset({"digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "usps", "omniglot"})


def mirroring_harms(data_name: str) -> bool:
    """Whether images of this data set must not be mirrored: its name says digits or characters.

    Example:
        >>> mirroring_harms("hf:ylecun/mnist"), mirroring_harms("fashion_mnist"), mirroring_harms("my-photos")
        (True, False, False)
    """
    words = re.findall(r"[a-z]+", data_name.lower())
    return bool(DIGITS_AND_CHARACTERS.intersection(words)) and "fashion" not in words
