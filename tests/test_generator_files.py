"""Generators in files and beside them: whose code runs, whose values are read, what is counted, what is refused."""

from __future__ import annotations

import pickle
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from attar.base.config import parse_config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.base.randomness import generator
from attar.cli import main
from attar.data.image_set import ImageSet
from attar.methods.parameterizations.generator import GeneratorConfig, GeneratorItems
from attar.methods.parameterizations.registry import restore_parameterization
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec, restore_codec
from attar.models.generators.codec import GeneratorCodec, GeneratorCodecConfig
from attar.models.generators.generator import read_generator, read_state, save_generator
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from attar.sets.manifest_text import manifest_text
from small_generator import (
    MODULE,
    Painter,
    digit_generator_items,
    saved_painter,
    saved_synthesis,
    small_synthesis,
)
from small_sets import CLASSES, digit_images

QUICK = {"steps": 1, "objective.network.width": 8, "objective.real_batch_size": 4}


def _distilled(path: Path, depth: int = 2, **changes: object) -> DistilledSet:
    told = {**QUICK, "codec.path": str(path), "parameterization.depth": depth, **changes}
    return distill(digit_images(), "glad-dm", "1ipc", settings=told)


def _painted(path: Path, **changes: object) -> DistilledSet:
    return _distilled(path, 1, **{"codec.module": MODULE, **changes})


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    return saved_synthesis(tmp_path / "generator.safetensors")


@pytest.fixture
def painter_file(tmp_path: Path) -> Path:
    return saved_painter(tmp_path / "painter.safetensors")


def test_a_generator_of_attars_own_is_read_back(own_file: Path, tmp_path: Path) -> None:
    found = read_generator(own_file)
    latents = torch.randn(2, 6)
    assert found.classes == CLASSES and torch.equal(found.network(latents), small_synthesis()(latents))
    assert found.weights.num_bytes == own_file.stat().st_size and found.weights.id == own_file.name
    save_generator(small_synthesis(), tmp_path / "again.safetensors", CLASSES)
    assert (tmp_path / "again.safetensors").read_bytes() == own_file.read_bytes()


def test_one_of_attars_own_is_in_the_file_and_counted(own_file: Path) -> None:
    made = _distilled(own_file)
    values = sum(value.numel() for value in small_synthesis().state_dict().values())
    items = 10 * (6 + 16 * 4 * 4)
    assert made.storage.paper_bytes == 4 * (values + items) and made.storage.external == ()
    assert made.storage.codes_bytes == 2 * items
    assert made.file_bytes > 4 * values
    assert str(own_file.parent) not in manifest_text(made.manifest)


