"""Merging: exact, whatever the order; every shard with its own decoder; what does not fit refused; and every verb."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attar
from attar.base.errors import InputError
from attar.cli import main
from attar.data.sources import load_images
from attar.methods.labels.regions import RegionLabels
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.sets.class_columns import in_order_of
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import DataProvenance, privacy_statement
from attar.sets.merging import mean_rate, merge
from attar.sets.relabelling import with_regions
from reference.merging import lifted_probabilities, pooled_rate, union_moments
from small_parts import images_of, part, priors_part
from small_protocols import tiny
from small_regions import SmallObserver, mosaic, observer
from small_regions import settings as region_settings
from small_sets import CLASSES, digit_images

A, B, C = CLASSES[:3], CLASSES[3:7], CLASSES[7:]


def three(**changes: Any) -> list[DistilledSet]:
    return [part(A, 2, **changes), part(B, 3, **changes), part(C, 1, **changes)]


def test_in_whatever_order_sets_are_given_the_file_is_the_same(tmp_path: Path) -> None:
    """Sets of several kinds and sizes, from files and from memory."""
    sets = [part(A, 2, soft="float16"), priors_part(B, 3), part(C, 1, "dct:f4c4", storage="float32")]
    for number, each in enumerate(sets):
        each.save(tmp_path / f"{number}.attar.safetensors")
    files = [tmp_path / f"{number}.attar.safetensors" for number in range(3)]
    found = {merge(given).to_bytes() for given in [*itertools.permutations(sets), *itertools.permutations(files)]}
    assert len(found) == 1
    merge(sets, order=CLASSES).save(tmp_path / "all.attar.safetensors")
    again = DistilledSet.load(tmp_path / "all.attar.safetensors")
    assert again.to_bytes() == merge(sets[::-1], order=CLASSES).to_bytes()
    assert again.num_per_class == (2, 2, 2, 3, 3, 3, 3, 1, 1, 1)


def test_every_item_keeps_its_image_and_its_class() -> None:
    sets = [part(A, 2), priors_part(B, 3), part(C, 1, "dct:f4c4")]
    whole = merge(sets)
    assert whole.classes == tuple(sorted(CLASSES))
    for each in sets:
        for name in each.classes:
            own = each.images((each.labels == each.classes.index(name)).nonzero()[:, 0], epoch=None)
            there = whole.images((whole.labels == whole.classes.index(name)).nonzero()[:, 0], epoch=None)
            assert torch.equal(own, there)
    kinds = {(shard.parameterization["kind"], shard.codec.spec["kind"]) for shard in whole.manifest.shards}
    assert kinds == {("codes", "pca"), ("priors", "pixels"), ("codes", "dct")}


def test_normalisations_are_pooled_as_if_all_images_were_in_one_place() -> None:
    sets = three()
    whole = merge(sets)
    mean, std = union_moments([images_of(names).images.numpy() for names in (A, B, C)])
    assert len({each.manifest.preprocess.identity for each in sets}) == 3
    pooled = whole.preprocess
    assert isinstance(pooled, Pixels)
    assert np.allclose(pooled.mean.numpy(), mean, rtol=1e-6) and np.allclose(pooled.std.numpy(), std, rtol=1e-6)
    shared = merge(three(normalised_as=digit_images()))
    assert shared.manifest.preprocess == fit_spec()


def fit_spec() -> Any:
    from attar.sets.stored_codec import describe_codec

    return describe_codec(fit_codec(PixelsConfig(), digit_images()))


def test_codes_in_pixels_keep_the_normalisation_that_they_were_made_in() -> None:
    """The codec of a shard is not the preprocess any more once this is pooled."""
    sets = three(codec_text="pixels")
    whole = merge(sets)
    assert len({shard.codec.identity for shard in whole.manifest.shards} | {whole.preprocess.identity()}) == 4
    assert torch.equal(whole.images(whole.labels.argsort(stable=True)[:1]), whole.images([int(whole.labels.argmin())]))
    assert torch.equal(merge(sets, order=CLASSES).images(range(6)), sets[0].images())


def test_images_behind_two_sets_count_once() -> None:
    """Two sets of the same images are no more real images than one; nor does their normalisation weigh twice."""
    one, other = part(A, 1, normalised_as=images_of(A)), part(A, 2, normalised_as=images_of(A))
    rest = part(B)
    whole, plain = merge([one, other, rest]), merge([one, rest])
    assert whole.manifest.data == plain.manifest.data
    assert whole.manifest.preprocess == plain.manifest.preprocess
    assert whole.manifest.data.num_items == len(images_of(A)) + len(images_of(B))
    assert merge([one, other]).manifest.data == one.manifest.data


@pytest.mark.parametrize("soft", ["float16", "float32"])
def test_soft_labels_say_nothing_of_other_parts_classes(soft: Any) -> None:
    sets = three(soft=soft)
    whole = merge(sets)
    assert whole.soft_labels is not None
    first = 0
    for each in sorted(sets, key=lambda each: min(map(whole.classes.index, each.classes))):
        logits = each.payloads()[0]["soft_labels"].numpy()
        expected = lifted_probabilities(logits, list(each.classes), list(whole.classes))
        found = whole.soft_labels[first : first + len(each)].numpy()
        assert np.allclose(found, expected, atol=1e-6)
        assert (found[expected == 0] == 0).all(), "exactly"
        first += len(each)
    stored = [payload["soft_labels"] for payload in whole.payloads()]
    assert all(bool(tensor.isfinite().all()) for tensor in stored)
    width = 2 if soft == "float16" else 4
    assert whole.storage.soft_label_bytes == width * len(whole) * 10


def test_soft_labels_too_low_to_keep_others_out_are_refused() -> None:
    broken = part(A, 1, soft="float16")
    payload = broken.payloads()[0]
    payload["soft_labels"] = torch.full_like(payload["soft_labels"], -65500.0)
    low = broken.with_shards(broken.manifest.shards, replace(broken.contents, payloads=[payload]))
    with pytest.raises(InputError, match=r"set 1: soft labels whose largest logit"):
        merge([low, part(B)])


def test_sets_with_hard_labels_stay_certain_beside_soft_ones() -> None:
    whole = merge([part(A, 2, soft="float16"), part(B, 2), part(C, 2)], order=CLASSES)
    assert whole.soft_labels is not None
    assert torch.equal(whole.soft_labels[6:], torch.nn.functional.one_hot(whole.labels[6:], 10).float())


def test_one_student_rate_for_all_items() -> None:
    sets = [part(A, 2, learned={"student_rate": 0.02}), part(B, 3, learned={"student_rate": 0.5}), part(C, 1)]
    assert merge(sets).learned["student_rate"] == pytest.approx(pooled_rate([6, 12], [0.02, 0.5]), rel=1e-12)
    assert mean_rate([1, 2], [1e-3, 1e-3]) == pytest.approx(1e-3, rel=1e-15)
    assert merge([part(A), part(B)]).learned == {}
    with pytest.raises(InputError, match="student_rate"):
        merge([part(A, learned={"student_rate": -0.02}), sets[1]])
    with pytest.raises(InputError, match="temperature"):
        merge([part(A, learned={"temperature": 1.0}), part(B, learned={"temperature": 2.0})])


def test_provenance_is_that_of_all_parts() -> None:
    recipe = {"name": "herding", "steps": 0, "citations": ["herding"], "evaluation_network": {"kind": "convnet"}}
    sets = [part(A, seed=3), part(B, seed=5, recipe=recipe, initial=("herding", [0] * 8)), priors_part(C)]
    about = merge(sets).manifest
    assert about.data.num_items == len(digit_images()) and about.data.name == "digits" and about.data.split == "train"
    assert about.seed == 0 and about.scores == () and about.network is None
    assert about.citations == ("dm", "herding", "latentdd")
    assert about.initialization.kind == "herding + noise + random" and about.initialization.real_pixels_inside
    assert about.initialization.indices == ()
    assert about.privacy == privacy_statement(True, 0), "the strongest caution: items are real images"
    assert about.recipe["name"] == "herding + latent-dm"
    told = {tuple(each["classes"]): each["recipe"]["name"] for each in about.recipe["parts"]}
    assert told == {A: "latent-dm", B: "herding", C: "latent-dm"}
    assert merge(three()).manifest.recipe == part(A).manifest.recipe
    strange = part(C).replace(privacy="Nobody may see this.")
    assert merge([sets[0], strange]).manifest.privacy.endswith(" Nobody may see this.")
    scored = part(A).replace(scores=[{"accuracy": 1}])
    assert merge([scored, part(B)]).manifest.scores == ()


def refused(message: str, sets: list[Any], **arguments: Any) -> str:
    with pytest.raises(InputError, match=message) as caught:
        merge(sets, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_together_is_refused_with_its_names() -> None:
    told = refused(
        "share 'three', 'two', and 'four', 'one', 'zero' are in one only", [part(CLASSES[:4]), part(CLASSES[2:5])]
    )
    assert "--classes" in told
    refused("share 'one', 'zero', and 'two' is in one only", [part(CLASSES[:2]), part(CLASSES[:3])])
    refused("two sets or more", [part(A)])
    refused("two sets or more", part(A))  # type: ignore[arg-type]
    refused("no set has 'ten'.*it lacks 'two'", [part(A), part(B)], order=["zero", "one", "ten", *B])
    refused("no set has 'eight', 'nine', 'seven'; give the sets that are missing", [part(A), part(B)], order=CLASSES)
    refused("it lacks 'zero'", [part(A), part(B)], order=[*A[1:], *B])
    refused("names each class once", [part(A), part(B)], order=[*A, *B, "zero"])
    refused("makes network inputs by 'zca'", [part(A, codec_text="zca"), part(B, codec_text="zca")])
    nobody = part(A).replace(data=DataProvenance(name="x", fingerprint="y", num_items=0))
    refused("does not say how many images", [nobody, part(B)])


def test_sets_of_other_images_are_refused() -> None:
    images = digit_images().with_classes(B)
    larger = attar.data.image_set.ImageSet(images.images.repeat_interleave(2, 3), images.labels, images.classes)
    codec = fit_codec(PixelsConfig(), larger)
    from attar.methods.parameterizations.codes import Codes

    codes = Codes(codec, codec.encode(larger.images[:4].float() / 255), larger.labels[:4], "int8")
    other = DistilledSet.build(codes, codec, classes=B, recipe={}, data=("x", larger), initial=("random", [0, 1, 2, 3]))
    refused(r"image_shape is \(1, 8, 8\) in set 1 and \(1, 8, 16\) in set 2", [part(A), other])


def test_a_zca_matrix_that_all_share_stays() -> None:
    zca = fit_codec(PixelsConfig(whitening="zca"), digit_images())
    sets = []
    for names in (A, B):
        from attar.methods.parameterizations.codes import Codes

        images = images_of(names)
        codes = Codes(zca, zca.encode(images.images[:5].float() / 255), images.labels[:5], "float16")
        data: Any = ("digits", images)
        sets.append(DistilledSet.build(codes, zca, classes=names, recipe={}, data=data, initial=("noise", [])))
    whole = merge(sets)
    assert whole.preprocess.identity() == zca.identity()
    assert len([name for name in whole.manifest.tensor_table() if "triangle" in name]) == 1


@pytest.mark.parametrize("storage", ["float16", "int8", "top-k", "codebook"])
def test_region_labels_of_the_same_classes_are_merged(storage: Any) -> None:
    """Columns follow the order of the classes; regions and logits stay those of their canvases."""
    config = region_settings(storage=storage, **({"code_bytes": 4} if storage == "codebook" else {}))
    one, other = (with_regions(mosaic(count=count), observer(), config, seed=count) for count in (1, 2))
    whole = merge([one, other])
    assert whole.to_bytes() == merge([other, one]).to_bytes()
    assert whole.manifest.labels_kind == "regions" and whole.num_training_items == 30
    columns = [whole.classes.index(name) for name in CLASSES]
    draw = torch.Generator()
    parts = sorted([one, other], key=lambda each: each.manifest.content_sha256)
    for epoch in (0, 2, 4):
        inputs, logits = whole.training_items().epoch(epoch, draw)
        expected = [each.training_items().epoch(epoch, draw) for each in parts]
        torch.testing.assert_close(logits[:, columns], torch.cat([each[1] for each in expected]), rtol=0, atol=1e-5)
        everything = torch.arange(30)
        own = torch.cat([each[0][torch.arange(each[0].shape[0])] for each in expected])
        assert torch.allclose(inputs[everything], own)
    assert merge([one, other], order=CLASSES).region_tensors()[0].keys() == one.region_tensors()[0].keys()


def test_region_labels_that_cannot_be_merged_are_refused() -> None:
    def labelled(count: int = 1, by: SmallObserver | None = None, **changes: Any) -> DistilledSet:
        return with_regions(mosaic(count=count), by or observer(), region_settings(**changes))

    class Knows(SmallObserver):
        def logits(self, images: torch.Tensor) -> torch.Tensor:
            return super().logits(images)[:, :3]

    stranger = observer()
    stranger.identity = "cd" * 32
    few = with_regions(part(A), Knows(observer()._network), RegionLabels(epochs=2))
    assert "label the merged set by one observer" in refused("has region labels and set 2 has not", [few, part(B)])
    refused("of different classes", [few, with_regions(part(C), Knows(observer()._network), RegionLabels(epochs=2))])
    refused("differ in settings", [labelled(), labelled(2, scale=(0.5, 1.0))])
    refused("settings or observer", [labelled(), labelled(2, stranger)])
    refused("order of the classes", [labelled(storage="online"), labelled(2, storage="online")])
    asked = merge([labelled(storage="online"), labelled(2, storage="online")], order=CLASSES)
    assert asked.storage.external_bytes == 4000, "one observer for both"


def test_merging_a_merged_set_keeps_every_item() -> None:
    sets = three(soft="float16")
    again = merge([merge(sets[:2]), sets[2]])
    at_once = merge(sets)
    assert again.num_per_class == at_once.num_per_class and len(again.manifest.shards) == 3
    assert again.soft_labels is not None and at_once.soft_labels is not None
    assert torch.equal(again.labels.sort().values, at_once.labels.sort().values)


def test_the_order_of_classes_changes_names_and_columns_alone() -> None:
    made = part(CLASSES, 2, soft="float16")
    turned = in_order_of(made, CLASSES[::-1])
    assert turned.classes == CLASSES[::-1] and torch.equal(turned.images(), made.images())
    assert torch.equal(turned.labels, 9 - made.labels)
    assert turned.soft_labels is not None and made.soft_labels is not None
    assert torch.allclose(turned.soft_labels.flip(1), made.soft_labels)
    assert in_order_of(turned, CLASSES).to_bytes() == made.to_bytes()
    assert in_order_of(made, A) is made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_in_any_order_is_the_same_file(data: st.DataObject) -> None:
    """Random parts of two classes or more, of unequal numbers of items, some with soft labels."""
    names = data.draw(st.permutations(CLASSES))
    cuts = data.draw(st.sampled_from([(2,), (5,), (3, 6), (2, 4, 6), (2, 4, 6, 8)]))
    groups = [names[start:end] for start, end in itertools.pairwise((0, *cuts, 10))]
    sets = [
        part(group, data.draw(st.integers(1, 3)), soft=data.draw(st.sampled_from([None, "float16", "float32"])))
        for group in groups
    ]
    order = data.draw(st.one_of(st.none(), st.permutations(CLASSES)))
    whole = merge(sets, order=order)
    assert whole.to_bytes() == merge(data.draw(st.permutations(sets)), order=order).to_bytes()
    assert whole.classes == tuple(order or sorted(CLASSES))
    assert len(whole.to_bytes()) == whole.file_bytes
    for each in sets:
        assert {whole.num_per_class[whole.classes.index(name)] for name in each.classes} == set(each.num_per_class)
    mean, std = union_moments([digit_images().images.numpy()])
    pooled = whole.preprocess
    assert isinstance(pooled, Pixels)
    assert np.allclose(pooled.mean.numpy(), mean, rtol=1e-6) and np.allclose(pooled.std.numpy(), std, rtol=1e-6)
    if whole.soft_labels is not None:
        assert torch.allclose(whole.soft_labels.sum(1), torch.ones(len(whole)))
        for index, label in enumerate(whole.labels.tolist()):
            own = next(each.classes for each in sets if whole.classes[label] in each.classes)
            others = [place for place, name in enumerate(whole.classes) if name not in own]
            assert not whole.soft_labels[index, others].any()


def test_every_verb_takes_a_merged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes are sorted by name in it, and in the folder's order in the set that it is compared with."""
    digits = load_images("digits").train
    names = [digits.classes[place] for place in (7, 8, 9, 0, 1, 2, 3, 4, 5, 6)]
    files = []
    for number, classes in enumerate((names[:4], names[4:])):
        files.append(str(tmp_path / f"{number}.attar.safetensors"))
        main(["distill", "digits", "--recipe", "random", "--budget", "3lpc", "--classes", ",".join(classes), "-q",
              "--out", files[-1]])  # fmt: skip
    full, out, turned = (str(tmp_path / f"{name}.attar.safetensors") for name in ("full", "all", "turned"))
    main(["distill", "digits", "--recipe", "random", "--budget", "3lpc", "--out", full, "-q"])
    assert main(["merge", *files, "-o", out]) == 0
    assert main(["merge", *files, "--out", out]) == 2, "nothing is overwritten"
    assert main(["merge", *files[::-1], "--out", turned, "--order", ",".join(names)]) == 0
    assert attar.load(out).classes == tuple(sorted(names)) and attar.load(turned).classes == tuple(names)
    short = tmp_path / "short.json"
    short.write_text(tiny(epochs=60, width=16).model_dump_json())
    options = ["--data", "digits", "--protocol", str(short), "--seeds", "1", "-q"]
    assert main(["evaluate", turned, *options, "--baselines", "random", "--json", str(tmp_path / "card.json")]) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["classes"] == names and card["rows"][0]["mean"] > 40
    assert main(["compare", full, out, *options]) == 0
    assert main(["info", out]) == main(["info", out, "--json"]) == 0
    assert main(["show", out, "--out", str(tmp_path / "x.png"), "--data", "digits"]) == 0
    assert main(["export", turned, "--to", "imagefolder", "--out", str(tmp_path / "images")]) == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir() if path.is_dir()) != []
    assert main(["cite", out]) == 0
    capsys.readouterr()
    assert main(["merge", files[0], full, "--out", str(tmp_path / "no.attar.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "full.attar.safetensors" in told and told.count("\n") == 1
    assert not (tmp_path / "no.attar.safetensors").exists()
