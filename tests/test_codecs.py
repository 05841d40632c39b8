"""Codecs that need no download: round trips, agreement with the oracles, and files that lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import AutoencoderConfig
from attar.models.codecs.codec import Codec
from attar.models.codecs.dct import Dct, DctConfig, dct_basis, dct_order
from attar.models.codecs.pca import Pca, PcaConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec, restore_codec
from attar.models.codecs.resample import Resample, ResampleConfig
from reference.codecs import dct_coefficient, patch_rows, zca

CONFIGS = {
    "normalise": PixelsConfig(),
    "zca": PixelsConfig(whitening="zca"),
    "pca": PcaConfig(factor=4, channels=4),
    "pca-whiten": PcaConfig(factor=2, channels=5, scaling="whiten"),
    "pca-none": PcaConfig(factor=2, channels=1, scaling="none"),
    "dct": DctConfig(factor=4, channels=6),
    "dct-whiten": DctConfig(factor=2, channels=12, scaling="whiten"),
    "resample-pca": ResampleConfig(factor=2, codec=PcaConfig(factor=8, channels=6)),
    "resample-dct": ResampleConfig(factor=2, codec=DctConfig(factor=4, channels=3)),
}


def digits() -> ImageSet:
    data = load_digits()
    images = torch.from_numpy(np.round(data.images * 255 / 16).astype(np.uint8))[:, None]
    return ImageSet(images, torch.from_numpy(data.target), tuple("0123456789"))


def coloured(num_items: int = 60, height: int = 8, width: int = 8, seed: int = 0) -> ImageSet:
    """RGB images with the correlations of photographs: blurred noise, more alike across colours than not."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.rand(num_items, 1, height, width, generator=draw)
    noise = 0.7 * common + 0.3 * torch.rand(num_items, 3, height, width, generator=draw)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)
    labels = torch.arange(num_items) % 2
    return ImageSet((smooth * 255).round().to(torch.uint8), labels, ("even", "odd"))


def floats(images: ImageSet) -> Tensor:
    return images.images.float() / 255


