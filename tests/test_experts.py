"""Experts: the same bytes however often the work is cut off, files that are not trusted, and sound training."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.locks import Claims
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.cli import main
from attar.data.augmentation import DsaConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec
from attar.models.experts import growing, training
from attar.models.experts.buffer import ExpertBuffer
from attar.models.experts.config import Experts, ExpertsConfig
from attar.models.experts.training import Teaching, expert_seed, train_experts
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from attar.models.training.items import FixedItems
from attar.models.training.loop import train_networks
from attar.models.training.settings import TrainingConfig
from attar.models.training.snapshots import Snapshot
from small_sets import digit_images, first_items

EPOCHS = 4
NETWORK = NetworkConfig(width=4, depth=1)


def config(augmentation: DsaConfig | None = None, **experts: Any) -> TrajectoriesConfig:
    settings = {"count": 2, "epochs": EPOCHS, "batch_size": 16, "momentum": 0.5, **experts}
    return TrajectoriesConfig(
        network=NETWORK, experts=ExpertsConfig(**settings), augmentation=augmentation, max_start_epoch=1
    )


def experts(settings: TrajectoriesConfig | None = None, text: str = "pixels", **arguments: Any) -> ExpertBuffer:
    """Experts of 40 digits."""
    settings = settings or config()
    images = digit_images().select(first_items(digit_images(), 4))
    codec = fit_codec(codec_from_text(text), images)
    real = RealItems(images.labels, images.num_classes, images=images, codec=codec)
    preprocess = codec if text == "pixels" else fit_codec(PixelsConfig(), images)
    augmentation = siamese_augmentation(settings.augmentation, codec, preprocess)
    return train_experts(settings, augmentation, real, images, codec, **arguments)


def contents(buffer: ExpertBuffer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(buffer.folder.iterdir())}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of two experts trained in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(tmp_path_factory.mktemp("unbroken")))
        return contents(experts())


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from attar.base.process import prepare_process
prepare_process()
import torch
torch.set_num_threads(1)
from attar.models.experts import growing
from attar.models.training import snapshots
from test_experts import experts

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

add = growing.GrowingGroup.add

def dying_add(group, snapshot):
    if snapshot.epoch == 2:
        snapshots.atomic_path = die
    add(group, snapshot)

growing.GrowingGroup.add = dying_add
experts()
"""


def test_a_process_killed_between_rows_and_state_loses_one_epoch_and_no_byte(unbroken: dict[str, bytes]) -> None:
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL, done.stderr
    counted = Counter()
    assert contents(experts(progress=counted)) == unbroken
    assert counted.resumed_steps >= 3


class Died(BaseException):
    """Stands for a kill: nothing after it runs, apart from what unwinding does."""


