"""How the texts of the command line's options are read."""

from __future__ import annotations

import json
from typing import Any

from attar.errors import InputError


def assignments(texts: list[str]) -> dict[str, Any]:
    """{"steps": 50} from ["steps=50"]; a value that is not JSON is text. Raises InputError."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text!r} is not KEY=VALUE, e.g. --set steps=100")
        if key.strip() in settings:
            raise InputError(f"--set {key.strip()} is given twice; give it once")
        try:
            settings[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[key.strip()] = value
    return settings


def loading_arguments(
    test: str | None, classes: str | None, image_size: str | None, resize: str, channels: str
) -> dict[str, Any]:
    """The arguments of `load_images` from the options' texts. Raises InputError."""
    return {
        "test": test,
        "classes": names(classes) if classes and "," in classes else classes,
        "image_size": None if image_size is None else side(image_size),
        "resize": resize,
        "channels": channels,
    }


def names(text: str) -> list[str]:
    """["a", "b"] from "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def side(text: str) -> int | tuple[int, int]:
    """64 from "64", (64, 96) from "64x96". Raises InputError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"--image-size {text!r} is not understood; give pixels, 64, or height x width, 64x96")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
