"""Foreign sets: what others released comes in as it is, says what was assumed of it, and executes nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import attar
from attar.base.errors import InputError
from attar.cli import main
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.protocol import protocol
from attar.models.codecs.pixels import Pixels, PixelsConfig, PixelsSpec
from attar.sets.distilled import DistilledSet
from attar.sets.exports.export import export
from attar.sets.imports.importing import import_set
from attar.sets.imports.preprocessing import PUBLISHED, look_at, whitening
from attar.sets.imports.tensors import load_tensors
from attar.sets.manifest import UNKNOWN
from small_sets import CLASSES, build, digit_images, first_items

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


@pytest.fixture
def digits() -> ImageSet:
    return digit_images()


@pytest.fixture
def splits(digits: ImageSet) -> Splits:
    return Splits(digits.select(torch.arange(0, 1400)), digits.select(torch.arange(1400, 1797)), "digits")


def noise(count: int = 2, num_classes: int = 10, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised colour images, class after class, as distillation leaves them."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count * num_classes, 3, side, side, generator=draw) * 1.2, torch.arange(
        num_classes
    ).repeat_interleave(count)


def reloaded(distilled: DistilledSet, folder: Path) -> DistilledSet:
    distilled.save(folder / "file.attar.safetensors", overwrite=True)
    return attar.load(folder / "file.attar.safetensors")


def inputs_of(distilled: DistilledSet) -> torch.Tensor:
    items = distilled.training_items("cpu")
    return items.epoch(0, torch.Generator())[0]


def test_experiments_of_dc_come_in_as_they_are(tmp_path: Path) -> None:
    images, labels = noise()
    pairs = [[images + index, labels] for index in range(3)]
    accuracies = {"ConvNet": [np.float64(0.28), np.float64(0.27)], "all": np.array([0.1, 0.2])}
    torch.save({"data": pairs, "accs_all_exps": accuracies}, tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt")
    made = import_set(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", normalization="cifar10", experiment=1)
    back = reloaded(made, tmp_path)
    assert torch.equal(back.codes, images + 1) and torch.equal(back.labels, labels)
    assert torch.allclose(inputs_of(back), images + 1, atol=1e-5)
    assert torch.allclose(back.images(), (images + 1) * STD[:, None, None] + MEAN[:, None, None], atol=1e-6)
    recipe = back.manifest.recipe
    assert recipe["name"] == "foreign" and recipe["source"] == "res_DM_CIFAR10_ConvNet_2ipc.pt"
    assert recipe["read"] == ["experiment 1 of 3, counted from 0"]
    assert recipe["told"] == {"normalization": "cifar10", "experiment": 1}
    assert any("values are normalised network inputs" in line for line in recipe["assumed"])
    assert any("classes have no names" in line for line in recipe["assumed"])
    assert back.manifest.data.fingerprint == UNKNOWN and "foreign" in back.manifest.privacy
    assert attar.cite(tmp_path / "file.attar.safetensors") == ""


def test_images_of_mtt_find_labels_and_rate_beside_them(tmp_path: Path) -> None:
    images, labels = noise()
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    made = import_set(tmp_path / "images_best.pt", normalization="cifar10")
    assert torch.equal(made.codes, images) and torch.equal(made.labels, labels) and made.learned == {}
    assert import_set(tmp_path / "images_best.pt", normalization="cifar10", rate=0.02).learned == {"student_rate": 0.02}
    torch.save(torch.tensor(0.0125), tmp_path / "lr_best.pt")
    made = import_set(tmp_path / "images_best.pt", normalization="cifar10")
    assert made.learned["student_rate"] == pytest.approx(0.0125)
    assert made.manifest.recipe["read"] == [
        "labels are those of labels_best.pt, beside it",
        "the learned rate is that of lr_best.pt, beside it",
    ]


def test_a_rate_that_cannot_be_one_gives_way_to_the_one_that_is_told(tmp_path: Path) -> None:
    """MTT's learned rate can become negative; several rates are none that networks are trained at."""
    images, labels = noise()
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    for rate in (torch.tensor(-0.1), torch.tensor([0.1, 0.2]), torch.tensor(float("nan"))):
        torch.save(rate, tmp_path / "lr_best.pt")
        with pytest.raises(InputError, match="no learning rate; give a positive number"):
            import_set(tmp_path / "images_best.pt", normalization="cifar10")
        made = import_set(tmp_path / "images_best.pt", normalization="cifar10", rate=0.02)
        assert made.learned == {"student_rate": 0.02}
    with pytest.raises(InputError, match="--rate is -1, which is no"):
        import_set(tmp_path / "images_best.pt", normalization="cifar10", rate=-1)
    torch.save(torch.tensor(0.25), tmp_path / "lr_best.pt")
    torch.save(labels.flip(0), tmp_path / "mine.pt")
    made = import_set(tmp_path / "images_best.pt", labels=tmp_path / "mine.pt", normalization="cifar10")
    assert made.learned == {"student_rate": 0.25} and torch.equal(made.labels, labels.flip(0))