@pytest.mark.parametrize("moment", ["between epochs", "before finishing", "within finishing", "second expert"])
def test_an_end_at_any_moment_loses_one_epoch_at_most_and_no_byte(
    moment: str, unbroken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, finish, to_disk = growing.GrowingGroup.add, growing.GrowingGroup.finish, growing._to_disk
    count = iter(range(10**6))

    def dying_add(group: growing.GrowingGroup, snapshot: Snapshot) -> None:
        add(group, snapshot)
        if snapshot.epoch == {"between epochs": 2, "before finishing": 4}.get(moment):
            raise Died

    def dying_disk(handle: int) -> None:
        to_disk(handle)
        if moment == "within finishing" and next(count) == 5:
            raise Died

    def dying_finish(group: growing.GrowingGroup, accuracies: list[float]) -> None:
        finish(group, accuracies)
        if moment == "second expert":
            raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(growing.GrowingGroup, "add", dying_add)
        patch.setattr(growing.GrowingGroup, "finish", dying_finish)
        patch.setattr(growing, "_to_disk", dying_disk)
        experts()
    counted = Counter()
    assert contents(experts(progress=counted)) == unbroken
    assert counted.resumed_steps >= (0 if moment == "second expert" else 6)


class Counter(Silent):
    """Counts the steps that were there already, and may interrupt at a step."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.steps, self.resumed_steps, self.total, self.interrupt_at = 0, 0, 0, interrupt_at
        self.notes: list[str] = []

    def start(self, description: str, total: int) -> None:
        self.total = total

    def advance(self, count: int = 1, **figures: float) -> None:
        if not figures:
            self.resumed_steps += count
        self.steps += count
        if self.steps == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("step", [1, 3, 8, 12])
def test_an_interrupted_run_ends_its_epoch_and_goes_on(step: int, unbroken: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        experts(progress=Counter(step))
    counted = Counter()
    assert contents(experts(progress=counted)) == unbroken
    assert counted.resumed_steps == 3 * -(-step // 3)
    assert counted.steps == counted.total
    again = Counter()
    assert contents(experts(progress=again)) == unbroken and again.steps == 0


def test_a_damaged_state_costs_that_expert_and_no_byte(unbroken: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        experts(progress=Counter(5))
    (state,) = Path(os.environ["ATTAR_CACHE"]).rglob("*.state")
    for damage in (state.read_bytes()[:-3], b"", b"\xff" * 300):
        state.write_bytes(damage)
        assert contents(experts(count=1)).keys() == unbroken.keys() - {"expert-00001.safetensors"}
    assert contents(experts()) == unbroken


def test_a_buffer_grows_and_keeps_what_it_has(unbroken: dict[str, bytes]) -> None:
    buffer = experts(count=1)
    assert buffer.num_experts == 1
    experts()
    assert buffer.num_experts == 2 and contents(buffer) == unbroken
    assert experts(count=3).num_experts == 3
    assert contents(buffer).items() > unbroken.items()
    buffer.path(0).unlink()
    assert experts(count=3).num_experts == 3 and contents(buffer).items() > unbroken.items()


TOGETHER = """
import sys
sys.path.insert(0, "tests")
import torch
torch.set_num_threads(1)
from test_experts import experts
print("ready", flush=True)
experts(count=3)
"""


def test_two_processes_share_the_work() -> None:
    command, pipes = [sys.executable, "-c", TOGETHER], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == "ready\n"
        shared = experts(count=3)
        assert other.communicate(timeout=120)[1] == "" and other.returncode == 0
    assert experts(count=3).pace is None, "nothing was left to train"
    files = contents(shared)
    shutil.rmtree(shared.folder)
    assert contents(experts(count=3)) == files


CLAIM = """
import sys, time
from pathlib import Path
from attar.base.locks import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(0), claims.take(7), flush=True)
time.sleep(60)
"""


def test_claims_end_with_their_process(tmp_path: Path) -> None:
    path = tmp_path / "claims.lock"
    other = subprocess.Popen([sys.executable, "-c", CLAIM, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "True True\n"
        with Claims(path) as claims:
            assert [claims.take(number) for number in (0, 3, 7)] == [False, True, False]
            other.kill()
            other.wait()
            assert [claims.take(number) for number in (0, 7)] == [True, True]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_experts_learn_and_are_what_training_gives() -> None:
    buffer = experts(config(epochs=12, learning_rate=0.1, momentum=0.9))
    assert isinstance(buffer, Experts)
    figures = buffer.figures(1)
    assert figures.losses[0] > 2 > figures.losses[-1] and figures.accuracy > 0.4
    seed = expert_seed(0, 1)
    start = build_network(NETWORK, (1, 8, 8), 10, generator(seed, "network"))
    assert torch.equal(buffer.parameters(1, 0), torch.nn.utils.parameters_to_vector(start.parameters()))
    images = digit_images().select(first_items(digit_images(), 4))
    codec = fit_codec(PixelsConfig(), images)
    inputs = codec.encode(images.images.float() / 255)
    settings = TrainingConfig(
        epochs=12, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0, schedule="constant"
    )
    (network,) = train_networks(NETWORK, FixedItems(inputs, images.labels), 10, settings, [seed])
    assert torch.equal(buffer.parameters(1, 12), torch.nn.utils.parameters_to_vector(network.parameters()))
    right = (network(inputs).argmax(1) == images.labels).double().mean().item()
    assert figures.accuracy == pytest.approx(right, abs=1e-6)


def test_identities_differ_where_bytes_do() -> None:
    many = [
        config(),
        config(seed=1),
        config(storage="bfloat16"),
        config(flat_radius=0.05),
        config(DsaConfig(strategy="crop_scale")),
    ]
    buffers = [experts(each, count=1) for each in many] + [experts(many[-1], "pca:f2c2", count=1)]
    assert len({buffer.folder for buffer in buffers}) == len(buffers)
    assert len({buffer.path(0).read_bytes() for buffer in buffers}) == len(buffers)


def test_bfloat16_is_the_float32_trajectory_rounded() -> None:
    exact, rounded = experts(), experts(config(storage="bfloat16"))
    assert 2 * rounded.layout.row_bytes == exact.layout.row_bytes
    for epoch in range(EPOCHS + 1):
        assert torch.equal(exact.parameters(1, epoch).bfloat16().float(), rounded.parameters(1, epoch))


def test_other_tools_read_the_files() -> None:
    from safetensors import safe_open

    for buffer in (experts(), experts(config(storage="bfloat16"))):
        with safe_open(str(buffer.path(1)), framework="pt") as file:
            rows = file.get_slice("trajectories")
            assert rows.get_shape() == [EPOCHS + 1, buffer.layout.num_parameters]
            assert torch.equal(rows[3].float(), buffer.parameters(1, 3))
            figures = buffer.figures(1)
            assert file.get_tensor("losses").tolist() == list(figures.losses)
            assert file.get_tensor("accuracy").item() == figures.accuracy


def test_experts_are_readable_while_more_are_trained() -> None:
    seen: list[int] = []

    class Reader(Silent):
        def advance(self, count: int = 1, **figures: float) -> None:
            folders = list(Path(os.environ["ATTAR_CACHE"]).glob("experts/*"))
            if folders:
                buffer = ExpertBuffer(folders[0])
                seen.append(buffer.num_experts)
                for expert in range(buffer.num_experts):
                    buffer.parameters(expert, EPOCHS)

    experts(progress=Reader())
    assert sorted(set(seen)) == [0, 1] and seen == sorted(seen)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: data.replace(b"F32", b"F64"),
        lambda data: (2**62).to_bytes(8, "little") + data[8:],
        lambda data: data[:-4] + b"\x00\x00\xc0\x7f",
    ],
)
def test_a_damaged_expert_is_named_with_its_mend(damage: Any) -> None:
    buffer = experts(count=1)
    path = buffer.path(0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"expert-00000\.safetensors is damaged .* delete it") as caught:
        other = ExpertBuffer(buffer.folder)
        other.parameters(other.num_experts - 1, EPOCHS)
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        buffer.parameters(0, 0)
    assert experts(count=1).num_experts == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
        lambda text: text.replace('"epochs": 4', '"epochs": 1000000000'),
        lambda text: text.replace('"num_parameters": ', '"num_parameters": -'),
        lambda text: text.replace('"seed": 0', '"seed": 0, "more": 1'),
        lambda text: text + " " * (1 << 20),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_manifest_is_named_with_its_mend(damage: Any) -> None:
    buffer = experts(count=1)
    path = buffer.folder / "manifest.json"
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        ExpertBuffer(buffer.folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        experts(count=1)


def test_a_manifest_of_other_experts_is_refused() -> None:
    first, second = experts(count=1), experts(config(seed=1), count=1)
    shutil.copy(first.folder / "manifest.json", second.folder)
    with pytest.raises(InputError, match="other experts"):
        experts(config(seed=1), count=2)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        experts(count=0)
    with pytest.raises(InputError, match="norm=instance"):
        experts(config().model_copy(update={"network": NetworkConfig(width=4, depth=1, norm="batch")}))
    with pytest.raises(NonFiniteLossError, match=r"^expert 0: "):
        experts(config(learning_rate=1e30), count=1)


def test_stacked_groups_agree_with_single_networks_and_are_finished_as_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    single = experts(config(DsaConfig(strategy="crop_scale")), count=5)
    looped = [single.parameters(expert, EPOCHS) for expert in range(5)]
    shutil.rmtree(single.folder)
    monkeypatch.setattr(training, "_group_size", lambda *arguments: 3)
    settings = config(DsaConfig(strategy="crop_scale"))
    with pytest.raises(KeyboardInterrupt):
        experts(settings, count=3, progress=Counter(15))
    (state,) = Path(os.environ["ATTAR_CACHE"]).rglob("*.state")
    assert state.name == "expert-00000.state"
    stacked = experts(settings, count=1)
    assert stacked.num_experts == 3, "a group is finished as it was begun"
    assert experts(settings, count=5).num_experts == 5
    for expert in range(5):
        torch.testing.assert_close(stacked.parameters(expert, EPOCHS), looped[expert], rtol=0, atol=1e-5)
    files = contents(stacked)
    shutil.rmtree(stacked.folder)
    experts(settings, count=3)
    assert contents(experts(settings, count=5)) == files


def test_a_group_killed_while_its_files_are_named_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_group_size", lambda *arguments: 2)
    replace, done = Path.replace, []

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".part" and path.name.startswith("expert") and (done or done.append(path)):
            raise OSError("stopped here")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="stopped here"):
            experts()
    files = contents(experts())
    assert sorted(files) == ["claims.lock", "expert-00000.safetensors", "expert-00001.safetensors", "manifest.json"]
    shutil.rmtree(experts().folder)
    assert contents(experts()) == files


def test_real_items_are_encoded_by_the_batch() -> None:
    images = digit_images().select(first_items(digit_images(), 4))
    codec = fit_codec(PixelsConfig(), images)
    inputs, labels = RealItems(images.labels, 10, images=images, codec=codec).epoch(0, generator(0))
    chosen = torch.tensor([7, 3])
    assert inputs.shape == (40, 1, 8, 8) and torch.equal(labels, images.labels)
    assert torch.equal(inputs[chosen], codec.encode(images.images[chosen].float() / 255))


DIGITS = ["--set", "objective.network.width=4", "--set", "objective.network.depth=1"]


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experts", "digits", "--recipe", "latent-mtt", "--classes", "0,1", "--quiet", *DIGITS]
    command += ["--set", "objective.experts.epochs=6", "--set", "objective.max_start_epoch=4"]
    assert main([*command, "--count", "2"]) == 0
    (folder,) = Path(os.environ["ATTAR_CACHE"]).glob("experts/*")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"{folder}: 2 experts of 6 epochs in {size} bytes, \S+ s an epoch; "
        r"expert 1 has \d+\.\d % of the training items right\n",
        line,
    )
    assert json.loads((folder / "manifest.json").read_text())["identity"]["num_classes"] == 2
    assert main([*command, "--count", "1"]) == 0
    assert "s an epoch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--recipe", "latent-dm"], "'latent-dm' needs no experts; take one that does: latent-mtt, mtt-"),
        (["--recipe", "latent-mt"], "did you mean 'latent-mtt'"),
        (["--recipe", "latent-mtt", "--count", "2", "--set", "objective.experts.count=3"], "given twice"),
    ],
)
def test_the_verb_refuses_in_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "digits", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert not list(Path(os.environ["ATTAR_CACHE"]).rglob("*.part"))


def test_states_of_whole_experts_are_removed() -> None:
    buffer = experts(count=1)
    state = buffer.path(0).with_suffix(".state")
    state.write_bytes(b"left over")
    growing.remove_old_states(buffer)
    assert not state.exists()


@pytest.mark.parametrize(
    ("free", "mode", "size"),
    [(10**12, "stacked", training.LARGEST_GROUP), (10**12, "looped", 1), (10**6, "stacked", 9), (10**3, "stacked", 1)],
)
def test_groups_fit_the_memory_of_a_gpu(free: int, mode: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def trainer(*arguments: Any) -> Any:
        tried.append(len(arguments[4]))
        return SimpleNamespace(faster_mode=lambda seeds: mode)

    monkeypatch.setattr(training, "free_bytes", lambda device: free)
    monkeypatch.setattr(training, "trainer_for", trainer)
    images = digit_images().select(first_items(digit_images(), 4))
    real = RealItems(images.labels, 10, codes=torch.zeros(40, 1, 8, 8))
    network = build_network(NETWORK, (1, 8, 8), 10)
    teaching = Teaching(config(), training.training_of(config()), real, None)
    assert training._group_size(teaching, network, Silent()) == 1, "never stacked on CPUs"
    real.device = torch.device("cuda")
    assert training._group_size(teaching, network, Silent()) == size
    assert tried == ([] if free == 10**3 else [size if mode == "stacked" else training.LARGEST_GROUP])
