import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.fcos import FcosHead
from models.heads import (
    BUNDLED,
    HeadConfig,
    HeadError,
    HeadFile,
    Tuning,
    describe_head,
    head_parameters,
    load_head,
    retune,
    save_head,
)

CONFIG = HeadConfig((4, 6, 8), view_size=32, canvas_size=64, width=8, depth=1)
DESCRIPTION = HeadFile(
    "resnet18.a1_in1k", "ab" * 32, CONFIG, Tuning(0.2, 0.1, 0.3, 0.9, 0.6), {"recipe": {"seed": 3}, "photos": None}
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder of its own" / "head.safetensors"
    save_head(path, trained(), DESCRIPTION)
    return path


def trained() -> FcosHead:
    """Not as it was initialised: running statistics and all biases have values of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = FcosHead(CONFIG)
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return head


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with other metadata; None removes a key."""
    with safe_open(path, framework="pt") as file:
        raw = json.loads(file.metadata()["figureground"])
    raw = {key: value for key, value in {**raw, **changes}.items() if value is not None}
    save_file(load_file(path), path, {"figureground": json.dumps(raw)})
    return path


def test_what_is_saved_is_what_is_loaded(saved: Path) -> None:
    assert describe_head(saved) == DESCRIPTION
    head, original = load_head(saved), trained().eval()
    assert not head.training
    levels = [torch.randn(2, count, side, side) for count, side in zip(CONFIG.channels, (8, 4, 2), strict=True)]
    with torch.inference_mode():
        for found, expected in zip(head(levels), original(levels), strict=True):
            torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_a_file_is_half_precision_and_has_no_points(saved: Path) -> None:
    state = load_file(saved)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert not any("points" in key or "num_batches_tracked" in key for key in state)


def test_the_same_head_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_head(other, trained(), DESCRIPTION)
    assert other.read_bytes() == saved.read_bytes()


def test_parameters_are_what_was_learned(saved: Path) -> None:
    assert head_parameters(saved) == sum(parameter.numel() for parameter in trained().parameters())


def test_values_beyond_half_precision_are_kept(tmp_path: Path) -> None:
    head = trained()
    head.get_buffer("norms.0.running_var").fill_(1e6)
    save_head(tmp_path / "head.safetensors", head, DESCRIPTION)
    found = load_head(tmp_path / "head.safetensors").get_buffer("norms.0.running_var")
    torch.testing.assert_close(found, torch.full((4,), 1e6))


@pytest.mark.parametrize(
    ("small", "large", "area_fraction", "expected"),
    [(0.1, 0.1, 0.3, 0.1), (-0.1, 0.2, 0.0, -0.1), (-0.1, 0.2, 1.0, 0.2), (-0.1, 0.2, 0.5, 0.05)],
)
def test_margin(small: float, large: float, area_fraction: float, expected: float) -> None:
    tuning = Tuning(margin_small=small, margin_large=large)
    assert tuning.margin(area_fraction, 100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("longer_side", "closer", "pixels"),
    [(100, 0.0, 120), (100, 0.2, 80), (60, 0.3, 48), (40, 0.0, 48), (20, 0.0, 48), (20, 0.4, 48), (0, 0.0, 48)],
)
def test_a_crop_has_some_pixels_at_least(longer_side: float, closer: float, pixels: float) -> None:
    margin = Tuning(margin_small=0.1, margin_large=0.1, min_crop=48).margin(0.2, longer_side, closer)
    # A box of no extent counts as one of a pixel.
    assert max(longer_side, 1) * (1 + 2 * margin) == pytest.approx(pixels)


@pytest.mark.parametrize(
    ("slope", "offset", "expected"),
    [
        (1, 0, [0, 0.2, 0.5, 0.9, 1]),
        (2, 0, [0, 1 / 17, 0.5, 81 / 82, 1]),
        (1, np.log(2), [0, 1 / 3, 2 / 3, 18 / 19, 1]),
    ],
)
def test_calibrated(slope: float, offset: float, expected: list[float]) -> None:
    scores = np.array([0, 0.2, 0.5, 0.9, 1], np.float32)
    found = Tuning(score_slope=slope, score_offset=offset).calibrated(scores)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert Tuning().calibrated(scores[:0]).shape == (0,)


@settings(deadline=None)
@given(
    slope=st.one_of(st.floats(0.05, 20), st.floats(-2, 0)),
    offset=st.floats(-8, 8),
    probability=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.2, 1 - 1e-7, 1.0])),
    seed=st.integers(0, 2**32 - 1),
)
@example(slope=12.0, offset=0.0, probability=8.7e-72, seed=0)
@example(slope=12.0, offset=0.0, probability=1.8048514e-35, seed=0)
def test_no_score_below_the_uncalibrated_becomes_the_probability(
    slope: float, offset: float, probability: float, seed: int
) -> None:
    tuning = Tuning(score_slope=slope, score_offset=offset)
    least = tuning.uncalibrated(probability)
    logits = np.random.default_rng(seed).normal(0, 6, 1000)
    # And those right beside it.
    near = least * (1 + np.linspace(-1e-5, 1e-5, 101))
    scores = np.clip(np.concatenate([1 / (1 + np.exp(-logits)), near, [0, 1]]), 0, 1).astype(np.float32)
    assert (scores[tuning.calibrated(scores) >= probability] >= least).all()