def test_targets_of_a_regression_are_not_taken_for_logits(tmp_path: Path) -> None:
    """FRePo's labels are about one-hot vectors less 1 / K: their softmax would be nearly uniform."""
    images, labels = noise()
    targets = torch.eye(10)[labels] - 0.1 + 0.02 * torch.randn(20, 10, generator=torch.Generator().manual_seed(4))
    np.savez(tmp_path / "frepo.npz", image=images.permute(0, 2, 3, 1).numpy(), label=targets.numpy())
    with pytest.raises(InputError, match="as targets of a regression do"):
        import_set(tmp_path / "frepo.npz", normalization="cifar10")
    made = import_set(tmp_path / "frepo.npz", normalization="cifar10", label_kind="logits")
    assert made.soft_labels is not None and torch.allclose(made.soft_labels, targets.softmax(1), atol=1e-6)
    np.save(tmp_path / "hard.npy", labels.numpy())
    made = import_set(tmp_path / "frepo.npz", labels=tmp_path / "hard.npy", normalization="cifar10")
    assert made.soft_labels is None and torch.equal(made.labels, labels)


def test_probabilities_in_low_precision_are_seen(tmp_path: Path) -> None:
    """Rows of many small numbers sum to 1 but for what rounding took from them."""
    images, _ = noise()
    exact = (3 * torch.randn(20, 1000, generator=torch.Generator().manual_seed(6))).softmax(1)
    rounded = (exact * 2**16).floor() / 2**16
    assert 1e-3 < float((rounded.sum(1) - 1).abs().max()) < 1e-2
    torch.save([images, rounded], tmp_path / "low.pt")
    made = import_set(tmp_path / "low.pt", normalization="cifar10")
    assert made.soft_labels is not None and torch.allclose(made.soft_labels, exact, atol=1e-2)
    assert any("probabilities" in line for line in made.manifest.recipe["assumed"])


def test_values_of_255_levels_are_asked_about(tmp_path: Path) -> None:
    images, labels = noise()
    torch.save([(images.sigmoid() * 255).round(), labels], tmp_path / "levels.pt")
    with pytest.raises(InputError, match="as 8-bit values do; save them as uint8, or divide them by 255"):
        import_set(tmp_path / "levels.pt", normalization="cifar10")
    made = import_set(tmp_path / "levels.pt", normalization="cifar10", values="inputs")
    assert float(made.codes.max()) > 200


