"""Whatever is wrong with a model stops the start: exit code 1, and one line that says what."""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.fcos import FcosHead
from models.heads import HeadConfig, HeadFile, save_head
from service import cli, loading
from service.running import free_port
from tests.conftest import LITE0

BACKBONE = '[backbones.mine]\narchitecture = "test_resnet"\ncheckpoint = "mine.safetensors"\nlabel_space = "two.tsv"\n'
VIT = '[backbones.vit]\narchitecture = "test_vit"\ncheckpoint = "vit.safetensors"\nlabel_space = "two.tsv"\n'
HEAD = f'[detectors.finder]\narchitecture = "fcos_{LITE0}"\ncheckpoint = "head.safetensors"\n'
SSD = '[detectors.ssd]\narchitecture = "ssdlite320_mobilenet_v3_large"\ncheckpoint = "mine.safetensors"\n'
WRONG_HASH = f'sha256 = "{"0" * 64}"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, random_head: Path) -> Path:
    """Two checkpoints, heads for lite0 that are whole, cut short and of other numbers, and one for a flat ViT."""
    folder = tmp_path_factory.mktemp("models")
    for name, architecture in (("mine", "test_resnet"), ("vit", "test_vit")):
        save_file(timm.create_model(architecture, num_classes=2).state_dict(), folder / f"{name}.safetensors")
    (folder / "two.tsv").write_text("n1\tone\nn2\tother\n")
    whole = random_head.read_bytes()
    (folder / "head.safetensors").write_bytes(whole)
    (folder / "short.safetensors").write_bytes(whole[:-100])
    (folder / "junk.safetensors").write_bytes(b"junk")
    config = HeadConfig((8, 8, 8), width=8, depth=1)
    sha256 = hashlib.sha256((folder / "vit.safetensors").read_bytes()).hexdigest()
    save_head(folder / "vit_head.safetensors", FcosHead(config), HeadFile("vit", sha256, config))
    torch.save({"weight": torch.zeros(1)}, folder / "other.pth")
    return folder


Start = Callable[[str], str]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """What `figureground serve ARGUMENTS` says where it does not start."""

    def told(arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["figureground", "serve", "--port", str(free_port()), *arguments.split()])
        # What would take the place of this process.
        monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it starts"))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 1
        return capsys.readouterr().err

    return told


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(
    ("manifest", "chosen", "message"),
    [
        ("[backbones.mine", "--backbone mine", "models.toml is no TOML: "),
        (BACKBONE + 'labels = "x"', "--backbone mine", "models.toml: backbones.mine.labels: "),
        (BACKBONE.replace("checkpoint", "file"), "--backbone mine", "models.toml: backbones.mine.checkpoint: "),
        (BACKBONE.replace("mine.safe", "none.safe"), "--backbone mine", "'mine': no file "),
        (BACKBONE.replace("two.tsv", "none.tsv"), "--backbone mine", "'mine': label_space 'none.tsv' is none of "),
        (BACKBONE + WRONG_HASH, "--backbone mine", "'mine': mine.safetensors has sha256 "),
        (BACKBONE.replace("mine.safetensors", "other.pth"), "--backbone mine", "'mine': the checkpoint does not fit: "),
        (BACKBONE.replace("mine.safe", "junk.safe"), "--backbone mine", "'mine': junk.safetensors cannot be read: "),
        (BACKBONE.replace("test_resnet", "resnet_of_mine"), "--backbone mine", "backbone 'mine': timm has no "),
        (BACKBONE + "model_args = { nothing = 1 }", "--backbone mine", "'mine': timm cannot build it: "),
        (BACKBONE + "preprocessing = { std = [0, 1, 1] }", "--backbone mine", "backbone 'mine': std must be above 0"),
        ("", "--backbone mine", "unknown backbone 'mine'; name it as timm does"),
        (HEAD + WRONG_HASH, "--detector finder", "'finder': head.safetensors has sha256 "),
        (HEAD.replace("head.safe", "none.safe"), "--detector finder", "'finder': no file "),
        (HEAD.replace("head.safe", "junk.safe"), "--detector finder", "detector 'finder': junk.safetensors is no head"),
        (HEAD.replace("head.safe", "short.safe"), "--detector finder", "detector 'finder': short.safetensors is no "),
        (HEAD.replace("head.safe", "mine.safe"), "--detector finder", "detector 'finder': mine.safetensors is no head"),
        (HEAD.replace("lite0", "lite1"), "--detector finder", "detector 'finder': its head was trained on other "),
        (HEAD + "margin = 1", "--detector finder", "models.toml: detectors.finder.margin: "),
        (HEAD + "tuning = { margin_small = 1 }", "--detector finder", "detector 'finder': tuning of a head stands in "),
        (HEAD + 'label_space = "two.tsv"', "--detector finder", "detector 'finder': its label_space is its backbone's"),
        (HEAD.replace(f"fcos_{LITE0}", "yolo"), "--detector finder", "detector 'finder': architecture must be fcos_"),
        (
            VIT + HEAD.replace(LITE0, "vit").replace("head.safe", "vit_head.safe"),
            "--detector finder",
            "detector 'finder': a detector needs a backbone with strides 8, 16 and 32; this one has [16]",
        ),
        (SSD + WRONG_HASH, "--detector ssd", "'ssd': mine.safetensors has sha256 "),
        (SSD, "--detector ssd", "'ssd': the checkpoint does not fit: "),
        (SSD + "tuning = { margin = 1 }", "--detector ssd", "detector 'ssd': tuning has no margin; it has min_score, "),
        ("", "--detector yolo", "unknown detector 'yolo'; known are "),
        ("", "--detector fcos_resnet18.a1_in1k", "unknown detector 'fcos_resnet18.a1_in1k'; known are "),
    ],
)
def test_one_line(
    manifest: str,
    chosen: str,
    message: str,
    device: str,
    folder: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
) -> None:
    """Whatever will compute the models."""
    (folder / "models.toml").write_text(manifest)
    monkeypatch.setenv("FIGUREGROUND_MODELS", str(folder / "models.toml"))
    monkeypatch.setenv("FIGUREGROUND_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(loading, "resolve_device", lambda _: device)
    told = start(chosen)
    assert re.fullmatch(rf"figureground: {re.escape(message)}[^\n]*\n", told), told


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "there is no cuda:0: torch finds 0 GPUs; "), ("gpu", "there is no device 'gpu'; ")],
)
def test_one_line_of_the_device(device: str, message: str, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("FIGUREGROUND_DEVICE", device)
    assert re.fullmatch(rf"figureground: {re.escape(message)}[^\n]*\n", start(""))
