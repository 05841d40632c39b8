"""Which of a frozen model's classes are those of the data."""

from __future__ import annotations

from attar.base.errors import InputError
from attar.data.image_set import ImageSet


def model_classes(
    model: str, numbers: tuple[int, ...] | None, images: ImageSet, names: tuple[str, ...], num_classes: int
) -> dict[str, int]:
    """The model's class for each name of the data's.

    Args:
        model: what messages call it, "model" or "generator".
        numbers: as the user gave them, one for each class of the data; None finds them by name.
        images: of the data.
        names: of the model's classes, where it knows them; without any, as many classes are taken in their order.
        num_classes: of the model.

    Raises:
        InputError: numbers for other classes than there are, or classes that cannot be found.
    """
    own, count = images.classes, images.num_classes
    if numbers is not None:
        if len(numbers) != count:
            raise InputError(f"codec.classes has {len(numbers)} numbers for {count} classes; give one for each")
        return dict(zip(own, numbers, strict=True))
    if set(own) <= set(names):
        return {name: names.index(name) for name in own}
    if not names and num_classes == count:
        return {name: number for number, name in enumerate(own)}
    missing = next((name for name in own if name not in names), own[0])
    raise InputError(
        f"the {model}'s {num_classes} classes are not these {count} (e.g. {missing!r}); give the {model}'s number of "
        "each, --set codec.classes=[...]"
    )