def test_pictures_can_be_made_one_size_and_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, mode, side in (("a", "L", 8), ("b", "RGB", 12)):
        (tmp_path / "syn" / name).mkdir(parents=True)
        Image.new(mode, (side, side), "white").save(tmp_path / "syn" / name / "0.png")
    command = ["import", str(tmp_path / "syn"), "--out", str(tmp_path / "o.attar.safetensors"), "-q"]
    command += ["--normalization", "imagenet"]
    assert main(command) == 2 and "add --channels rgb" in capsys.readouterr().err
    assert main([*command, "--channels", "rgb"]) == 2 and "--image-size 8" in capsys.readouterr().err
    assert main([*command, "--channels", "rgb", "--image-size", "8", "--resize", "squash"]) == 0
    made = attar.load(tmp_path / "o.attar.safetensors")
    assert made.image_shape == (3, 8, 8) and bool((made.images() > 0.99).all())
    assert made.manifest.recipe["told"]["channels"] == "rgb"
    assert main([*command, "--resize", "crop", "--overwrite"]) == 2
    assert "--resize crop has no effect" in capsys.readouterr().err
    torch.save(noise()[0], tmp_path / "images.pt")
    with pytest.raises(InputError, match="--image-size and --channels have no effect"):
        import_set(tmp_path / "images.pt", normalization="cifar10", image_size=4)


def test_soft_labels_of_datm_are_logits_and_probabilities_are_seen(tmp_path: Path) -> None:
    images, labels = noise()
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(2)) + 4 * torch.eye(10)[labels]
    torch.save(images, tmp_path / "images_best.pt")
    torch.save((logits * 1.0).requires_grad_(True), tmp_path / "labels_best.pt")
    made = import_set(tmp_path / "images_best.pt", normalization="cifar10")
    assert made.soft_labels is not None and torch.allclose(made.soft_labels, logits.softmax(1), atol=1e-6)
    assert torch.equal(made.labels, logits.argmax(1))
    hard = torch.eye(10)[labels] * 0.9 + 0.01
    torch.save(hard, tmp_path / "others.pt")
    made = import_set(tmp_path / "images_best.pt", labels=tmp_path / "others.pt", normalization="cifar10")
    assert made.soft_labels is not None and torch.allclose(made.soft_labels, hard / hard.sum(1, True), atol=1e-6)
    assert any("probabilities" in line for line in made.manifest.recipe["assumed"])
    with pytest.raises(InputError, match="contradicts the file"):
        import_set(tmp_path / "images_best.pt", normalization="cifar10", label_kind="probabilities")


def test_tiles_of_idc_are_cut_and_enlarged_as_its_code_does(tmp_path: Path) -> None:
    canvases = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.save([canvases, torch.arange(10)], tmp_path / "data_best.pt")
    made = import_set(tmp_path / "data_best.pt", grid=2, normalization="cifar10")
    tiles = [canvases[:, :, y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)]
    enlarged = torch.stack(
        [torch.nn.functional.interpolate(tile, size=8, mode="bilinear", align_corners=False) for tile in tiles], 1
    )
    assert torch.allclose(made.images(), enlarged.flatten(0, 1), atol=1e-6)
    assert made.labels.tolist() == torch.arange(10).repeat_interleave(4).tolist()
    with pytest.raises(InputError, match="--grid 3 does not divide"):
        import_set(tmp_path / "data_best.pt", grid=3, normalization="cifar10")


def test_dictionaries_and_channels_last_are_understood(tmp_path: Path) -> None:
    images, labels = noise()
    torch.save({"images": images.permute(0, 2, 3, 1).contiguous(), "labels": labels, "lr": 0.1}, tmp_path / "set.pt")
    made = import_set(tmp_path / "set.pt", normalization="cifar10")
    assert torch.equal(made.codes, images) and made.learned == {"student_rate": 0.1}
    torch.save(images, tmp_path / "alone.pt")
    torch.save([images, labels.tolist()], tmp_path / "listed.pt")
    assert torch.equal(import_set(tmp_path / "listed.pt", normalization="cifar10").labels, labels)
    with pytest.raises(InputError, match="--classes names no class"):
        import_set(tmp_path / "listed.pt", normalization="cifar10", classes=[])
    with pytest.raises(InputError, match="20 images have no labels"):
        import_set(tmp_path / "alone.pt", normalization="cifar10")
    made = import_set(tmp_path / "alone.pt", normalization="cifar10", classes=CLASSES)
    assert torch.equal(made.labels, labels) and made.classes == CLASSES
    assert any("class after class" in line for line in made.manifest.recipe["assumed"])


