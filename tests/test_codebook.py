"""Labels in a few bytes: what the codebooks keep of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from attar.base.randomness import generator
from attar.methods.labels import codebook as codebooks
from attar.methods.labels.codebook import Codebook, best_entries, centred, fit_codebook
from attar.methods.labels.region_logits import read_region_logits, region_table, store_logits
from attar.methods.labels.regions import RegionLabels
from attar.models.training.items import FixedItems
from small_regions import halves, logits_of, trained


def nats(logits: Tensor, other: Tensor) -> Tensor:
    """KL of the probabilities behind `other` from those behind `logits`."""
    known = logits.double().log_softmax(1)
    return (known.exp() * (known - other.double().log_softmax(1))).sum(1)


def labels_of_digits() -> Tensor:
    """What a trained network says of a thousand digits that were blurred until it is in doubt."""
    train, _ = halves()
    inputs = FixedItems((train.images.float() / 255 - 0.3) / 0.35, train.labels).epoch(0, torch.Generator())[0]
    network = trained()
    with torch.no_grad():
        return network(0.5 * inputs[torch.arange(1000)]) * 0.6


def fitted(logits: Tensor, num_bytes: int) -> Codebook:
    return fit_codebook(logits, num_bytes, generator(0, "codebook"))


def test_the_best_entry_is_the_one_that_a_search_finds() -> None:
    draw = generator(4, "entries")
    target, weights = torch.randn(30, 7, generator=draw), torch.randn(30, 7, generator=draw).softmax(1)
    directions, entries = torch.randn(7, 2, generator=draw), torch.randn(9, 2, generator=draw)
    errors = target.unsqueeze(1) - entries @ directions.T
    mean = (weights.unsqueeze(1) * errors).sum(2, keepdim=True)
    literal = (weights.unsqueeze(1) * (errors - mean).square()).sum(2).argmin(1)
    assert torch.equal(best_entries(target, weights, directions, entries), literal)
    assert len(set(literal.tolist())) > 3


def test_no_other_entry_of_one_group_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends where the variance of the error cannot fall by changing one byte, in nearly all labels."""
    monkeypatch.setattr(codebooks, "ENTRIES", 8)
    monkeypatch.setattr(codebooks, "SWEEPS", 8)
    logits = centred(logits_of(200, 6, spread=0.5))
    book = fitted(logits, 3)
    weights = logits.softmax(1)

    def spread(codes: Tensor) -> Tensor:
        error = logits - book.decode(codes)
        return (weights * (error - (weights * error).sum(1, keepdim=True)).square()).sum(1)

    codes = book.encode(logits)
    least = spread(codes)
    for group, entry in itertools.product(range(3), range(8)):
        other = codes.clone()
        other[:, group] = entry
        assert (spread(other) >= least - 1e-5).float().mean() > 0.98


def test_searching_by_probabilities_beats_the_nearest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(3000, 60)
    book, coarse = fitted(logits, 12), fitted(3 * logits, 4)
    searched = nats(logits, book.decode(book.encode(logits)))
    doubtful = nats(3 * logits, coarse.decode(coarse.encode(3 * logits)))
    monkeypatch.setattr(codebooks, "SWEEPS", 0)
    assert searched.mean() < 0.6 * nats(logits, book.decode(book.encode(logits))).mean()
    nearest = nats(3 * logits, coarse.decode(coarse.encode(3 * logits)))
    assert (doubtful <= nearest + 1e-4).all(), "nor ever loses by it, where the labels are far from any codes"


def test_codes_keep_more_of_real_labels_than_the_largest_logits_do() -> None:
    """Five bytes of a label of ten classes, against the largest logit and the mass of the rest."""
    logits = labels_of_digits()
    assert 0.2 < float(-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()) < 1.5, "labels with doubts"
    book = fitted(logits, 5)
    top = RegionLabels(storage="top-k", top_k=1, epochs=1)
    largest = {name: tensor.unsqueeze(0) for name, tensor in store_logits(logits, top).items()}
    ours = nats(logits, book.decode(book.encode(logits))).mean()
    assert ours < 0.1 * nats(logits, read_region_logits(largest, top, 0, 10)).mean() and ours < 0.01


def test_as_many_bytes_as_classes_and_few_labels() -> None:
    logits = logits_of(40, 5)
    book = fitted(logits, 5)
    assert nats(logits, book.decode(book.encode(logits))).max() < 1e-4
    alike = torch.ones(3, 5)
    assert nats(alike, fitted(alike, 2).decode(fitted(alike, 2).encode(alike))).max() < 1e-6


def test_a_constant_does_not_matter() -> None:
    logits = logits_of(300, 12)
    book = fitted(logits, 4)
    moved = logits + 50 * torch.randn(300, 1, generator=generator(2, "constants"))
    assert (book.encode(moved) != book.encode(logits)).float().mean() < 0.01


def test_fitting_depends_on_the_seed_alone() -> None:
    logits = logits_of(500, 12)
    one, same = fitted(logits, 4), fitted(logits, 4)
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(same).values(), strict=True))
    assert torch.equal(one.encode(logits), torch.cat([one.encode(logits[:7]), one.encode(logits[7:])]))


@pytest.mark.parametrize(("num_classes", "num_bytes"), [(10, 4), (11, 11), (100, 18)])
def test_what_is_stored_is_what_was_announced(num_classes: int, num_bytes: int) -> None:
    config = RegionLabels(storage="codebook", code_bytes=num_bytes, epochs=1)
    book = fitted(logits_of(50, num_classes), num_bytes)
    table = region_table(config, 50, num_classes)
    for name, tensor in vars(book).items():
        assert table[name] == ("F16", tuple(tensor.shape)) and torch.equal(tensor.half().float(), tensor)
    codes = store_logits(logits_of(50, num_classes), config, book)["codes"]
    assert table["codes"] == ("I8", (1, *codes.shape)) and codes.dtype == torch.int8