def test_uncalibrated() -> None:
    tuning = Tuning(score_slope=2.0, score_offset=np.log(2))
    (probability,) = tuning.calibrated(np.array([0.3], np.float32))
    assert tuning.uncalibrated(probability) == pytest.approx(0.3, abs=1e-5)


def test_retuned(saved: Path) -> None:
    """Other numbers, the same weights, and still readable by all."""
    before = load_file(saved)
    retune(saved, Tuning(score_slope=1.5))
    assert describe_head(saved) == replace(DESCRIPTION, tuning=Tuning(score_slope=1.5))
    after = load_file(saved)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert saved.stat().st_mode & 0o777 == 0o644
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\0" * 64])
def test_a_file_that_is_no_head(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    if content is not None:
        path.write_bytes(content)
    for read in (describe_head, load_head):
        with pytest.raises(HeadError, match="no head file" if content is None else "is no head that"):
            read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": None},
        {"config": None},
        {"tuning": None},
        {"config": {**asdict(CONFIG), "anchors": 9}},
        {"config": {**asdict(CONFIG), "canvas_size": 100}},
        {"tuning": {"min_score": 0.1, "temperature": 2}},
    ],
    ids=str,
)
def test_metadata_that_is_not_understood(changes: dict[str, Any], saved: Path) -> None:
    with pytest.raises(HeadError, match=r"head\.safetensors is no head that"):
        describe_head(rewritten(saved, **changes))


def test_any_other_safetensors_file_is_no_head(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(HeadError, match=r"other\.safetensors is no head that"):
        describe_head(path)


@pytest.mark.parametrize("changes", [{"depth": 2}, {"depth": 0}, {"width": 16}, {"channels": (4, 6, 9)}], ids=str)
def test_tensors_that_do_not_fit_the_description(changes: dict[str, Any], saved: Path) -> None:
    config = asdict(replace(CONFIG, **changes))
    with pytest.raises(HeadError, match=r"^head\.safetensors does not fit its own description: [^\n]+$"):
        load_head(rewritten(saved, config=config))


@pytest.mark.parametrize("size", [100, 48, 1])
def test_a_canvas_that_the_strides_do_not_divide(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        HeadConfig((4, 4, 4), canvas_size=size)


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_bundled_heads(path: Path) -> None:
    description = describe_head(path)
    assert path.stem == f"fcos_{description.backbone.split('.')[0]}.figureground"
    assert path.stat().st_size < 1_500_000
    for tensor in load_head(path).state_dict().values():
        assert tensor.isfinite().all()
    # Where its photos lay on the machine that trained it is nobody's business.
    assert "/" not in json.dumps(description.training)
