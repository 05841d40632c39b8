"""Images that must not be mirrored."""

from __future__ import annotations

import re

# Data sets, by a word of their name, of which a mirrored image means something else or nothing.
HANDED = frozenset({"digits", "mnist", "emnist", "kmnist", "qmnist", "svhn", "usps", "omniglot"})


def handed(data_name: str) -> bool:
    """Whether images of this data set must not be mirrored: its name says digits or characters.

    Example:
        >>> handed("hf:ylecun/mnist"), handed("fashion_mnist"), handed("my-photos")
        (True, False, False)
    """
    words = re.findall(r"[a-z]+", data_name.lower())
    return bool(HANDED.intersection(words)) and "fashion" not in words
