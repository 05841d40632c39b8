"""Autoencoders of diffusers: tiny random ones written to a folder and read back, and the real TAESD where it is."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.base.errors import InputError
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import Autoencoder, AutoencoderConfig
from attar.models.codecs.codec import Codec, codes_per_image
from attar.models.codecs.registry import codec_from_text, fit_codec, restore_codec
from attar.models.codecs.resample import ResampleConfig

diffusers = pytest.importorskip("diffusers")

TAESD = Path(__file__).parents[1].parent / "shared" / "data" / "taesd"
needs_taesd = pytest.mark.skipif(not TAESD.is_dir(), reason="TAESD's weights are not beside the repository")

BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
SMALL = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 4, **BLOCKS}
TINY = {"encoder_block_out_channels": (4, 4, 4), "decoder_block_out_channels": (4, 4, 4), "latent_channels": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "kl": lambda: diffusers.AutoencoderKL(**SMALL, scaling_factor=0.5, shift_factor=0.25),
    "kl-moments": lambda: diffusers.AutoencoderKL(
        **SMALL, latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0)
    ),
    "tiny": lambda: diffusers.AutoencoderTiny(**TINY, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1)),
    "vq": lambda: diffusers.VQModel(**SMALL, num_vq_embeddings=16, vq_embed_dim=3, scaling_factor=1.0),
}


@functools.cache
def model(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().eval()


def photographs(num_items: int = 4, height: int = 16, width: int = 8, colours: int = 3) -> ImageSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_items, colours, height, width), generator=draw).to(torch.uint8)
    return ImageSet(images, torch.arange(num_items) % 2, ("a", "b"))


def floats(images: ImageSet) -> Tensor:
    return images.images.float() / 255


def saved(folder: Path, name: str) -> Path:
    model(name).save_pretrained(folder / name)
    return folder / name


def read(path: Path, images: ImageSet | None = None) -> Codec:
    return fit_codec(AutoencoderConfig(path=str(path)), images or photographs())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_becomes_a_codec(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = read(saved(tmp_path, name))
    images, original = floats(photographs()), model(name)
    codes = codec.encode(images)
    assert codes.shape[1:] == codec.code_shape == {"tiny": (2, 4, 2), "vq": (3, 8, 4)}.get(name, (4, 8, 4))
    with torch.no_grad():
        encoded = original.encode(images * 2 - 1)
        latents = encoded.latent_dist.mean if "kl" in name else encoded.latents
        if name == "kl":
            torch.testing.assert_close(codes, (latents - 0.25) * 0.5)
        if name == "kl-moments":
            mean, std = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
            torch.testing.assert_close(codes, (latents - mean[:, None, None]) * 0.18215 / std[:, None, None])
        torch.testing.assert_close(codec.decode(codes), original.decode(latents).sample / 2 + 0.5, atol=1e-5, rtol=1e-5)
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    again = restore_codec(json.loads(json.dumps(codec.spec())), codec.stored_tensors())
    assert again.identity() == codec.identity() and again.spec() == codec.spec() and codec.stored_tensors() == {}
    assert torch.equal(again.encode(images), codes) and torch.equal(again.decode(codes), codec.decode(codes))


@pytest.mark.parametrize("name", MODELS)
def test_encoding_is_deterministic_and_decode_passes_gradients(name: str, tmp_path: Path) -> None:
    codec = read(saved(tmp_path, name))
    images = floats(photographs())
    codes = codec.encode(images)
    assert torch.equal(codes, codec.encode(images)) and not codes.requires_grad
    codes.requires_grad_()
    codec.decode(codes).square().sum().backward()
    assert codes.grad is not None and bool(codes.grad.isfinite().all()) and float(codes.grad.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_external_weights_are_named_without_their_path(tmp_path: Path) -> None:
    folder = saved(tmp_path, "kl")
    external = read(folder).external()
    content = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    assert external is not None and external.id == "kl" and external.num_bytes == len(content)
    assert external.sha256 == hashlib.sha256(content).hexdigest()
    assert external.num_values == sum(parameter.numel() for parameter in model("kl").parameters())
    assert str(tmp_path) not in json.dumps(read(folder).spec())


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    half = MODELS["kl"]().to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    codec = read(tmp_path / "half")
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.float32}
    assert codec.encode(floats(photographs())).dtype == torch.float32


def test_a_pipeline_s_folder_is_read_from_its_vae(tmp_path: Path) -> None:
    shutil.move(saved(tmp_path, "kl"), tmp_path / "pipeline" / "vae")
    external = read(tmp_path / "pipeline").external()
    assert external is not None and external.id == "pipeline"


def test_grey_images_pass_as_three_equal_channels(tmp_path: Path) -> None:
    folder = saved(tmp_path, "kl")
    grey = photographs(colours=1)
    codec = read(folder, grey)
    colour = read(folder)
    codes = codec.encode(floats(grey))
    assert torch.equal(codes, colour.encode(floats(grey).repeat(1, 3, 1, 1)))
    torch.testing.assert_close(codec.decode(codes), colour.decode(codes).mean(1, keepdim=True))


def test_resampling_shrinks_the_factor_and_keeps_the_identity_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, "tiny")
    config = codec_from_text(f"resample:2:autoencoder:{folder}")
    images = photographs(4, 8, 8)
    codec = fit_codec(config, images)
    assert codec.image_shape == (3, 8, 8) and codec.code_shape == (2, 4, 4)
    assert codec.decode(codec.encode(floats(images))).shape == (4, 3, 8, 8)
    assert codec.external() == read(folder).external() and not codec.cheap
    public = config.without_paths(codec)
    assert isinstance(public, ResampleConfig) and public.codec == AutoencoderConfig(path="tiny")
    monkeypatch.setenv("ATTAR_WEIGHTS", str(folder))
    assert restore_codec(codec.spec(), {}).identity() == codec.identity()
    assert fit_codec(public, images).identity() == codec.identity()


def test_absent_weights_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = read(saved(tmp_path, "tiny"))
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=f"'tiny'.*{codec.spec()['sha256']}.*absent.*ATTAR_WEIGHTS"):
        restore_codec(codec.spec(), {})


def test_weights_that_differ_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "tiny")
    spec = read(folder).spec()
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    file = folder / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="folder tiny was found, but its weights differ"):
        restore_codec(spec, {})


def test_an_architecture_that_differs_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "kl")
    spec = read(folder).spec()
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_diffusers_version": "9.9"}))
    assert restore_codec(spec, {}).spec() == spec
    (folder / "config.json").write_text(json.dumps(settings | {"scaling_factor": 0.7}))
    with pytest.raises(InputError, match=r"config\.json"):
        restore_codec(spec, {})


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../tiny"},
        {"id": "/etc"},
        {"id": "a/b/c"},
        {"id": ""},
        {"id": "tiny\n"},
        {"sha256": "0" * 63},
        {"sha256": "0" * 64},
        {"config_sha256": "0" * 64},
        {"num_bytes": -1},
        {"num_bytes": True},
        {"num_values": 0},
        {"image_shape": [3, 15, 8]},
        {"image_shape": [2, 16, 8]},
        {"surprise": 1},
    ],
    ids=str,
)
def test_damaged_descriptions_are_refused(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read(saved(tmp_path, "tiny")).spec()
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError) as error:
        restore_codec(spec | change, {})
    assert "\n" not in str(error.value)


def test_unfit_folders_and_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds no autoencoder"):
        read(tmp_path)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="save_pretrained"):
        read(tmp_path / "pickled")
    for text, hint in (("./absent", "no folder"), ("a/b/c", "no folder"), ("absent-name", "not in the hub cache")):
        with pytest.raises(InputError, match=hint):
            fit_codec(AutoencoderConfig(path=text), photographs())


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "tiny")
    settings = json.loads((folder / "config.json").read_text())
    for content, hint in (
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        (json.dumps(settings | {"_class_name": "AutoencoderTinny"}), "did you mean 'AutoencoderTiny'"),
        (json.dumps(settings | {"latent_channels": 5}), "cannot be read|lacks"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=hint):
            read(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        read(folder)


def test_a_missing_weight_is_not_invented(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path, "tiny")
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("decoder.layers.0.weight")
    save_file(state, file)
    with pytest.raises(InputError, match="lacks 1 weights"):
        read(folder)


def test_images_of_unfit_size_are_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"multiples of 4, and the images are 18 x 8; .* 16 x 8"):
        read(saved(tmp_path, "tiny"), photographs(4, 18, 8))


def test_without_diffusers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "tiny")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'attar\[diffusion\]'"):
        read(folder)


def test_taesd_s_own_layout_is_the_same_model(tmp_path: Path) -> None:
    """Written from a random AutoencoderTiny of default size by the names of the reference code."""
    from safetensors.torch import save_file

    original = diffusers.AutoencoderTiny().eval()
    encoder, decoder = {}, {}
    for key, value in original.state_dict().items():
        part, _, index, rest = key.split(".", 3)
        if part == "encoder":
            encoder[f"{index}.{rest}"] = value
        else:
            decoder[f"{int(index) + 1}.{rest}"] = value
    save_file(encoder, tmp_path / "taesd_encoder.safetensors")
    save_file(decoder, tmp_path / "taesd_decoder.safetensors")
    codec = read(tmp_path, photographs(2, 16, 16))
    images = floats(photographs(2, 16, 16))
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(images), original.encode(images * 2 - 1).latents)
    external = codec.external()
    both = [(tmp_path / f"taesd_{part}.safetensors").read_bytes() for part in ("decoder", "encoder")]
    assert external is not None and external.sha256 == hashlib.sha256(b"".join(both)).hexdigest()


@needs_taesd
def test_the_real_taesd_reconstructs_real_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images[:20] * (255 / 16)).to(torch.uint8)[:, None]
    large = torch.nn.functional.interpolate(pixels.float(), scale_factor=8, mode="bicubic").clamp(0, 255)
    images = ImageSet(large.round().to(torch.uint8), torch.arange(20) % 2, ("even", "odd"))
    codec = read(TAESD, images)
    assert isinstance(codec, Autoencoder) and codec.code_shape == (4, 8, 8) and codes_per_image(codec) == 16
    with torch.no_grad():
        decoded = codec.decode(codec.encode(floats(images))).clamp(0, 1)
    assert -10 * math.log10(float((decoded - floats(images)).square().mean())) > 20
    external = codec.external()
    assert external is not None and external.id == "taesd" and 2.3e6 < external.num_values < 2.6e6
    monkeypatch.setenv("ATTAR_WEIGHTS", str(TAESD.parent))
    assert restore_codec(codec.spec(), {}).identity() == codec.identity()