def test_the_published_whitening_is_of_images_as_they_are(splits: Splits, tmp_path: Path) -> None:
    """W = U (S + 0.1)^-1/2 U^T of the images in [0, 1], literally and in float64."""
    flat = splits.train.images.flatten(1).double() / 255
    centred = flat - flat.mean(0)
    u, s, _ = torch.linalg.svd(centred.T @ centred / (len(flat) - 1))
    matrix = (u / (s + 0.1).sqrt()) @ u.T
    codec = whitening(splits.train)
    ours = codec.encode(splits.train.images[:50].float() / 255)
    assert torch.allclose(ours.flatten(1).double(), centred[:50] @ matrix, atol=1e-5)
    own = PixelsConfig(whitening="zca").fit(splits.train).encode(splits.train.images[:50].float() / 255)
    assert float((own - ours).abs().max()) > 0.1
    torch.save([ours, splits.train.labels[:50]], tmp_path / "white.pt")
    made = reloaded(import_set(tmp_path / "white.pt", data=splits, zca=True, values="inputs"), tmp_path)
    assert torch.equal(made.codes, ours) and torch.allclose(inputs_of(made), ours, atol=1e-4)
    assert torch.allclose(made.images(), splits.train.images[:50].float() / 255, atol=1e-4)
    plain = splits.train.images[:50].float() / 255
    torch.save([plain, splits.train.labels[:50]], tmp_path / "others.pt")
    made = import_set(tmp_path / "others.pt", data=splits, zca=True, values="plain")
    assert torch.equal(made.codes, plain) and torch.allclose(inputs_of(made), ours, atol=1e-4)


def test_what_mtt_took_back_from_whitened_inputs_is_whitened_again(splits: Splits, tmp_path: Path) -> None:
    """Its images_zca_N.pt are pictures, though they leave [0, 1] as no picture does; images_N.pt are the inputs."""
    codec, draw = whitening(splits.train), torch.Generator().manual_seed(5)
    inputs = codec.encode(splits.train.images[:50].float() / 255) + 0.5 * torch.randn(50, 1, 8, 8, generator=draw)
    torch.save(inputs, tmp_path / "images_300.pt")
    torch.save(codec.decode(inputs), tmp_path / "images_zca_300.pt")
    torch.save(splits.train.labels[:50], tmp_path / "labels_300.pt")
    assert float(codec.decode(inputs).min()) < -0.25
    made = [import_set(tmp_path / f"images_{name}.pt", data=splits, zca=True) for name in ("300", "zca_300")]
    for each in made:
        assert torch.allclose(inputs_of(each), inputs, atol=2e-3) and torch.equal(each.labels, splits.train.labels[:50])
    assert any("as MTT's code names them" in line for line in made[1].manifest.recipe["assumed"])


