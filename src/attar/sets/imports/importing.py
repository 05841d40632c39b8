"""A set that others released becomes an ordinary file, which says what was assumed of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.progress import Progress, Silent
from attar.data.decoding import Channels, Resize, Rules
from attar.data.hub import HUB
from attar.data.image_set import ImageSet, Splits
from attar.data.resizing import Grid
from attar.data.sources import load_images, local_path, sides
from attar.methods.parameterizations.codes import Codes, Storage
from attar.methods.parameterizations.mosaic import Mosaic
from attar.models.codecs.pixels import Pixels
from attar.sets.composing import without_folders
from attar.sets.distilled import DistilledSet
from attar.sets.imports.foreign_set import ForeignSet, check_rate, labels_of
from attar.sets.imports.pictures import read_hub, read_pictures
from attar.sets.imports.preprocessing import CHOICES, Look, Values, look_at, normalisation, whitening
from attar.sets.imports.tensors import load_labels, read_arrays, read_tensors
from attar.sets.manifest import RATE, UNKNOWN, DataProvenance, InitialProvenance, check_classes

FOREIGN = "foreign"
PRIVACY = (
    "No differential-privacy guarantee is known. The images are foreign: whether they began as real images, and still "
    "show them, is not known."
)
KINDS = "a .pt or .npz file, a folder of class folders, .parquet, a folder that datasets saved, or hf:NAME[:SPLIT]"
MOST_OF_A_PICTURE = 2.0
# Of probabilities in half precision, a thousand in a row.
ROW_SUM_ERROR = 1e-2
SMALLEST_PROBABILITY = 1e-30
# One-hot vectors less 1 / K, and what training makes of them.
TARGETS = (-1.0, 2.0)
LabelKind = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Answers:
    """What a foreign file leaves out, as far as someone knows it; None is detected or assumed.

    Args:
        values: whether the stored values are "plain" pictures, nominally in [0, 1], or network "inputs" already.
        normalization: of network inputs: see `preprocessing.normalisation`.
        zca: network inputs are whitened as MTT's code does, with a matrix fitted on the training images.
        classes: names in the order of the labels.
        rate: that networks are to be trained with on it.
        label_kind: what soft labels are.
        grid: tiles along each side of an image that holds several (IDC's factor).
        experiment: which of several sets in the file, counted from 0.
        name: of the data it was distilled from.
        storage: of the values in the file; None is float16 for 8-bit pictures and float32 for floats.
        image_size: of pictures, a side or (height, width); None: they have one size.
        channels: of pictures: "keep", "grey" or "rgb".
    """

    values: Values | None = None
    normalization: str | None = None
    zca: bool = False
    classes: Sequence[str] | None = None
    rate: float | None = None
    label_kind: LabelKind | None = None
    grid: int = 1
    experiment: int = 0
    name: str | None = None
    storage: Storage | None = None
    image_size: int | tuple[int, int] | None = None
    channels: Channels = "keep"

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("kind of values", self.values, get_args(Values)),
            ("kind of labels", self.label_kind, get_args(LabelKind)),
            ("storage", self.storage, get_args(Storage)),
        ):
            if value is not None and value not in allowed:
                raise unknown(what, str(value), allowed)
        if self.zca and self.normalization is not None:
            raise InputError(
                "--zca and --normalization are both given; whitening takes images as they are, without normalization"
            )
        if self.classes is not None and not self.classes:
            raise InputError("--classes names no class; name all of them, or leave it out")
        if self.experiment < 0:
            raise InputError(f"--experiment {self.experiment} is negative; experiments count from 0")
        Grid(self.grid)


def import_set(
    source: Path | str,
    *,
    data: Any = None,
    labels: Path | str | None = None,
    test: Any = None,
    resize: Resize = "refuse",
    progress: Progress | None = None,
    **answers: Any,
) -> DistilledSet:
    """A set that others released, as a distilled set like any other.

    Its values are kept as they are given. The manifest says that the images are foreign, what the file was, and, line
    by line, what was read, told and assumed (`manifest.recipe`).

    Args:
        source: a .pt or .npz file, a folder of class folders, a .parquet or .arrow file, a folder of parquet files or
            one that `datasets` saved, "hf:NAME" or "hf:NAME:SPLIT".
        data: what it was distilled from, Splits or anything `load_images` takes: names and order of the classes,
            statistics, whitening; only the training part is looked at.
        labels: a file of labels, .pt or .npy, where `source` has none.
        test: as of `load_images`, for `data`.
        resize: as of `load_images`, for `data` and for pictures with an `image_size`.
        progress: shows the decoding of pictures.
        answers: fields of `Answers`.

    Raises:
        InputError: a file that cannot be read without trusting it, answers that it contradicts, or a question that
            only its makers can answer; one line.
    """
    options = Answers(**answers)
    progress = progress or Silent()
    foreign = _read(source, None if labels is None else local_path(labels), options, resize, progress)
    splits = None if data is None else _real(foreign, data, options.classes, test, resize, progress)
    real = None if splits is None else splits.train
    read, assumed = list(foreign.notes), list[str]()
    foreign, classes = _classes(foreign, options, real, assumed)
    codec, preprocess = _codecs(foreign, options, real, assumed)
    items = _items(foreign, options, codec, preprocess, assumed)
    rate = _rate(foreign, options)
    title = options.name or (splits.name if splits else UNKNOWN)
    settings = {name: answer for name, answer in vars(options).items() if answer != getattr(Answers, name)}
    recipe = {"name": FOREIGN, "source": _called(source), "format": foreign.format, "read": read}
    built = DistilledSet.build(
        items,
        preprocess,
        classes=classes,
        recipe=recipe | {"told": settings, "assumed": assumed},
        data=DataProvenance(name=without_folders(title), fingerprint=UNKNOWN, num_items=0, split=UNKNOWN),
        initial=InitialProvenance(kind=UNKNOWN, real_pixels_inside=True),
        device=UNKNOWN,
        learned=None if rate is None else {RATE: rate},
    )
    return built.replace(privacy=PRIVACY)


def _called(source: Path | str) -> str:
    """What the manifest calls it: never an absolute path."""
    if str(source).startswith(HUB):
        return str(source)
    path = local_path(source)
    return path.name if path.name not in ("", "..") else path.resolve().name


def _rate(foreign: ForeignSet, answers: Answers) -> float | None:
    if answers.rate is not None:
        return check_rate(float(answers.rate), "--rate")
    return None if foreign.rate is None else check_rate(foreign.rate, "the rate that lies with the images")


def _real(
    foreign: ForeignSet, data: Any, classes: Sequence[str] | None, test: Any, resize: Resize, progress: Progress
) -> Splits:
    """The real images in the size and colours of the foreign ones. Raises InputError where they are in others."""
    channels, height, width = foreign.images.shape[1:]
    if isinstance(data, Splits):
        splits = (
            Splits(data.train.with_classes(classes), data.test.with_classes(classes), data.name) if classes else data
        )
    else:
        colours: Channels = "grey" if channels == 1 else "rgb"
        splits = load_images(
            data,
            image_size=(height, width),
            resize=resize,
            channels=colours,
            classes=classes,
            test=test,
            progress=progress,
        )
    if splits.train.image_shape != (channels, height, width):
        raise InputError(
            f"the images are {(channels, height, width)} (channels, height, width) and the data's "
            f"{splits.train.image_shape}; load the data in the images' size and channels"
        )
    return splits


def _read(source: Path | str, labels: Path | None, answers: Answers, resize: Resize, progress: Progress) -> ForeignSet:
    path = local_path(source)
    hub = str(source).startswith(HUB)
    suffix = "" if hub else path.suffix.lower()
    tensors = suffix in (".pt", ".pth")
    if answers.experiment and not tensors:
        raise InputError(f"--experiment {answers.experiment} has no effect: {path.name} holds one set; leave it out")
    if (tensors or suffix == ".npz") and (answers.image_size is not None or answers.channels != "keep"):
        raise InputError(f"--image-size and --channels have no effect: {path.name} holds numbers, no pictures")
    if tensors:
        return read_tensors(path, labels, answers.experiment)
    size = sides(answers.image_size)
    rules = Rules(size, "refuse" if size is None else resize, answers.channels)
    if hub:
        foreign = read_hub(str(source), rules, progress)
    elif not path.exists():
        raise InputError(f"{path} does not exist; give {KINDS}")
    elif suffix == ".npz":
        foreign = read_arrays(path)
    elif path.is_dir() or suffix in (".parquet", ".arrow"):
        foreign = read_pictures(path, rules, progress)
    else:
        raise InputError(f"{path} is no set of others; give {KINDS}")
    if labels is None:
        return foreign
    hard, soft = labels_of(load_labels(labels), f"the labels of {labels.name}")
    return replace(foreign, labels=hard, soft=soft, classes=None)


def _classes(
    foreign: ForeignSet, answers: Answers, real: ImageSet | None, assumed: list[str]
) -> tuple[ForeignSet, tuple[str, ...]]:
    """The classes' names in the labels' order; labels follow where the file has names of its own."""
    names = tuple(answers.classes) if answers.classes else real.classes if real is not None else foreign.classes
    if foreign.labels is None and foreign.soft is None:
        foreign = _class_after_class(foreign, names, assumed)
    if foreign.labels is None and foreign.soft is not None:
        assumed.append("an item's class is that of its largest soft label")
        foreign = replace(foreign, labels=foreign.soft.argmax(1))
    if foreign.labels is None or not len(foreign.labels) == len(foreign.images):
        raise InputError(
            f"{len(foreign.images)} images and {len(foreign.labels if foreign.labels is not None else ())} labels were "
            "found; give one label for each image, e.g. --labels labels_best.pt"
        )
    needed = int(foreign.labels.max()) + 1 if foreign.soft is None else foreign.soft.shape[1]
    if foreign.classes is not None and needed > len(foreign.classes):
        if not answers.classes:
            raise InputError(
                f"labels are of {needed} classes and the file names {len(foreign.classes)}; give --classes for all"
            )
        foreign = replace(foreign, classes=None)
    if names is None:
        names = tuple(str(index) for index in range(max(2, needed)))
        assumed.append(f"classes have no names and are called {names[0]} to {names[-1]}; --data or --classes name them")
    if foreign.classes is not None and foreign.classes != names:
        foreign = _renamed(foreign, foreign.classes, names, assumed)
    elif foreign.classes is None and (answers.classes or real is not None):
        assumed.append(f"labels count the classes in this order: {', '.join(names[:12])}{', ...' * (len(names) > 12)}")
    if needed > len(names) or (foreign.soft is not None and foreign.soft.shape[1] != len(names)):
        raise InputError(f"labels are of {needed} classes and {len(names)} are named; give --classes for all of them")
    check_classes(names)
    return foreign, names


def _class_after_class(foreign: ForeignSet, names: tuple[str, ...] | None, assumed: list[str]) -> ForeignSet:
    count = len(foreign.images)
    if names is None or count % len(names):
        raise InputError(
            f"{count} images have no labels; give --labels FILE, or --classes (or --data) whose number divides {count}"
        )
    per_class = count // len(names)
    assumed.append(f"labels are missing: {per_class} images of each class, class after class")
    return replace(foreign, labels=torch.arange(len(names)).repeat_interleave(per_class), classes=None)


def _renamed(foreign: ForeignSet, stored: tuple[str, ...], names: tuple[str, ...], assumed: list[str]) -> ForeignSet:
    """Labels by `names` instead of the file's own names: by name where these are the same, else by number or order."""
    if sorted(stored) == sorted(names):
        places = [names.index(name) for name in stored]
    else:
        places = _places(stored, names)
        first = places.index(min(places))
        assumed.append(
            f"the file's classes, in order, are the named ones: {stored[first]!r} is {names[places[first]]!r}, "
            "and so on"
        )
    labels = None if foreign.labels is None else torch.tensor(places)[foreign.labels]
    soft = foreign.soft
    if soft is not None and len(stored) == len(names):
        soft = soft[:, torch.tensor(places).argsort()]
    return replace(foreign, labels=labels, soft=soft, classes=names)


def _places(stored: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """The place among `names` of each of the file's classes: its number where it counts them from 0, else its rank.

    Raises:
        InputError: more or fewer classes than are named, and no numbers of named ones.
    """
    numbered = [re.fullmatch(r"(\D*)([0-9]{1,18})", name) for name in stored]
    alike = len({match[1] if match else None for match in numbered}) == 1 and numbered[0] is not None
    numbers = [int(match[2]) for match in numbered if match] if alike else list(range(len(stored)))
    if len(set(numbers)) == len(stored) and max(numbers) < len(names) and (alike or len(stored) == len(names)):
        return numbers
    if len(stored) != len(names) or len(set(numbers)) < len(stored):
        raise InputError(
            f"the file has {len(stored)} classes, e.g. {stored[0]!r}, and {len(names)} are named; name the same ones"
        )
    order = sorted(range(len(stored)), key=numbers.__getitem__)
    return [order.index(place) for place in range(len(stored))]


def _codecs(foreign: ForeignSet, answers: Answers, real: ImageSet | None, assumed: list[str]) -> tuple[Pixels, Pixels]:
    """Of the stored values, and from images to network inputs."""
    shape = (foreign.images.shape[1], foreign.images.shape[2], foreign.images.shape[3])
    look = None if foreign.images.dtype == torch.uint8 else look_at(foreign.images)
    values = _values(foreign, answers, look, assumed)
    if answers.zca:
        preprocess = whitening(real)
    elif answers.normalization is not None:
        preprocess = normalisation(answers.normalization, shape, real)
    elif foreign.preprocess is not None:
        preprocess = foreign.preprocess
    elif values == "plain" and real is not None:
        assumed.append("network inputs are normalised with the statistics of the data")
        preprocess = normalisation("data", shape, real)
    else:
        raise InputError(f"the file does not say how network inputs are normalised; give --normalization {CHOICES}")
    if preprocess.image_shape != shape:
        raise InputError(f"the file's preprocessing is of images {preprocess.image_shape}, and its images are {shape}")
    return (normalisation("none", shape, None) if values == "plain" else preprocess), preprocess


def _values(foreign: ForeignSet, answers: Answers, look: Look | None, assumed: list[str]) -> Values:
    if look is None or (answers.values is None and foreign.preprocess is not None):
        if answers.values == "inputs":
            raise InputError("--values inputs is no answer for pictures of 8 bits or with known preprocessing")
        return "plain"
    if answers.values is not None:
        return answers.values
    if foreign.plain:
        assumed.append(f"pictures, taken back from whitened inputs, as MTT's code names them: {look}")
        return "plain"
    if look.low >= 0 and look.high > MOST_OF_A_PICTURE:
        raise InputError(
            f"{look}, as 8-bit values do; save them as uint8, or divide them by 255 (--values inputs: they are inputs)"
        )
    if look.kind == "pictures":
        assumed.append(f"pictures as they are, because {look}")
        return "plain"
    if not answers.zca and answers.normalization is None:
        mend = "--zca --data DATA" if look.kind == "whitened" else f"--normalization {CHOICES}"
        raise InputError(f"{look}, as {look.kind} images have, and the file does not say with what; give {mend}")
    expected = "whitened" if answers.zca else "normalised"
    doubt = "" if look.kind == expected else f", although they look {look.kind}"
    assumed.append(f"values are {expected} network inputs{doubt}: {look}")
    return "inputs"


def _items(foreign: ForeignSet, answers: Answers, codec: Pixels, preprocess: Pixels, assumed: list[str]) -> Codes:
    values = foreign.images.float() / 255 if foreign.images.dtype == torch.uint8 else foreign.images
    storage = answers.storage or ("float16" if foreign.images.dtype == torch.uint8 else "float32")
    logits = None if foreign.soft is None else _logits(foreign.soft, answers.label_kind, assumed)
    if answers.label_kind is not None and logits is None:
        raise InputError(f"--label-kind {answers.label_kind} has no effect: the labels are hard; leave it out")
    labels = foreign.labels
    assert labels is not None
    if answers.grid == 1:
        return Codes(codec, values, labels, storage, logits, "float32")
    if any(side % answers.grid for side in codec.image_shape[1:]):
        raise InputError(
            f"--grid {answers.grid} does not divide images of {codec.image_shape[1]} x {codec.image_shape[2]}; "
            "such sets are padded before they are cut: cut them first"
        )
    labels = labels.repeat_interleave(answers.grid**2)
    logits = None if logits is None else logits.repeat_interleave(answers.grid**2, 0)
    return Mosaic(codec, values, labels, storage, logits, "float32", preprocess=preprocess, grid=answers.grid)


def _logits(soft: Tensor, kind: LabelKind | None, assumed: list[str]) -> Tensor:
    """Whose softmax is what the file means."""
    sums_to_one = bool((soft >= 0).all()) and bool(((soft.sum(1) - 1).abs() < ROW_SUM_ERROR).all())
    if kind is None:
        low, high = float(soft.min()), float(soft.max())
        if not sums_to_one and TARGETS[0] <= low and high <= TARGETS[1]:
            raise InputError(
                f"soft labels run from {low:.3g} to {high:.3g}, as targets of a regression do (FRePo, KIP), which no "
                "softmax gives; give hard labels by --labels FILE, or --label-kind logits if they are logits"
            )
        kind = "probabilities" if sums_to_one else "logits"
        assumed.append(f"soft labels are {kind}, because their rows {'' if sums_to_one else 'do not '}sum to 1")
    if kind == "probabilities" and not sums_to_one:
        raise InputError("--label-kind probabilities contradicts the file, whose rows do not sum to 1; give logits")
    return soft.clamp_min(SMALLEST_PROBABILITY).log() if kind == "probabilities" else soft