def test_a_public_one_is_named_and_missed(own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, weights = _distilled(own_file, **{"codec.public": True}), read_generator(own_file).weights
    made.save(tmp_path / "set.safetensors")
    assert made.storage.external == (weights,) and made.storage.external_bytes == own_file.stat().st_size
    assert made.file_bytes < _distilled(own_file).file_bytes / 2
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    assert torch.equal(DistilledSet.load(tmp_path / "set.safetensors").images(), made.images())
    save_generator(small_synthesis(), own_file, CLASSES, data="another")
    with pytest.raises(InputError, match=f"generator.safetensors.*{weights.sha256}"):
        DistilledSet.load(tmp_path / "set.safetensors").images()


def test_code_of_others_renders_where_it_is_named(
    painter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _painted(painter_file)
    made.save(tmp_path / "set.safetensors")
    _, weights = read_state(painter_file)
    assert made.storage.external == (weights,) and made.payloads()[0]["codes"].shape == (10, 2, 5, 1)
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    again = DistilledSet.load(tmp_path / "set.safetensors")
    assert len(again) == 10 and again.describe()
    with pytest.raises(InputError, match=f"ATTAR_GENERATORS={MODULE}") as caught:
        again.images()
    assert "\n" not in str(caught.value)
    for told in (f"other:Name, {MODULE}", MODULE):
        monkeypatch.setenv("ATTAR_GENERATORS", told)
        assert torch.equal(DistilledSet.load(tmp_path / "set.safetensors").images(), made.images())
    monkeypatch.delenv("ATTAR_WEIGHTS")
    with pytest.raises(InputError, match=f"painter.safetensors.*{weights.sha256}"):
        DistilledSet.load(tmp_path / "set.safetensors").images()


def test_no_file_makes_attar_import_anything(
    painter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is done with a file, the module that it names is imported by the user's word alone."""
    marker = tmp_path / "imported"
    source = f"open({str(marker)!r}, 'w').close()\nfrom small_generator import Painter as Trap\n"
    (tmp_path / "trap_of_a_file.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    _painted(painter_file, **{"codec.module": "trap_of_a_file:Trap"}).save(tmp_path / "trap.safetensors")
    assert marker.exists()
    marker.unlink()
    monkeypatch.delitem(sys.modules, "trap_of_a_file")
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("ATTAR_GENERATORS", f"{MODULE},trap_of_a_file:Other")
    loaded = DistilledSet.load(tmp_path / "trap.safetensors")
    for work in (loaded.images, loaded.parameterizations, lambda: next(iter(loaded.loader(2)))):
        with pytest.raises(InputError, match="not run because a file names it"):
            work()
    assert main(["info", str(tmp_path / "trap.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "painter.safetensors" in out
    assert main(["show", str(tmp_path / "trap.safetensors"), "--out", str(tmp_path / "trap.png")]) == 2
    error = capsys.readouterr().err
    assert "ATTAR_GENERATORS=trap_of_a_file:Trap" in error and len(error.strip().splitlines()) == 1
    assert not marker.exists() and "trap_of_a_file" not in sys.modules and not (tmp_path / "trap.png").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module", "os:system; rm"),
        ("module", "../evil:Name"),
        ("module", "nothing"),
        ("arguments", {"path": "/etc/passwd"}),
        ("arguments", {"address": "http://x"}),
        ("arguments", {"width": 1e400}),
        ("arguments", {"width": 2**60}),
        ("arguments", {"width": {"deep": 1}}),
        ("arguments", {f"k{number}": 1 for number in range(33)}),
    ],
)
def test_what_a_file_may_not_ask_for(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of code that the user trusts: no path, address or size without bounds."""
    monkeypatch.setenv("ATTAR_GENERATORS", MODULE)
    spec = {
        "kind": "generator",
        "image_shape": [1, 8, 8],
        "generator": {"kind": "module", "module": MODULE, "arguments": {}, name: value},
        "public": {"id": "painter.safetensors", "sha256": "0" * 64, "num_bytes": 1, "num_values": 1},
    }
    with pytest.raises(InputError) as caught:
        restore_codec(spec, {})
    assert "\n" not in str(caught.value) and "absent" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"generator": {"kind": "module", "module": MODULE, "arguments": {}}},
        {"public": {"id": "../x", "sha256": "0" * 64, "num_bytes": 1, "num_values": 1}},
        {"public": {"id": "x", "sha256": "0" * 64, "num_bytes": 1, "num_values": 1}},
        {
            "generator": {
                "kind": "own",
                "synthesis": {"width": 32, "latent_size": 6, "noise_size": 4},
                "num_classes": 10,
            }
        },
        {"image_shape": [1, 64, 64]},
        {"extra": 1},
    ],
)
def test_a_damaged_description_is_refused(change: dict) -> None:
    codec = digit_generator_items().codec
    with pytest.raises(InputError):
        restore_codec({**codec.spec(), **change}, codec.stored_tensors())
    assert restore_codec(codec.spec(), codec.stored_tensors()).identity() == codec.identity()


@cache
def _few_items() -> GeneratorItems:
    return digit_generator_items(count=1)


ANYTHING = st.one_of(st.integers(-2, 1001), st.none(), st.text(max_size=3), st.lists(st.integers(0, 5), max_size=4))


@given(st.sampled_from(["depth", "feature_shape", "storage"]), ANYTHING)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_spec_of_items_is_refused_in_one_line(name: str, value: object) -> None:
    items = _few_items()
    spec = {**items.spec(), name: value}
    if spec == items.spec():
        return
    with pytest.raises(InputError) as caught:
        restore_parameterization(items.codec, items.payload(), spec, items.preprocess)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_items_are_read_back(depth: int, storage: str) -> None:
    items = digit_generator_items(depth=depth, storage=storage)
    again = GeneratorItems.restore(items.codec, items.payload(), items.spec(), items.preprocess)
    everything, allowed = torch.arange(20), {"float32": 0.0, "float16": 0.02}[storage]
    torch.testing.assert_close(again.images(everything), items.images(everything), rtol=0, atol=allowed)
    assert again.spec() == items.spec() and ("features" in items.payload()) == (depth > 0)


def test_weights_of_others_are_read_without_trust(painter_file: Path, tmp_path: Path) -> None:
    images, good = digit_images(), load_file(painter_file)

    def refused(path: Path, message: str, **changes: object) -> None:
        config = GeneratorCodecConfig(**{"path": str(path), "module": MODULE, **changes})
        with pytest.raises(InputError, match=message) as caught:
            fit_codec(config, images)
        assert "\n" not in str(caught.value)

    pickled = tmp_path / "weights.pkl"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    refused(pickled, "pickled")
    (tmp_path / "cut.safetensors").write_bytes(painter_file.read_bytes()[:-9])
    refused(tmp_path / "cut.safetensors", "no whole .safetensors file")
    refused(tmp_path, "not a regular file")
    refused(tmp_path / "absent.safetensors", "cannot be read")
    save_file({**good, "enter.bias": torch.full((10,), float("nan"))}, tmp_path / "nan.safetensors")
    refused(tmp_path / "nan.safetensors", "not finite")
    save_file({**good, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    refused(tmp_path / "more.safetensors", "'more' has shape")
    refused(painter_file, "'grow.bias' has shape", arguments={"width": 5})
    refused(painter_file, "cannot be made.*unexpected", arguments={"wdth": 5})
    refused(painter_file, "more than", arguments={"width": 2**22, "side": 64})
    refused(painter_file, "cannot be made.*no_such_module", module="no_such_module:Name")
    refused(painter_file, "has no 'Nothing'", module="small_generator:Nothing")
    refused(painter_file, "a torch module is needed", module="builtins:dict")
    refused(painter_file, "has shape", module="torch.nn:Identity")
    refused(painter_file, "public already", public=True)
    before = torch.random.get_rng_state()
    assert isinstance(fit_codec(GeneratorCodecConfig(path=str(painter_file), module=MODULE), images), GeneratorCodec)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_no_generator_can_be_found_for_is_refused(own_file: Path, tmp_path: Path) -> None:
    images = digit_images()
    with pytest.raises(InputError, match="no generator is named"):
        fit_codec(GeneratorCodecConfig(), images)
    with pytest.raises(InputError, match=r"codec\.module=package"):
        fit_codec(GeneratorCodecConfig(path=str(saved_painter(tmp_path / "p.safetensors"))), images)
    with pytest.raises(InputError, match=r"no effect without codec\.module"):
        fit_codec(GeneratorCodecConfig(path=str(own_file), arguments={"width": 4}), images)
    with pytest.raises(InputError, match="resize"):
        small = ImageSet(torch.zeros(20, 1, 9, 9).byte(), images.labels[:20], images.classes)
        fit_codec(GeneratorCodecConfig(path=str(own_file)), small)
    renamed = ImageSet(images.images, images.labels, tuple("abcdefghij"))
    with pytest.raises(InputError, match=r"codec\.classes"):
        fit_codec(GeneratorCodecConfig(path=str(own_file)), renamed)
    with pytest.raises(InputError, match="class 10 was asked for"):
        fit_codec(GeneratorCodecConfig(path=str(own_file), classes=(10,) * 10), renamed)
    given = fit_codec(GeneratorCodecConfig(path=str(own_file), classes=tuple(range(10))), renamed)
    assert given.identity() == fit_codec(GeneratorCodecConfig(path=str(own_file)), images).identity()
    assert codec_from_text("generator:G.safetensors") == GeneratorCodecConfig(path="G.safetensors")
    with pytest.raises(InputError, match="write generator:FILE"):
        codec_from_text("generator")
    with pytest.raises(InputError, match="to resample 'generator'"):
        codec_from_text("resample:2:generator:G.safetensors")


def test_a_generator_that_is_not_what_it_says(painter_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = digit_images()
    pixels = fit_codec(PixelsConfig(), images)
    config = GeneratorCodecConfig(path=str(painter_file), module=MODULE)
    monkeypatch.setattr(Painter, "mapping", None)
    with pytest.raises(InputError, match="no method 'mapping'"):
        fit_codec(config, images)
    monkeypatch.undo()
    codec = fit_codec(config, images)
    forward = Painter.forward
    monkeypatch.setattr(Painter, "forward", lambda self, *told: forward(self, *told)[:, :, :4])
    with pytest.raises(InputError, match=r"images are \(1, 4, 8\)"):
        codec.decode(torch.zeros(2, 2, 5, 1))
    assert pixels.image_shape == (1, 8, 8)


def test_a_generator_may_have_buffers_alone_and_work_in_place(tmp_path: Path) -> None:
    """A generator of constants; one that begins with a ReLU in place, as many do, overwrote what its gradient needs."""
    arguments = {"path": str(saved_painter(tmp_path / "painter.safetensors"))}
    items = [
        GeneratorItems.initial(
            GeneratorConfig(depth=1),
            fit_codec(GeneratorCodecConfig(module=f"small_generator:{name}", **arguments), digit_images()),
            fit_codec(PixelsConfig(), digit_images()),
            CLASSES,
            1,
            generator(0),
        )
        for name in ("Painter", "FrozenPainter", "PainterInPlace")
    ]
    everything = torch.arange(10)
    for each in items[1:]:
        assert torch.equal(each.images(everything), items[0].images(everything))
        found, wanted = (
            torch.autograd.grad(one(everything).square().sum(), [one.codes, one.features]) for one in (each, items[0])
        )
        torch.testing.assert_close(found, wanted)


def test_weights_whose_name_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    for path, told in (
        (saved_painter(tmp_path / "a:b.safetensors"), {"module": MODULE}),
        (saved_synthesis(tmp_path / f"{'long' * 25}.safetensors"), {"public": True}),
    ):
        with pytest.raises(InputError, match="rename their file"):
            fit_codec(GeneratorCodecConfig(path=str(path), **told), digit_images())


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "digits.attar.safetensors"
    command = ["distill", "digits", "--recipe", "glad-dm", "--budget", "1ipc", "--out", str(out), "--quiet"]
    own = saved_synthesis(tmp_path / "generator.safetensors", "0123456789")
    for more, message in (
        ([], "no generator is named"),
        (["--codec", f"generator:{own}"], "the generator has 4 layers"),
        (["--codec", f"generator:{own}", "--set", "codec.module=os;x"], "codec.generator.module"),
        (["--codec", "pixels"], "belong together"),
    ):
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1 and not out.exists()
    quick = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    assert main([*command, "--codec", f"generator:{own}", "--set", "parameterization.depth=2", *quick]) == 0
    assert main(["info", str(out)]) == 0 and "glad-dm" in capsys.readouterr().out


def test_settings_are_read_as_json() -> None:
    text = canonical_json(
        {"path": "x", "module": MODULE, "arguments": {"sides": [4, 8], "kind": "small", "deep": True}}
    )
    told = parse_config(GeneratorCodecConfig, text, "it")
    assert told.arguments == {"sides": (4, 8), "kind": "small", "deep": True}
    assert parse_config(GeneratorCodecConfig, told.model_dump_json(), "it") == told


def test_the_example_trains_a_generator_that_the_recipes_take(tmp_path: Path) -> None:
    out = tmp_path / "generator.safetensors"
    path = Path(__file__).parents[1] / "examples" / "train_generator.py"
    runpy.run_path(str(path))["main"]("digits", str(out), 2, 8)
    assert read_generator(out).classes == tuple("0123456789")
    told = {**QUICK, "parameterization.depth": 1}
    assert len(distill("digits", "glad-dm", "1ipc", codec=f"generator:{out}", settings=told)) == 10
