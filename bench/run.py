"""The fast paths against literal loops, in one process: `python bench/run.py [--json OUT] [--only dm ...]`.

Each pair is run alternately several times; medians and the ratio of medians are printed and written as JSON. Pixel
values are random (time does not depend on them); shapes are CIFAR-10's: 10 classes, 3 x 32 x 32, 256 real images each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attar.base.process import keep_freed_blocks, prepare_process

prepare_process()

import torch
from bench.reporting import on_device, run_benches
from tests.reference.mean_features import literal_loss

from attar.base.randomness import generator
from attar.data.augmentation import Dsa
from attar.data.image_set import ImageSet
from attar.methods.initialization import initial_indices
from attar.methods.labels import class_major_labels
from attar.methods.objectives.features import Features, FeaturesConfig
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.methods.recipes import recipe
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.codecs.encoding import encode_images
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems

Run = Callable[[], Any]


def median_seconds(runs: dict[str, Run], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each run; all are warmed up once, then run in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            _wait(device)
            begin = time.perf_counter()
            run()
            _wait(device)
            if number:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def as_usual(run: Run) -> None:
    """`run` with the memory settings that glibc arrives at by itself, then attar's again (see attar.base.process)."""
    keep_freed_blocks(32 << 20)
    run()
    prepare_process()


def cifar_shaped(num_per_class: int = 300) -> ImageSet:
    """Random images of CIFAR-10's shape."""
    images = torch.randint(0, 256, (10 * num_per_class, 3, 32, 32), generator=generator(0, "images"), dtype=torch.uint8)
    return ImageSet(images, class_major_labels(10, num_per_class), tuple(f"class {index}" for index in range(10)))


