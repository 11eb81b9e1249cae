import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.backbones import Backbone
from models.boxes import iou
from models.detectors import FcosDetector
from models.engines import TorchEngine
from models.fcos import Body, Fcos
from models.heads import describe_head, head_parameters, load_head
from models.label_spaces import LabelSpace
from models.normalise import Normalise
from training import recipe as recipes
from training.photos import BoxedPhotos, read_photos
from training.recipe import Recipe, Training, train


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A small network with random weights: enough to see a bright square."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model("test_resnet", num_classes=2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(module.state_dict(), path)
    space = LabelSpace("two", ("n1", "n2"), ("one", "other"))
    return Backbone("tiny", "test_resnet.r160_in1k", "manifest", space, path)


@pytest.fixture(scope="module")
def recipe(photos_folder: Path) -> Recipe:
    return Recipe(
        data=f"tiny-imagenet:{photos_folder}",
        canvases=480,
        batch_size=8,
        learning_rate=1e-2,
        width=16,
        depth=1,
        validation_photos=6,
    )


@pytest.fixture(autouse=True)
def often_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "STEPS_BETWEEN_SAVES", 10)


@pytest.fixture(scope="module")
def trained(backbone: Backbone, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A head from a whole run that nothing interrupted."""
    out = tmp_path_factory.mktemp("run") / "head.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "STEPS_BETWEEN_SAVES", 10)
        train(backbone, recipe, out, cache_dir)
    return out


def switched_off_after(photos: BoxedPhotos, reads: int) -> BoxedPhotos:
    """The same photos, until the machine is switched off while one is read."""
    left = iter(range(reads))

    def read(index: int) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return photos.read(index)

    return replace(photos, read=read)


def rows(out: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in (out.with_suffix(".run") / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_the_square_is_found(trained: Path) -> None:
    measured = rows(trained)
    assert [row["step"] for row in measured] == [10, 20, 30, 40, 50, 60]
    assert np.mean([row["loss"] for row in measured[-2:]]) < 0.8 * measured[0]["loss"]
    assert measured[-1]["mean_iou"] > max(0.45, measured[0]["mean_iou"])
    assert measured[-1]["corloc"] >= 0.5


def test_the_head_is_served_as_it_was_measured(trained: Path, backbone: Backbone, recipe: Recipe) -> None:
    detector = FcosDetector("tiny", backbone, trained, "manifest")
    photos = read_photos(recipe.data, "val")
    drawn = [photos.photo(index) for index in range(len(photos))]
    pixels = np.stack([np.asarray(image) for image, _ in drawn])
    scores, boxes = TorchEngine(detector.graph().build(), "cpu").run(pixels)
    overlaps = [
        float(iou(row[score.argmax()][None], truth)[0, 0])
        for row, score, (_, truth) in zip(boxes, scores, drawn, strict=True)
    ]
    # Measured boxes are averaged with those that overlap them.
    assert np.mean(overlaps) == pytest.approx(rows(trained)[-1]["mean_iou"], abs=0.15)


def test_what_the_head_says_of_itself(trained: Path, backbone: Backbone) -> None:
    description = describe_head(trained)
    assert (description.backbone, description.backbone_sha256) == ("tiny", backbone.sha256)
    assert (description.config.width, description.config.depth) == (16, 1)
    assert description.training["recipe"]["canvases"] == 480
    assert description.training["validation"]["photos"] == 6
    assert description.training["validation"]["corloc"] == rows(trained)[-1]["corloc"]


def test_a_head_tells_nobody_where_the_photos_lay(trained: Path, recipe: Recipe) -> None:
    assert describe_head(trained).training["recipe"]["data"] == "tiny-imagenet"
    assert str(Path(recipe.data.partition(":")[2])).encode() not in trained.read_bytes()


def test_a_run_that_was_killed_ends_with_the_same_weights(
    trained: Path, backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path
) -> None:
    out = tmp_path / "head.safetensors"
    training = Training(backbone, recipe, out.with_suffix(".run"), cache_dir)
    assert not training.resume()
    photos, validation = (read_photos(recipe.data, split) for split in ("train", "val"))
    with pytest.raises(KeyboardInterrupt):
        training.run(switched_off_after(photos, 300), validation, workers=0)
    assert not out.exists()
    # Some steps are lost, and are done again.
    assert 10 < training.step < 50
    assert training.step % 10 != 0

    train(backbone, recipe, out, cache_dir)
    assert out.read_bytes() == trained.read_bytes()
    assert [row["step"] for row in rows(out)] == [10, 20, 30, 40, 50, 60]


def test_a_run_that_was_stopped_gives_a_head_and_goes_on(
    trained: Path, backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path
) -> None:
    out = tmp_path / "head.safetensors"
    train(backbone, recipe, out, cache_dir, stop_after=15)
    assert describe_head(out).training["steps"] == 15
    assert [row["step"] for row in rows(out)] == [10, 15]
    train(backbone, recipe, out, cache_dir)
    assert out.read_bytes() == trained.read_bytes()


def test_a_finished_run_is_not_run_again(trained: Path, backbone: Backbone, recipe: Recipe, cache_dir: Path) -> None:
    before = trained.read_bytes()
    found = train(backbone, recipe, trained, cache_dir)
    assert found.corloc == rows(trained)[-1]["corloc"]
    assert trained.read_bytes() == before
    assert len(rows(trained)) == 6


@pytest.mark.parametrize("changes", [{"seed": 1}, {"canvases": 960}, {"learning_rate": 1e-3}], ids=str)
def test_the_folder_of_another_recipe_is_not_resumed(
    changes: dict[str, Any], trained: Path, backbone: Backbone, recipe: Recipe, cache_dir: Path
) -> None:
    with pytest.raises(ValueError, match=r"head\.run holds a run of another recipe"):
        train(backbone, replace(recipe, **changes), trained, cache_dir)


def test_another_seed_gives_another_head(backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path) -> None:
    """Only its beginning: the same seed gives the same, whatever was drawn before."""
    states = []
    for number, seed in enumerate((0, 1, 0)):
        torch.rand(number + 1)
        training = Training(backbone, replace(recipe, seed=seed), tmp_path / str(number), cache_dir)
        states.append(training.network.state_dict()["laterals.0.weight"])
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[1])


def test_the_first_steps_of_the_average_forget_the_random_beginning(
    backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path
) -> None:
    training = Training(backbone, recipe, tmp_path / "run", cache_dir)
    pixels = torch.zeros(8, 64, 64, 3, dtype=torch.uint8)
    truth = torch.zeros(8, 4, 4)
    truth[:, 0] = torch.tensor([0.2, 0.2, 0.8, 0.8])
    start = training.network.state_dict()["score.bias"].clone()
    for _ in range(20):
        training._update(pixels, truth)
    moved = (training.network.state_dict()["score.bias"] - start).abs().item()
    averaged = (training.average.module.state_dict()["score.bias"] - start).abs().item()
    assert averaged > 0.3 * moved > 0


def test_fine_tuned_on_several_scales_it_resumes_and_is_served_with_its_own_stages(
    backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path
) -> None:
    chosen = replace(recipe, canvases=160, fine_tune=1, multi_scale=True)
    assert {chosen.canvas_side(step) for step in range(chosen.steps)} == {96, 128, 160}
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    train(backbone, chosen, whole, cache_dir, workers=0)
    train(backbone, chosen, resumed, cache_dir, stop_after=7, workers=0)
    train(backbone, chosen, resumed, cache_dir, workers=0)
    assert resumed.read_bytes() == whole.read_bytes()
    stages = {key for key in load_file(whole) if key.startswith("backbone.")}
    assert stages
    assert {key.split(".")[1] for key in stages} == {"layer4"}

    detector = FcosDetector("tiny", backbone, whole, "manifest")
    training = Training(backbone, chosen, whole.with_suffix(".run"), cache_dir)
    assert training.resume()
    pixels = np.stack([np.asarray(read_photos(recipe.data, "val").photo(0)[0])])
    served = TorchEngine(detector.graph().build(), "cpu").run(pixels)
    frozen = TorchEngine(Fcos(Body(backbone.module, Normalise(backbone.preprocessing), 128), load_head(whole)), "cpu")
    for found, expected, other in zip(served, training.detect(pixels), frozen.run(pixels), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.02)
        assert np.abs(found - expected).max() < np.abs(other - expected).max()
    # The classifier that is served beside it stays as it was.
    assert detector.parameters == backbone.parameters + head_parameters(whole)


def test_a_patched_head_holds_its_patch_and_is_as_small_as_a_head(
    backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path
) -> None:
    out = tmp_path / "patched.safetensors"
    train(backbone, replace(recipe, canvases=32, patch=True, backbone_rate=0.5), out, cache_dir, workers=0)
    state = load_file(out)
    patch = {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    assert {tensor.ndim for tensor in patch.values()} == {1}
    named = dict(backbone.module.named_parameters())
    moved = [not torch.equal(tensor, named[key.removeprefix("backbone.")].half()) for key, tensor in patch.items()]
    assert any(moved)
    assert out.stat().st_size < 0.1 * sum(4 * tensor.numel() for tensor in named.values()) + 300_000


def test_pictures_are_drawn_beside_the_head(trained: Path) -> None:
    for name in ("progress.png", "boxes.png"):
        assert min(Image.open(trained.with_suffix(".run") / name).size) > 100


def test_two_processes_share_a_step(backbone: Backbone, recipe: Recipe, tmp_path: Path, cache_dir: Path) -> None:
    """By the command: the second process is a copy of it."""
    (tmp_path / "two.tsv").write_text("n1\tone\nn2\tother\n")
    (tmp_path / "models.toml").write_text(
        f'[backbones.tiny]\narchitecture = "{backbone.architecture}"\ncheckpoint = "{backbone.checkpoint}"\n'
        'label_space = "two.tsv"\n'
    )
    out = tmp_path / "head.safetensors"
    words = "--backbone tiny --devices 2 --canvases 64 --batch-size 8 --width 16 --depth 1 --validation-photos 6"
    command = [sys.executable, "-m", "service.cli", "train", "--data", recipe.data, "--out", str(out), *words.split()]
    settings = {"FIGUREGROUND_MODELS": str(tmp_path / "models.toml"), "FIGUREGROUND_CACHE_DIR": str(cache_dir)}
    done = subprocess.run(
        [*command, "--data-workers", "0"], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(out)] == [8]
    assert describe_head(out).training["steps"] == 8
    odd = subprocess.run(
        [*command, "--batch-size", "9"], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert (odd.returncode, odd.stderr) == (1, "figureground: a batch of 9 cannot be shared by 2 processes\n")
