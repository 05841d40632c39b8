"""DD-Ranking's evaluation of an exported set beside attar's: `python bench/dd_ranking.py --data CIFAR10 [--json OUT]`.

--data is CIFAR-10 as `load_images` takes it. Random training images, normalised as the published codes do, go through
`attar import` and `attar export --to dd-ranking`; both then train the same number of ConvNets on them under the same
settings (SGD 0.01, momentum 0.9, weight decay 5e-4, the rate divided by ten half way, DSA in mode S, batch 256) and
test these on the same real images after the last epoch.

DD-Ranking runs as it is (`LabelRobustScoreHard`, with the exported config.yaml), but for four things: its CIFAR-10 are
the images of --data, because it would download them; the rate is given, so that none is chosen on test images; it
tests after the last epoch only, where it would take the best of every tenth; and its seeds are 0, 1, ..., where they
would come from the clock. Random images and all real images, with which its score compares, are left out.

Needs: pip install ddranking (0.2.0), in an environment of its own: it brings torchvision and numpy below 2.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from attar.base.process import prepare_process

prepare_process()

import torch

import attar
from attar.base.randomness import generator
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.protocol import Protocol, protocol
from attar.sets.imports.preprocessing import normalisation

RATE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--num-test", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    splits = attar.load_images(told.data)
    splits = Splits(splits.train, splits.test.select(drawn(splits.test, told.num_test // 10, "test")), splits.name)
    with tempfile.TemporaryDirectory() as folder:
        exported = exported_set(splits, told.ipc, Path(folder))
        distilled = attar.load(exported / "set.attar.safetensors")
        start = time.perf_counter()
        card = attar.evaluate(
            distilled, splits, alike(told.epochs), seeds=told.seeds, baselines=False, device=told.device, cache=False
        )
        ours = list(card.row("distilled").accuracies)
        middle = time.perf_counter()
        theirs = scores_of_ddranking(exported / "ddr", splits, told)
    result = {
        "settings": {key: value for key, value in vars(told).items() if key not in ("data", "json")},
        "attar": summary(ours, middle - start),
        "ddranking": summary(theirs, time.perf_counter() - middle),
        "difference": difference(ours, theirs),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if told.json:
        told.json.write_text(json.dumps(result, indent=2) + "\n")


def drawn(images: ImageSet, count: int, purpose: str) -> torch.Tensor:
    """`count` random images of each class, class after class."""
    draw = generator(0, "ddranking", purpose)
    return torch.cat(
        [members[torch.randperm(len(members), generator=draw)[:count]] for members in images.class_indices]
    )


def exported_set(splits: Splits, ipc: int, folder: Path) -> Path:
    """Random images, written as DC's code writes its results, imported, and exported for DD-Ranking."""
    chosen = drawn(splits.train, ipc, "set")
    codec = normalisation("cifar10", splits.train.image_shape, None)
    images = codec.encode(splits.train.images[chosen].float() / 255)
    torch.save({"data": [[images, splits.train.labels[chosen]]]}, folder / "res.pt")
    made = attar.import_set(folder / "res.pt", data=splits, normalization="cifar10", rate=RATE)
    made.save(folder / "set.attar.safetensors")
    attar.export(made, "dd-ranking", folder / "ddr", dataset="CIFAR10")
    difference = torch.load(folder / "ddr" / "images.pt", weights_only=True) - images
    assert float(difference.abs().max()) < 1e-5, "import and export changed the images"
    return folder


def alike(epochs: int) -> Protocol:
    """DC-BENCH's training as DD-Ranking's scheduler has it: the optimiser goes on at the milestone."""
    known = protocol("dc-bench")
    changes = {
        "epochs": epochs,
        "milestones": (0.5,),
        "reset_momentum": False,
        "learning_rate": RATE,
        "precision": "float32",
    }
    return known.model_copy(
        update={"name": "as-dd-ranking", "training": known.training.model_copy(update=changes), "comparable": False}
    )


class _Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR10 gives, of images at hand."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        if index >= len(self):
            raise IndexError(index)
        picture = Image.fromarray(self._images.images[index].permute(1, 2, 0).numpy())
        return self._transform(picture), int(self._images.labels[index])


def scores_of_ddranking(folder: Path, splits: Splits, told: argparse.Namespace) -> list[float]:
    """Accuracy in percent of each of its networks after the last epoch."""
    import ddranking.utils.data
    from ddranking.config import Config
    from ddranking.metrics import LabelRobustScoreHard
    from ddranking.utils import set_seed

    parts = {True: splits.train.select(drawn(splits.train, told.ipc, "train")), False: splits.test}
    ddranking.utils.data.datasets.CIFAR10 = lambda path, train, download, transform: _Pictures(parts[train], transform)
    config = Config.from_file(str(folder / "config.yaml"))
    here = {"device": told.device, "num_workers": 0, "save_path": str(folder / "scores.csv"), "num_eval": told.seeds}
    config.update({**here, "num_epochs": told.epochs, "step_size": told.epochs // 2})
    images = torch.load(folder / "images.pt", weights_only=True)
    labels = torch.load(folder / "labels.pt", weights_only=True)
    rate = float(torch.load(folder / "lr.pt", weights_only=True))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluator = LabelRobustScoreHard(config=config)
        evaluator.test_interval = told.epochs
        scores = []
        for seed in range(told.seeds):
            set_seed(seed)
            score, _ = evaluator._compute_hard_label_metrics_helper(images, None, labels, rate, "syn", False)
            scores.append(float(score))
    return scores


def summary(scores: list[float], seconds: float) -> dict[str, Any]:
    """Mean and standard deviation in percent."""
    return {
        "n": len(scores),
        "mean": round(statistics.mean(scores), 2),
        "std": round(statistics.stdev(scores), 2) if len(scores) > 1 else None,
        "scores": [round(score, 2) for score in scores],
        "seconds": round(seconds, 1),
    }


def difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Of the means, with the standard error of unpaired samples."""
    if len(ours) < 2:
        return {"mean": round(ours[0] - theirs[0], 2)}
    error = (statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)) ** 0.5
    return {"mean": round(statistics.mean(ours) - statistics.mean(theirs), 2), "standard_error": round(error, 2)}


if __name__ == "__main__":
    main()
