"""Folders in diffusers' layout: those that one cannot sample from are refused, and of the rest all is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.codecs.autoencoder import Autoencoder
from attar.models.codecs.registry import fit_codec, restore_codec
from attar.models.diffusion.codec import DiffusionCodec, DiffusionCodecConfig
from attar.models.diffusion.pretrained import find_folder
from attar.models.diffusion.schedule import alpha_bars
from small_pretrained import save_pretrained


def _images(num_classes: int = 4) -> ImageSet:
    pixels = torch.randint(0, 256, (2 * num_classes, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "pixels"))
    return ImageSet(pixels, torch.arange(2 * num_classes) % num_classes, tuple("abcdefgh"[:num_classes]))


def _fit(folder: Path, **told: Any) -> DiffusionCodec:
    codec = fit_codec(DiffusionCodecConfig(path=str(folder), **told), _images())
    assert isinstance(codec, DiffusionCodec)
    return codec


def _change(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'.*'epsilon' is needed"),
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"trained_betas": [0.1] * 1000}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr 'True'"),
        ({"beta_schedule": None}, "unknown beta_schedule"),
        ({"beta_schedule": ["linear"]}, "unknown beta_schedule"),
        ({"beta_schedule": "sigmoid"}, "unknown beta_schedule 'sigmoid'"),
        ({"num_train_timesteps": 50}, "num_levels"),
        ({"num_train_timesteps": "many"}, "num_levels"),
        ({"beta_end": 2}, "last"),
        ({"beta_end": 0.9}, "last level"),
        ({"beta_start": float("nan")}, "first"),
    ],
)
def test_a_scheduler_of_other_noise_is_refused_in_one_line(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A zero-SNR, flow-matching or v-predicting model sampled as one of epsilon gives noise, and no error."""
    folder = save_pretrained("unet-embedding", tmp_path / "tiny")
    _change(folder / "scheduler" / "scheduler_config.json", lambda settings: settings.update(told))
    with pytest.raises(InputError, match=message) as caught:
        _fit(folder)
    assert "\n" not in str(caught.value)


def test_a_flow_matching_scheduler_is_not_taken_for_betas(tmp_path: Path) -> None:
    folder = save_pretrained("dit", tmp_path / "tiny")
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(flow))
    with pytest.raises(InputError, match="unknown beta_schedule 'None'"):
        _fit(folder)


@pytest.mark.parametrize("told", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_are_those_of_diffusers(told: str, tmp_path: Path) -> None:
    import diffusers

    folder = save_pretrained("unet-embedding", tmp_path / "tiny")
    path = folder / "scheduler" / "scheduler_config.json"
    theirs = diffusers.DDIMScheduler(beta_schedule=told, beta_start=0.00085, beta_end=0.012)
    path.write_text(theirs.to_json_string())
    torch.testing.assert_close(_fit(folder).model.alpha_bars.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-9)
    assert len(alpha_bars(_fit(folder).model.folder.schedule)) == 1000


@pytest.mark.parametrize("kind", ["unet-embedding", "unet-attention"])
def test_a_unet_that_learned_the_variance_too_is_asked_for_the_noise(kind: str, tmp_path: Path) -> None:
    """The second half of its channels is the variance."""
    import diffusers

    folder = save_pretrained(kind, tmp_path / "tiny", out_channels=8)
    codec = _fit(folder)
    codes = torch.randn(2, 4, 4, 4, generator=generator(0))
    conditioning = codec.conditioning(torch.tensor([1, 3]))
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    labels = torch.tensor([1, 3]) if kind == "unet-embedding" else None
    attended = None if kind == "unet-embedding" else conditioning[:, None]
    wanted = theirs(codes, 500, encoder_hidden_states=attended, class_labels=labels).sample[:, :4]
    torch.testing.assert_close(codec.model.predict(codes, 500, conditioning), wanted)
    with pytest.raises(InputError, match="predicts 7 channels for codes of 4"):
        _fit(save_pretrained(kind, tmp_path / "seven", out_channels=7))


def test_a_unet_that_is_told_its_class_in_two_ways_is_refused(tmp_path: Path) -> None:
    """Either table would be left without an effect, or the other take vectors for class numbers."""
    both = save_pretrained("unet-embedding", tmp_path / "both")
    (both / "class_embedder").mkdir()
    save_file({"embedding.weight": torch.randn(5, 12)}, both / "class_embedder" / "model.safetensors")
    with pytest.raises(InputError, match="attends to nothing"):
        _fit(both)
    text = save_pretrained("unet-attention", tmp_path / "text", num_class_embeds=5)
    with pytest.raises(InputError, match="embeds classes too"):
        _fit(text)
    (text / "class_embedder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="attends to more than its class"):
        _fit(text)


def test_codes_of_a_quantising_autoencoder_are_scaled_as_its_config_says_alone(tmp_path: Path) -> None:
    """Diffusers' own default for VQModel is the scale of another family: its LDM pipeline gives noise with it."""
    folder = save_pretrained("unet-attention", tmp_path / "tiny")
    path = folder / "vqvae" / "config.json"
    assert json.loads(path.read_text())["scaling_factor"] == 0.18215
    told = _fit(folder).inner
    _change(path, lambda settings: settings.pop("scaling_factor"))
    untold = _fit(folder).inner
    assert isinstance(told, Autoencoder) and isinstance(untold, Autoencoder)
    assert (told.scaling, untold.scaling) == (0.18215, 1.0)
    images = torch.rand(2, 3, 16, 16, generator=generator(0))
    torch.testing.assert_close(told.encode(images), 0.18215 * untold.encode(images))


def test_another_class_table_is_another_model_of_random_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are drawn again from the seed; the table is read."""
    folder = save_pretrained("unet-attention", tmp_path / "tiny")
    codec = _fit(folder, random_seed=0)
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    assert restore_codec(codec.spec(), {}).identity() == codec.identity()
    path = folder / "class_embedder" / "model.safetensors"
    save_file({"embedding.weight": load_file(path)["embedding.weight"] + 1}, path)
    assert _fit(folder, random_seed=0).identity() != codec.identity()
    with pytest.raises(InputError, match=r"tiny.*absent or differs"):
        restore_codec(codec.spec(), {})


def test_a_hub_id_is_not_taken_for_another_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that $ATTAR_WEIGHTS lists for something else comes first."""
    other = save_pretrained("unet-embedding", tmp_path / "other", seed=1)
    wanted = save_pretrained("unet-embedding", tmp_path / "kept" / "tiny")
    monkeypatch.setenv("ATTAR_WEIGHTS", os.pathsep.join(map(str, (other, tmp_path / "kept"))))
    found, place = find_folder("owner/tiny")
    assert place == wanted and found.weights.id == "owner/tiny"
    with pytest.raises(InputError, match="there is no diffusion model 'owner/absent'"):
        find_folder("owner/absent")


def test_a_class_table_beside_the_model_is_counted(tmp_path: Path) -> None:
    codec = _fit(save_pretrained("unet-attention", tmp_path / "tiny"))
    external = codec.model.external()
    parameters = sum(value.numel() for value in codec.model.network.parameters())
    assert external is not None and external.num_values == parameters + 5 * 12
