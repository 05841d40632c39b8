"""One short run of each recipe family on the digits: digests of the decoded items, to hold two commits against.

    python bench/families.py OUT.npz               run every family with the attar that is imported, keep the tensors
    python bench/families.py --compare A.npz B.npz  say where two such files differ, exit status 1 where they do

`--only dm,lic` runs some of the families. Diffusion and generator families need `--prior FILE` and `--generator FILE`,
as `attar train-prior` and examples/train_generator.py write them; without, they are left out and named.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from typing import Any

import numpy as np
import torch

NETWORK: dict[str, Any] = {"objective.network.width": 4, "objective.network.depth": 1}
EXPERTS: dict[str, Any] = {
    **NETWORK,
    "objective.student_steps": 3,
    "objective.student_batch_size": 16,
    "objective.expert_epochs": 1,
    "objective.max_start_epoch": 1,
    "objective.experts.count": 2,
    "objective.experts.epochs": 2,
}
OBSERVER: dict[str, Any] = {
    "observer.network.width": 16,
    "observer.network.depth": 1,
    "observer.training.epochs": 3,
    "observer.training.min_steps": None,
    "observer.training.learning_rate": 0.1,
    "labels.epochs": 4,
}
FEW = {"count": 2, "epochs": 2}
D3: dict[str, Any] = {
    "parameterization.decoder.width": 8,
    "parameterization.decoder.latent_dim": 4,
    **{f"objective.parts.{part}.network.width": 4 for part in (0, 1)},
    **{f"objective.parts.{part}.experts": FEW for part in (0, 1)},
    "objective.parts.0.max_start_epoch": 1,
    "objective.parts.0.student_steps": 3,
    "objective.parts.0.samples": 3,
    "objective.parts.1.real_batch_size": 4,
    "objective.parts.1.samples": 2,
}
GRADIENTS: dict[str, Any] = {
    **NETWORK,
    "objective.real_batch_size": 4,
    "objective.outer_steps": 4,
    "objective.inner_steps": 2,
    "objective.train_batch_size": 16,
}

# Family: recipe, budget, settings; the number of steps is 6 wherever there are any.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "latent-dm": ("latent-dm", "1ipc", NETWORK),
    "latent-dc": ("latent-dc", "2lpc", GRADIENTS),
    "latent-mtt": ("latent-mtt", "2lpc", EXPERTS),
    "dm": ("dm", "1ipc", NETWORK),
    "dc": ("dc", "1ipc", GRADIENTS),
    "dsa": ("dsa", "1ipc", GRADIENTS),
    "idc": ("idc", "1ipc", {"objective.network.width": 4, "objective.network.depth": 1}),
    "mtt": ("mtt-cifar10-ipc1", "1ipc", EXPERTS),
    "tesla": ("tesla-cifar10-ipc1", "1ipc", EXPERTS),
    "ftd": ("ftd-cifar10-ipc1", "1ipc", EXPERTS),
    "datm": ("datm-cifar10-ipc1", "1ipc", EXPERTS),
    "d3": ("d3", "2lpc", D3),
    "d3-fixed": ("d3-fixed", "2lpc", {**D3, "objective.parts.0.samples": 1, "objective.parts.1.samples": 1}),
    "d3-alternating": ("d3-alternating", "2lpc", D3),
    "fred": ("fred-dc", "1ipc", {**GRADIENTS, "parameterization.num_frequencies": 16}),
    "ncfm": ("ncfm", "1ipc", {**NETWORK, "objective.experts": FEW, "objective.num_frequencies": 32}),
    "lic": ("lic", "1ipc", OBSERVER),
    "rded": ("rded-cifar10-convnet", "1ipc", OBSERVER),
    "rded-mosaic": ("rded-imagenet100-convnet", "1ipc", OBSERVER),
    "sre2l": ("sre2l-cifar10-convnet", "1ipc", OBSERVER),
    "random-regions": ("random-regions", "1ipc", OBSERVER),
    "random": ("random", "1ipc", {}),
    "herding-codes": ("herding-codes", "1ipc", {}),
    "k-centre": ("k-centre", "1ipc", {}),
    **{f"ld3m-{name}": (f"ld3m-{name}", "1ipc", settings) for name, settings in (("dm", NETWORK), ("mtt", EXPERTS))},
    **{f"glad-{name}": (f"glad-{name}", "1ipc", settings) for name, settings in (("dm", NETWORK), ("dc", GRADIENTS))},
}
CLASSES = list(range(10))
WITHOUT_STEPS = {"rded", "rded-mosaic", "random-regions", "random", "herding-codes", "k-centre"}


def run(family: str, prior: str | None, generator: str | None) -> dict[str, np.ndarray] | None:
    """The decoded items, labels and everything else that the file of one family holds of labels."""
    import attar

    recipe, budget, settings = FAMILIES[family]
    settings = {"image_size": None, **settings}
    if family not in WITHOUT_STEPS:
        settings["steps"] = 6
    if family.startswith("ld3m"):
        if prior is None:
            return None
        settings |= {"codec.path": prior, "codec.classes": CLASSES, "parameterization.sampling.num_steps": 3}
    if family.startswith("glad"):
        if generator is None:
            return None
        settings |= {"codec.path": generator, "codec.classes": CLASSES, "parameterization.depth": 1}
    made = attar.distill("digits", recipe, budget, settings=settings, seed=3)
    arrays = {"images": made.images().numpy(), "labels": made.labels.numpy()}
    if made.soft_labels is not None:
        arrays["soft labels"] = made.soft_labels.numpy()
    for index, tensors in enumerate(made.region_tensors()):
        arrays |= {f"regions {index} {name}": tensor.float().numpy() for name, tensor in tensors.items()}
    return arrays | {f"learned {name}": np.array(value) for name, value in made.learned.items()}


def compare(first: str, second: str) -> int:
    """Print what differs between two files; how many tensors do."""
    one, two = np.load(first), np.load(second)
    differing = 0
    for name in sorted({*one.files, *two.files}):
        if name not in one.files or name not in two.files:
            print(f"{name}: only in {first if name in one.files else second}")
        elif one[name].shape != two[name].shape:
            print(f"{name}: {one[name].shape} and {two[name].shape}")
        elif not np.array_equal(one[name], two[name]):
            gap = np.abs(one[name].astype("f8") - two[name].astype("f8")).max()
            print(f"{name}: differ by up to {gap:.3g}")
        else:
            continue
        differing += 1
    print(f"{len(one.files)} tensors, {differing} differ")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="+")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--prior")
    parser.add_argument("--generator")
    parser.add_argument("--only", help="families, comma-separated")
    options = parser.parse_args()
    if options.compare:
        return int(compare(*options.out) > 0)
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    for family in options.only.split(",") if options.only else FAMILIES:
        items = run(family, options.prior, options.generator)
        if items is None:
            print(f"{family}: left out, its model is not given")
            continue
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for value in items.values()))
        print(f"{family}: {digest.hexdigest()[:16]}", flush=True)
        arrays |= {f"{family}/{name}": value for name, value in items.items()}
    np.savez_compressed(options.out[0], **arrays)
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        import os

        os.environ.setdefault("ATTAR_CACHE", cache)
        raise SystemExit(main())