def test_what_values_look_like() -> None:
    """Smooth pictures, normalised and whitened: the published whitening leaves a small spread."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(400, 3, 3, 3, generator=draw)
    pictures = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear", align_corners=True)
    real = ImageSet((pictures * 255).round().to(torch.uint8), torch.arange(400) % 2, ("a", "b"))
    pictures = real.images.float() / 255
    assert look_at(pictures).kind == "pictures"
    assert look_at((pictures - MEAN[:, None, None]) / STD[:, None, None]).kind == "normalised"
    white = whitening(real).encode(pictures)
    assert look_at(white).kind == "whitened", str(look_at(white))


def test_what_cannot_be_known_is_asked(splits: Splits, tmp_path: Path) -> None:
    images, labels = noise()
    torch.save([images, labels], tmp_path / "normalised.pt")
    torch.save([images * 0.3, labels], tmp_path / "whitened.pt")
    torch.save([images.sigmoid(), labels], tmp_path / "pictures.pt")
    with pytest.raises(InputError, match=r"as normalised images have.*give --normalization mnist"):
        import_set(tmp_path / "normalised.pt")
    with pytest.raises(InputError, match=r"as whitened images have.*give --zca --data"):
        import_set(tmp_path / "whitened.pt")
    with pytest.raises(InputError, match="how network inputs are normalised; give --normalization"):
        import_set(tmp_path / "pictures.pt")
    with pytest.raises(InputError, match="--zca needs the training images"):
        import_set(tmp_path / "whitened.pt", zca=True)
    with pytest.raises(InputError, match="both given"):
        import_set(tmp_path / "whitened.pt", zca=True, normalization="cifar10")
    with pytest.raises(InputError, match=r"has images of \(3, 8, 8\)|the images are \(3, 8, 8\)"):
        import_set(tmp_path / "normalised.pt", data=splits, normalization="data")
    with pytest.raises(InputError, match="1 means"):
        import_set(tmp_path / "normalised.pt", normalization="mnist")
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        import_set(tmp_path / "normalised.pt", normalization="cifar-10")
    with pytest.raises(InputError, match="is not understood"):
        import_set(tmp_path / "normalised.pt", normalization="0.5/x")
    with pytest.raises(InputError, match="--experiment 1 has no effect"):
        import_set(tmp_path / "normalised.pt", normalization="cifar10", experiment=1)
    made = import_set(tmp_path / "normalised.pt", normalization="0.5,0.5,0.5/0.25,0.25,0.25")
    assert torch.allclose(made.images(), images * 0.25 + 0.5, atol=1e-6)


def test_a_folder_of_pictures_keeps_every_byte_value(splits: Splits, digits: ImageSet, tmp_path: Path) -> None:
    chosen = first_items(digits, 2)
    for number, index in enumerate(chosen.tolist()):
        folder = tmp_path / "syn" / f"{int(digits.labels[index]):05}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index, 0].numpy()).save(folder / f"{number}.png")
    made = reloaded(import_set(tmp_path / "syn", data=splits), tmp_path)
    assert made.classes == CLASSES and torch.equal(made.labels, digits.labels[chosen])
    assert torch.equal(made.images().mul(255).round().to(torch.uint8), digits.images[chosen])
    assert made.manifest.shards[0].parameterization["storage"] == "float16"
    assumed = made.manifest.recipe["assumed"]
    assert any("'00000' is zero" in line or "'00000' is 'zero'" in line for line in assumed)
    assert any("statistics of the data" in line for line in assumed)


def test_classes_of_the_same_names_are_matched_by_name(splits: Splits, digits: ImageSet, tmp_path: Path) -> None:
    chosen = first_items(digits, 1)
    for index in chosen.tolist():
        folder = tmp_path / "syn" / CLASSES[int(digits.labels[index])]
        folder.mkdir(parents=True)
        Image.fromarray(digits.images[index, 0].numpy()).save(folder / "0.png")
    made = import_set(tmp_path / "syn", data=splits)
    assert made.classes == CLASSES
    for image, label in zip(made.images(), made.labels.tolist(), strict=True):
        assert torch.allclose(image, digits.images[chosen[label]].float() / 255, atol=1e-3)


@pytest.mark.parametrize("codec_text", ["pca:f4c4", "zca"])
def test_an_export_to_arrays_comes_back(digits: ImageSet, tmp_path: Path, codec_text: str) -> None:
    built = build(digits, codec_text, "float32", soft="float32")
    export(built, "npz", tmp_path / "out.npz")
    made = reloaded(import_set(tmp_path / "out.npz"), tmp_path)
    assert torch.equal(made.images(), built.images()) and torch.equal(made.labels, built.labels)
    assert made.classes == built.classes and made.preprocess.identity() == built.preprocess.identity()
    assert made.soft_labels is not None and built.soft_labels is not None
    assert torch.allclose(made.soft_labels, built.soft_labels, atol=1e-6)


@pytest.mark.parametrize("target", ["npz", "imagefolder", "parquet"])
def test_a_learned_rate_comes_back_with_an_export(digits: ImageSet, tmp_path: Path, target: Any) -> None:
    built = build(digits, "pixels", learned={"student_rate": 0.0625})
    out = tmp_path / ("out.npz" if target == "npz" else "out")
    export(built, target, out)
    assert import_set(out, normalization="mnist").learned == {"student_rate": 0.0625}
    assert import_set(out, normalization="mnist", rate=0.5).learned == {"student_rate": 0.5}


def test_an_export_to_a_folder_comes_back_with_its_classes(digits: ImageSet, splits: Splits, tmp_path: Path) -> None:
    built = build(digits)
    export(built, "imagefolder", tmp_path / "out")
    made = import_set(tmp_path / "out", data=splits)
    assert made.classes == CLASSES and torch.equal(made.labels, built.labels)
    assert float((made.images() - built.images(clamp=True)).abs().max()) < 0.5 / 255 + 1e-3


def test_a_foreign_set_is_evaluated_and_compared_like_any_other(splits: Splits, tmp_path: Path) -> None:
    chosen = first_items(splits.train, 2)
    codec = PixelsConfig().fit(splits.train)
    images = codec.encode(splits.train.images[chosen].float() / 255)
    torch.save({"data": [[images, splits.train.labels[chosen]]]}, tmp_path / "res.pt")
    foreign = import_set(tmp_path / "res.pt", data=splits, normalization="data", values="inputs")
    ours = build(splits.train, "pixels", "float32", count=2)
    quick = protocol("quick")
    training = quick.training.model_copy(update={"epochs": 30, "min_steps": None, "max_steps": None})
    short = quick.model_copy(update={"training": training, "description": "30 steps"})
    settings: dict[str, Any] = {
        "protocol": short,
        "networks": "convnet:w8-d1",
        "seeds": 1,
        "baselines": False,
        "cache": False,
    }
    cards = [attar.evaluate(each, splits, **settings) for each in (foreign, ours)]
    scores = [card.row("distilled").mean for card in cards]
    assert scores[0] == pytest.approx(scores[1], abs=0.5) and scores[0] > 15
    assert any("foreign" in note for note in cards[0].notes)
    table = attar.compare([foreign, ours], splits, names=["theirs", "ours"], **settings).as_markdown()
    assert "theirs" in table and "ours" in table


def test_the_verb_says_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = noise()
    torch.save([images[:, :1], labels], tmp_path / "their.pt")
    out = tmp_path / "their.attar.safetensors"
    command = ["import", str(tmp_path / "their.pt"), "--data", "digits", "--normalization", "mnist", "--out", str(out)]
    assert main([*command, "-q"]) == 0
    said = capsys.readouterr().out
    assert "assumed: values are normalised network inputs" in said and "assumed: labels count the classes" in said
    assert "20 items of 10 classes" in said
    assert main(["info", str(out)]) == 0
    assert "values are normalised network inputs" in capsys.readouterr().out
    assert main([*command, "-q"]) == 2 and "exists and is left as it is" in capsys.readouterr().err


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def _archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def test_hostile_files_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = noise()
    torch.save({"data": [[images, labels]], "more": _Evil()}, "evil.pt")
    torch.save(images, "cut.pt")
    Path("cut.pt").write_bytes(Path("cut.pt").read_bytes()[:5000])
    torch.save([torch.zeros(1).expand(2**20, 3, 64, 64), labels], "expanded.pt")
    torch.save([images / 0, labels], "infinite.pt")
    torch.save({"latent": images, "decoder": {"w": labels}}, "d3.pt")
    torch.save(torch.randn(10, 64, 2), "priors.pt")
    torch.save([images, labels[:7]], "few.pt")
    torch.save([images, labels - 1], "negative.pt")
    torch.save([images.to_sparse(), labels], "sparse.pt")
    Path("legacy.pt").write_bytes(pickle.dumps(_Evil(), protocol=2))
    Path("text.pt").write_text("no archive")
    _archive(Path("bomb.pt"), a__data__0=bytes(2**24))
    faults = {
        "evil.pt": "Python objects, which are never loaded",
        "cut.pt": "is no archive",
        "expanded.pt": "each of them in the file",
        "infinite.pt": "not finite",
        "d3.pt": "to be saved as images",
        "priors.pt": "render latents and priors with their own code",
        "few.pt": "one label for each image",
        "negative.pt": "count classes from 0",
        "sparse.pt": "no plain tensor",
        "legacy.pt": "is no archive",
        "text.pt": "is no archive",
        "bomb.pt": "at most its own size",
        "absent.pt": "does not exist",
        "~nobody-of-this-name/set.npz": "does not exist",
    }
    for name, words in faults.items():
        with pytest.raises(InputError, match=words) as caught:
            import_set(name, normalization="cifar10")
        assert "\n" not in str(caught.value), name
    assert not Path("executed").exists()


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    images, labels = noise(1)
    whole, numbers = io.BytesIO(), np.random.default_rng(0)
    torch.save({"data": [[images, labels]], "accs": {"ConvNet": [np.float64(0.5)]}}, whole)
    content = whole.getvalue()
    pickled = content.index(b"data.pkl") + 8
    for attempt in range(150):
        damaged = bytearray(content)
        start = pickled if attempt % 2 else 0
        for place in numbers.integers(start, start + 600 if attempt % 2 else len(damaged), 3):
            damaged[place] = numbers.integers(256)
        path = tmp_path / "damaged.pt"
        path.write_bytes(bytes(damaged))
        try:
            import_set(path, normalization="cifar10")
        except InputError as error:
            assert "\n" not in str(error)


def test_arrays_are_read_without_pickle_or_excess(tmp_path: Path) -> None:
    images, labels = noise()
    np.savez(tmp_path / "pickled.npz", images=np.array([{"a": 1}], dtype=object), labels=labels.numpy())
    with pytest.raises(InputError, match="never loaded"):
        import_set(tmp_path / "pickled.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3, 8, 8)})
    _archive(tmp_path / "announced.npz", **{"images.npy": header.getvalue()})
    with pytest.raises(InputError, match="holds fewer"):
        import_set(tmp_path / "announced.npz")
    np.savez(tmp_path / "long.npz", images=images.numpy().astype(np.longdouble), labels=labels.numpy())
    with pytest.raises(InputError, match="where numbers are needed"):
        import_set(tmp_path / "long.npz", normalization="cifar10")
    np.savez(tmp_path / "named.npz", images=images.numpy(), labels=labels.numpy(), classes=np.array(["b", "a"]))
    with pytest.raises(InputError, match="labels are of 10 classes and the file names 2"):
        import_set(tmp_path / "named.npz", normalization="cifar10")
    with pytest.raises(InputError, match="labels are of 10 classes and 2 are named"):
        import_set(tmp_path / "named.npz", normalization="cifar10", classes=["a", "b"])
    made = import_set(tmp_path / "named.npz", normalization="cifar10", classes=CLASSES)
    assert made.classes == CLASSES and torch.equal(made.labels, labels)
    names = np.array([name.encode() for name in CLASSES])
    np.savez(tmp_path / "bytes.npz", images=images.numpy(), labels=labels.numpy(), classes=names)
    assert import_set(tmp_path / "bytes.npz", normalization="cifar10").classes == CLASSES
    np.savez(tmp_path / "theirs.npz", x=images.numpy(), y=labels.numpy().astype(np.uint16), lr=np.float64(0.02))
    made = import_set(tmp_path / "theirs.npz", normalization="cifar10")
    assert torch.equal(made.codes, images) and torch.equal(made.labels, labels) and made.learned["student_rate"] == 0.02


def test_numpy_numbers_stay_outside(tmp_path: Path) -> None:
    torch.save({"accuracy": np.float64(0.5), "array": np.zeros(3), "text": "x"}, tmp_path / "numbers.pt")
    held = load_tensors(tmp_path / "numbers.pt")
    assert held["text"] == "x" and not isinstance(held["accuracy"], float) and not hasattr(held["array"], "shape")


def test_published_statistics_make_codecs(digits: ImageSet) -> None:
    for mean, std in PUBLISHED.values():
        assert len(mean) == len(std) in (1, 3) and all(0 < value < 1 for value in (*mean, *std))
    codec = Pixels(PixelsSpec(image_shape=(3, 4, 4)), {"mean": MEAN, "std": STD})
    assert json.loads(json.dumps(codec.spec()))["whitening"] == "normalise"