@pytest.fixture(params=CONFIGS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return fit_codec(CONFIGS[request.param], coloured())


def test_codes_have_the_promised_shape_and_decode_to_images(codec: Codec) -> None:
    codes = codec.encode(floats(coloured()))
    assert codes.shape[1:] == codec.code_shape and codes.dtype == torch.float32
    assert codec.decode(codes).shape[1:] == codec.image_shape == (3, 8, 8)


def test_decoding_is_a_right_inverse_of_encoding(codec: Codec) -> None:
    """Codes of decoded codes are the codes again: encoding is the (pseudo-)inverse, not merely near it."""
    if isinstance(codec, Resample):
        pytest.skip("interpolation loses what lies between the pixels")
    codes = torch.randn(5, *codec.code_shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(codec.encode(codec.decode(codes)), codes, atol=2e-4, rtol=1e-4)


def test_gradients_of_decode_reach_the_codes_and_nothing_else(codec: Codec) -> None:
    codes = torch.zeros(2, *codec.code_shape, requires_grad=True)
    codec.decode(codes).square().sum().backward()
    assert codes.grad is not None and bool((codes.grad.flatten(2).abs().amax(2) > 0).any(1).all())
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_a_restored_codec_is_the_same_codec(codec: Codec) -> None:
    images = floats(coloured(seed=3))
    again = restore_codec(codec.spec(), codec.stored_tensors())
    assert again.identity() == codec.identity() and again.spec() == codec.spec()
    assert again.code_shape == codec.code_shape and again.cheap == codec.cheap
    assert torch.equal(again.encode(images), codec.encode(images))
    assert torch.equal(again.decode(again.encode(images)), codec.decode(codec.encode(images)))
    assert again.external() is None


def test_stored_tensors_are_float32_and_equal_fits_have_equal_names(codec: Codec) -> None:
    assert all(tensor.dtype == torch.float32 for tensor in codec.stored_tensors().values())
    names = {fit_codec(config, coloured()).identity() for config in CONFIGS.values()}
    assert len(names) == len(CONFIGS) and codec.identity() in names


@settings(max_examples=25, deadline=None)
@given(
    factor=st.sampled_from([1, 2, 3, 4]),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    grey=st.booleans(),
    scaling=st.sampled_from(["whiten", "global", "none"]),
    kind=st.sampled_from([PcaConfig, DctConfig]),
    seed=st.integers(0, 100),
)
def test_all_channels_of_a_patch_give_the_image_back(
    factor: int, rows: int, columns: int, grey: bool, scaling: Any, kind: Any, seed: int
) -> None:
    images = coloured(40, factor * rows, factor * columns, seed)
    if grey:
        images = ImageSet(images.images[:, :1].contiguous(), images.labels, images.classes)
    channels = images.image_shape[0] * factor * factor
    codec = fit_codec(kind(factor=factor, channels=channels, scaling=scaling), images)
    assert codec.code_shape == (channels, rows, columns)
    torch.testing.assert_close(codec.decode(codec.encode(floats(images))), floats(images), atol=2e-5, rtol=0)


def test_pca_agrees_with_sklearn() -> None:
    images = digits()
    codec = PcaConfig(factor=4, channels=3, scaling="none").fit(images)
    rows = patch_rows(images.images.double() / 255, 4).numpy()
    oracle = PCA(n_components=3, svd_solver="full").fit(rows)
    ours = codec.encode(floats(images)).permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    theirs = oracle.transform(rows)
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, theirs * signs, atol=2e-5)
    decoded = patch_rows(codec.decode(codec.encode(floats(images))), 4).detach().numpy()
    np.testing.assert_allclose(decoded, oracle.inverse_transform(theirs), atol=2e-5)


def test_pca_signs_follow_the_largest_entry() -> None:
    rows = PcaConfig(factor=2, channels=12).fit(coloured()).stored_tensors()["basis"].flatten(1)
    assert bool((rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all())


def test_global_scaling_makes_the_mean_square_one_and_whitening_each_channel_s() -> None:
    images = coloured(200)
    for scaling, kind in (("global", PcaConfig), ("global", DctConfig), ("whiten", PcaConfig), ("whiten", DctConfig)):
        squares = fit_codec(kind(scaling=scaling), images).encode(floats(images)).square().mean((0, 2, 3))
        wanted = torch.ones(()) if scaling == "global" else torch.ones(4)
        torch.testing.assert_close(squares.mean() if scaling == "global" else squares, wanted, atol=1e-3, rtol=0)


def test_a_constant_data_set_does_not_blow_up() -> None:
    images = ImageSet(torch.full((4, 3, 8, 8), 77, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    for config in (PixelsConfig(), PixelsConfig(whitening="zca"), PcaConfig(scaling="whiten"), DctConfig()):
        codec = fit_codec(config, images)
        codes = codec.encode(floats(images))
        assert bool(codes.isfinite().all()) and float(codes.abs().max()) < 10
        torch.testing.assert_close(codec.decode(codes), floats(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("colours", "factor"), [(1, 5), (3, 4), (3, 8)])
def test_the_dct_basis_is_orthonormal_and_complete(colours: int, factor: int) -> None:
    size = colours * factor * factor
    rows = dct_basis(colours, factor, size).flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(size).double(), atol=1e-12, rtol=0)
    assert sorted(dct_order(colours, factor)) == sorted(set(dct_order(colours, factor)))


def test_dct_agrees_with_the_sum_written_out() -> None:
    images = coloured(2)
    codec = DctConfig(factor=4, channels=20, scaling="none").fit(images)
    directions = torch.tensor([[1, 1, 1], [-1, -1, 2], [1, -1, 0]]).double()
    directions /= directions.norm(dim=1, keepdim=True)
    patch = floats(images)[1, :, 4:8, 0:4].double() - 0.5
    wanted = [dct_coefficient(patch, directions[m], u, v) for m, u, v in dct_order(3, 4)[:20]]
    np.testing.assert_allclose(codec.encode(floats(images))[1, :, 1, 0].numpy(), wanted, atol=1e-5)


def test_dct_keeps_luminance_first_and_documents_its_order() -> None:
    first = ["YBR"[m] + f"{u}{v}" for m, u, v in dct_order(3, 4)[:8]]
    assert first == ["Y00", "Y01", "Y10", "B00", "R00", "Y20", "Y11", "Y02"]
    assert dct_order(1, 4)[:6] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
    assert DctConfig().fit(coloured()).stored_tensors() == {}


def test_normalised_pixels_have_zero_mean_and_unit_variance() -> None:
    images = coloured(100)
    codes = PixelsConfig().fit(images).encode(floats(images)).double()
    torch.testing.assert_close(codes.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.var((0, 2, 3), unbiased=False), torch.ones(3).double(), atol=1e-5, rtol=0)


def test_zca_agrees_with_its_definition_and_inverts() -> None:
    images = digits()
    codec = PixelsConfig(whitening="zca").fit(images)
    whitened, _ = zca(images.images / 255, 0.1)
    codes = codec.encode(floats(images))
    torch.testing.assert_close(codes.flatten(1).double(), whitened, atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(codes), floats(images), atol=1e-4, rtol=0)
    values = codec.num_image_values
    assert codec.stored_tensors()["triangle"].numel() == values * (values + 1) // 2


def test_zca_leaves_the_covariance_s_over_s_plus_epsilon() -> None:
    images = coloured(300, 4, 4)
    codes = PixelsConfig(whitening="zca", epsilon=0.01).fit(images).encode(floats(images)).flatten(1).double()
    normalised = PixelsConfig().fit(images).encode(floats(images)).flatten(1).double()
    before = torch.linalg.eigvalsh(torch.cov(normalised.T))
    torch.testing.assert_close(torch.linalg.eigvalsh(torch.cov(codes.T)), before / (before + 0.01), atol=1e-4, rtol=0)


def test_zca_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = PixelsConfig(whitening="zca").fit(coloured())
    monkeypatch.setattr(torch.linalg, "eigh", None)
    assert PixelsConfig(whitening="zca").fit(coloured()).identity() == first.identity()


def test_zca_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(InputError, match="3 x 64 x 64"):
        PixelsConfig(whitening="zca").fit(coloured(2, 65, 64))
    with pytest.raises(InputError, match="at least two"):
        PixelsConfig(whitening="zca").fit(coloured(1))
    with pytest.raises(ValueError, match="no effect"):
        PixelsConfig(epsilon=0.1)


def test_resampling_divides_the_down_sampling_factor() -> None:
    images = coloured(40, 16, 16)
    plain = fit_codec(PcaConfig(factor=8, channels=4), images)
    halved = fit_codec(ResampleConfig(factor=2, codec=PcaConfig(factor=8, channels=4)), images)
    quartered = fit_codec(ResampleConfig(factor=4, codec=PcaConfig(factor=8, channels=4)), images)
    assert [c.code_shape for c in (plain, halved, quartered)] == [(4, 2, 2), (4, 4, 4), (4, 8, 8)]
    assert {c.image_shape for c in (plain, halved, quartered)} == {(3, 16, 16)}
    errors = [float((c.decode(c.encode(floats(images))) - floats(images)).square().mean()) for c in (plain, halved)]
    assert errors[1] < errors[0]


def test_factors_and_channels_that_do_not_fit_are_refused() -> None:
    for config in (PcaConfig(factor=5), DctConfig(factor=5)):
        with pytest.raises(InputError, match="allowed factors: 1, 2, 4"):
            fit_codec(config, coloured(4, 8, 12))
    for config in (PcaConfig(factor=1, channels=4), DctConfig(factor=1, channels=4)):
        with pytest.raises(InputError, match="holds only 3"):
            fit_codec(config, coloured())


def damaged(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    codec = fit_codec(CONFIGS[name], coloured())
    return dict(codec.spec()), dict(codec.stored_tensors())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "change",
    [
        {"kind": "pcaa"},
        {"kind": None},
        {"kind": ["pca"]},
        {"image_shape": [3, 8]},
        {"image_shape": [3, 8, -8]},
        {"image_shape": [3, 8, 2**40]},
        {"image_shape": [3.0, 8, 8]},
        {"image_shape": "3,8,8"},
        {"image_shape": [2**70, 8, 8]},
        {"image_shape": [3, 7, 9]},
        {"image_shape": None},
        {"surprise": 1},
        {"surprise": {1, 2}},
        {"surprise": float("nan")},
    ],
    ids=str,
)
def test_damaged_descriptions_are_refused_in_one_line(name: str, change: dict[str, Any]) -> None:
    spec, tensors = damaged(name)
    if change == {"image_shape": [3, 7, 9]} and name == "normalise":
        pytest.skip("normalisation suits images of any size")
    with pytest.raises(InputError) as error:
        restore_codec(spec | change, tensors)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", CONFIGS)
def test_every_missing_key_and_damaged_tensor_is_refused(name: str) -> None:
    spec, tensors = damaged(name)
    for key in set(spec) - {"whitening", "epsilon", "scaling", "factor", "channels", "basis"}:
        with pytest.raises(InputError):
            restore_codec({k: v for k, v in spec.items() if k != key}, tensors)
    with pytest.raises(InputError):
        restore_codec(spec, tensors | {"surprise": torch.zeros(1)})
    for key, tensor in tensors.items():
        broken = tensor.clone()
        broken.view(-1)[-1] = float("nan")
        for bad in (broken, tensor.double(), tensor[None], tensor[..., :-1]):
            with pytest.raises(InputError, match=repr(key)):
                restore_codec(spec, tensors | {key: bad})
        with pytest.raises(InputError):
            restore_codec(spec, {k: v for k, v in tensors.items() if k != key})


def test_values_that_would_divide_by_zero_or_not_invert_are_refused() -> None:
    for name, key in (("normalise", "std"), ("pca", "scale"), ("zca", "triangle"), ("pca", "basis")):
        spec, tensors = damaged(name)
        with pytest.raises(InputError, match="damaged"):
            restore_codec(spec, tensors | {key: torch.zeros_like(tensors[key])})
    spec, tensors = damaged("dct")
    for scale in ([], [0.0], [1.0, 1.0], [1e300], ["1"]):
        with pytest.raises(InputError):
            restore_codec(spec | {"scale": scale}, tensors)


def test_a_resample_in_a_file_cannot_nest_or_change_shape() -> None:
    spec, tensors = damaged("resample-pca")
    nested: dict[str, Any] = spec
    for _ in range(2000):
        nested = {"kind": "resample", "image_shape": [3, 8, 8], "factor": 2, "codec": nested}
    for bad in (nested, spec | {"codec": []}, spec | {"codec": {}}, spec | {"factor": 4}, spec | {"factor": 10**9}):
        with pytest.raises(InputError):
            restore_codec(bad, tensors)


def test_restore_refuses_what_is_not_a_description() -> None:
    for spec in (None, [], "pca", {}, {"kind": 3}):
        with pytest.raises(InputError):
            restore_codec(spec, {})  # type: ignore[arg-type]


def test_codecs_have_short_names() -> None:
    assert codec_from_text("pixels") == PixelsConfig()
    assert codec_from_text("zca") == PixelsConfig(whitening="zca")
    assert codec_from_text("pca") == PcaConfig()
    assert codec_from_text("pca:f2c6-whiten") == PcaConfig(factor=2, channels=6, scaling="whiten")
    assert codec_from_text("dct:f8c12") == DctConfig(factor=8, channels=12)
    assert codec_from_text("autoencoder:C:\\a:b") == AutoencoderConfig(path="C:\\a:b")
    resampled = codec_from_text("resample:2:autoencoder:owner/name")
    assert resampled == ResampleConfig(factor=2, codec=AutoencoderConfig(path="owner/name"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("pcaa", "did you mean 'pca'"),
        ("", "There are"),
        ("pixels:3", "no settings"),
        ("pca:4", "f4c4"),
        ("pca:f0c4", "factor"),
        ("dct:f4c4-", "f4c4"),
        ("dct:f9999c1", "factor"),
        ("autoencoder", "OWNER/NAME"),
        ("resample:1:pca", "2..8"),
        ("resample:2", "2..8"),
        ("resample:2:zca", "to resample 'zca'"),
        ("resample:2:resample:2:pca", "to resample 'resample'"),
        ("resample:2:pcaa", "did you mean 'pca'"),
    ],
)
def test_wrong_names_are_answered_with_the_right_one(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        codec_from_text(text)


def test_kinds_name_themselves() -> None:
    for kind, name in ((Pixels, "normalise"), (Pca, "pca"), (Dct, "dct"), (Resample, "resample-dct")):
        assert damaged(name)[0]["kind"] == kind.kind