def literal_dm_step(train: ImageSet, codec: Any, synthetic: torch.Tensor, config: FeaturesConfig, device: Any) -> Run:
    """DM's step as its paper and official code have it: a fresh network, then class by class, float32."""
    labels = class_major_labels(10, len(synthetic) // 10)
    everything = codec.encode(train.images.to(device).float() / 255)
    dsa = Dsa(config.augmentation) if config.augmentation else None
    synthetic = synthetic.clone().to(device).requires_grad_()
    draws = generator(0, "literal")

    def step() -> None:
        network = build_network(config.network, tuple(everything.shape[1:]), 10, draws).to(device)
        drawn = [
            everything[members[torch.randperm(len(members), generator=draws)[: config.real_batch_size]].to(device)]
            for members in train.class_indices
        ]

        parameters: dict[int, Any] = {}

        def augment(items: torch.Tensor, number: int) -> torch.Tensor:
            assert dsa is not None
            if number not in parameters:
                parameters[number] = dsa.draw(1, tuple(items.shape[1:]), draws, siamese=True)
            return dsa.apply(items, parameters[number])

        items = [synthetic[labels.to(device) == index] for index in range(10)]
        literal_loss(network.features, drawn, items, augment if dsa else None).backward()
        synthetic.grad = None

    return step


def fast_step(train: ImageSet, codec: Any, codes: torch.Tensor, config: FeaturesConfig, device: Any, steps: int) -> Run:
    """One step of attar's objective, composed as `distill` composes it."""
    pixels = isinstance(codec, Pixels)
    real = (
        RealItems(train.labels, 10, images=train, codec=codec.to(device), device=device)
        if pixels
        else RealItems(train.labels, 10, codes=encode_images(codec, train, cache=False), device=device)
    )
    preprocess = codec if pixels else fit_codec(PixelsConfig(), train)
    augmentation = siamese_augmentation(config.augmentation, codec.to(device), preprocess.to(device))
    objective = Features(config, Context(real.shape, 10, device, steps, augmentation))
    synthetic = Codes(codec, codes, class_major_labels(10, len(codes) // 10)).to(device)
    counter = iter(range(10**9))

    def step() -> None:
        objective.accumulate(synthetic, real, generator(0, "step", next(counter)))
        synthetic.codes.grad = None

    return step


def bench_dm(device: torch.device, repeats: int) -> dict[str, Any]:
    """DM's literal step, attar's DM step and attar's LatentDM step, at the bytes of 1 and 10 images per class."""
    train = cifar_shaped()
    dm, latent = recipe("dm"), recipe("latent-dm")
    pixels, pca = fit_codec(dm.codec, train), fit_codec(latent.codec, train)
    results = {}
    for ipc in (1, 10):
        images = torch.randn(10 * ipc, 3, 32, 32)
        codes = torch.randn(120 * ipc, *pca.code_shape)
        literal = literal_dm_step(train, pixels, images, dm.objective, device)
        runs = {
            "literal DM, memory as usual": lambda literal=literal: as_usual(literal),
            "literal DM": literal,
            "DM": fast_step(train, pixels, images, dm.objective, device, dm.steps),
            "LatentDM": fast_step(train, pca, codes, latent.objective, device, latent.steps),
        }
        seconds = median_seconds(runs, repeats, device)
        results[f"{ipc} ipc"] = {
            "seconds": seconds,
            "DM against literal": seconds["literal DM"] / seconds["DM"],
            "DM against literal, memory as usual": seconds["literal DM, memory as usual"] / seconds["DM"],
            "LatentDM against DM": seconds["DM"] / seconds["LatentDM"],
        }
    return results


def bench_latent(device: torch.device, repeats: int) -> dict[str, Any]:
    """LatentDM's step of Algorithm 2 (no augmentation) against its literal loop over classes, in the same space."""
    train = cifar_shaped()
    latent = recipe("latent-dm")
    pca = fit_codec(latent.codec, train)
    config = latent.objective.model_copy(update={"augmentation": None})
    codes = torch.randn(120, *pca.code_shape)
    runs = {
        "literal": literal_dm_step(train, pca, codes, config, device),
        "fast": fast_step(train, pca, codes, config, device, latent.steps),
    }
    seconds = median_seconds(runs, 3 * repeats, device)
    return {"seconds": seconds, "ratio": seconds["literal"] / seconds["fast"]}


def bench_encoding(device: torch.device, repeats: int) -> dict[str, Any]:
    """Encoding 3,000 images in batches against one by one."""
    train = cifar_shaped()
    pca = fit_codec(PcaConfig(), train)
    runs = {
        "one by one": lambda: [pca.encode(image[None].float() / 255) for image in train.images],
        "batched": lambda: encode_images(pca, train, device=device, cache=False),
    }
    seconds = median_seconds(runs, repeats, device)
    return {"seconds": seconds, "batched against one by one": seconds["one by one"] / seconds["batched"]}


def bench_evaluation(device: torch.device, repeats: int) -> dict[str, Any]:
    """Three networks trained on 120 images for 20 steps: stacked, and one after another."""
    from attar.models.training.items import FixedItems
    from attar.models.training.loop import train_networks
    from attar.models.training.settings import TrainingConfig

    inputs = torch.randn(120, 3, 32, 32)
    items = FixedItems(inputs, class_major_labels(10, 12))
    training = TrainingConfig(epochs=20, batch_size=256, precision="float32")
    runs = {
        mode: (
            lambda mode=mode: train_networks(
                NetworkConfig(depth=3), items, 10, training, (0, 1, 2), device=device, mode=mode
            )
        )
        for mode in ("looped", "stacked")
    }
    seconds = median_seconds(runs, max(1, repeats // 2), device)
    return {"seconds": seconds, "stacked against looped": seconds["looped"] / seconds["stacked"]}


def bench_precision(device: torch.device, repeats: int) -> dict[str, Any]:
    """How far apart DM's images are after 10 steps with the fast and the float32 real pass, against their way."""
    train = cifar_shaped()
    dm = recipe("dm")
    pixels = fit_codec(dm.codec, train)
    start = pixels.encode(train.images[::300].float() / 255)
    preprocess, ends = pixels, {}
    real = RealItems(train.labels, 10, images=train, codec=pixels.to(device), device=device)
    for precision in ("auto", "float32"):
        config = dm.objective.model_copy(update={"precision": precision})
        augmentation = siamese_augmentation(config.augmentation, pixels, preprocess)
        steps = dm.steps if precision == "auto" else 1
        objective = Features(config, Context(real.shape, 10, device, steps, augmentation))
        synthetic = Codes(pixels, start, class_major_labels(10, 1)).to(device)
        optimizer = torch.optim.SGD([synthetic.codes], lr=1.0, momentum=0.5)
        for step in range(10):
            optimizer.zero_grad()
            objective.accumulate(synthetic, real, generator(0, "step", step))
            optimizer.step()
        ends[precision] = synthetic.codes.detach().cpu()
    way = (ends["float32"] - start).norm()
    return {"relative difference": float((ends["auto"] - ends["float32"]).norm() / way)}


def bench_selection(device: torch.device, repeats: int) -> dict[str, Any]:
    """Herding 12 of 300 images in each of ten classes."""
    train = cifar_shaped()
    flat = train.images.float()
    run = {"herding": lambda: initial_indices("herding", lambda i: flat[i], train.class_indices, 12, generator(0, "x"))}
    return {"seconds": median_seconds(run, repeats, device)}


def bench_start(device: torch.device, repeats: int) -> dict[str, Any]:
    """A whole process each: `attar --help`, and Python alone."""
    commands = {"attar --help": ["-m", "attar", "--help"], "python": ["-c", "pass"]}
    runs = {
        name: (lambda words=words: subprocess.run([sys.executable, *words], check=True, capture_output=True))
        for name, words in commands.items()
    }
    return {"seconds": median_seconds(runs, repeats, device)}


BENCHES: dict[str, Callable[[torch.device, int], dict[str, Any]]] = {
    "dm": bench_dm,
    "latent-dm": bench_latent,
    "encoding": bench_encoding,
    "evaluation": bench_evaluation,
    "precision": bench_precision,
    "selection": bench_selection,
    "start": bench_start,
}


def main() -> None:
    """Run the benches that are asked for."""
    run_benches({name: on_device(bench) for name, bench in BENCHES.items()}, __doc__, repeats=5)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
