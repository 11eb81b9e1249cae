"""Train a head on a frozen backbone: resumable, seeded, the same on a CPU and a GPU."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from models.backbones import Backbone, example_pixels
from models.engines import Engine, Graph, make_engine, resolve_device
from models.fcos import Body, FcosHead
from models.heads import HeadConfig, HeadFile, save_head
from models.normalise import Normalise
from training.canvases import Canvases
from training.measure import Localisation, localise
from training.objective import losses
from training.photos import BoxedPhotos, read_photos

# An interrupted run loses no more than these.
STEPS_BETWEEN_SAVES = 250


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out; stored with the head."""

    data: str
    canvases: int = 64_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    seed: int = 0
    validation_photos: int = 2_000
    view_size: int = 64
    canvas_size: int = 128
    width: int = 96
    depth: int = 2

    @property
    def steps(self) -> int:
        return self.canvases // self.batch_size


class Features:
    """The frozen backbone: computed by the engine that serves it, since nothing flows back into it."""

    def __init__(self, backbone: Backbone, canvas_size: int, view_size: int, cache: Path) -> None:
        self.device = resolve_device("auto")
        body = Body(backbone.module, Normalise(backbone.preprocessing), canvas_size)
        self.channels = body.channels
        graph = Graph(
            kind=f"features|{backbone.signature}|{canvas_size}|{view_size}",
            weights=backbone.sha256,
            build=lambda: body,
            examples=lambda: (example_pixels(view_size),),
            inputs=("pixels",),
            outputs=("stride8", "stride16", "stride32"),
        )
        threads = torch.get_num_threads()
        self.engine: Engine = make_engine(graph, "auto", self.device, cache, threads)

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """uint8 (N, S, S, 3) -> three maps on the training device."""
        levels = self.engine.run(pixels.cpu().numpy())
        return [torch.from_numpy(level).to(self.device, memory_format=torch.channels_last) for level in levels]


def _warmed_up(decay: float) -> Any:
    """An exponential average that forgets its random beginning: the decay grows to its value."""

    def average(averaged: Any, current: Any, steps: Any) -> None:
        now = min(decay, (1 + float(steps)) / (10 + float(steps)))
        blend: Any = get_ema_multi_avg_fn(now)  # type: ignore[no-untyped-call]
        blend(averaged, current, steps)

    return average


class Training:
    """One run in a folder: `last.ckpt` to resume from, `metrics.jsonl`, and the head when it is done."""

    def __init__(self, backbone: Backbone, recipe: Recipe, folder: Path, cache: Path) -> None:
        self.backbone, self.recipe, self.folder = backbone, recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.fabric = Fabric(accelerator="auto", devices=1)
        self.features = Features(backbone, recipe.canvas_size, recipe.view_size, cache)
        self.config = HeadConfig(
            self.features.channels, recipe.view_size, recipe.canvas_size, recipe.width, recipe.depth
        )
        # Only here: building the backbone draws random numbers too, where it is not built already.
        self.fabric.seed_everything(recipe.seed, verbose=False)
        # Depthwise convolutions are up to three times as fast this way on a CPU.
        head = FcosHead(self.config).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.head, self.optimizer = self.fabric.setup(head, optimizer)
        self.average = AveragedModel(head, multi_avg_fn=_warmed_up(recipe.ema_decay), use_buffers=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.05
        )
        self.step = 0

    def resume(self) -> bool:
        """Take up the run in the folder where there is one; False where there is none."""
        path = self.folder / "last.ckpt"
        if not path.exists():
            return False
        state = self.fabric.load(path)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{self.folder} holds a run of another recipe; choose another --out or remove it")
        self.head.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "head": self.head.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
        }
        fresh = self.folder / "fresh.ckpt"
        self.fabric.save(fresh, state)
        fresh.replace(self.folder / "last.ckpt")

    def run(
        self, photos: BoxedPhotos, validation: BoxedPhotos, stop_after: int | None = None, workers: int = 1
    ) -> Localisation:
        """Train to the end, or to step `stop_after`; what the averaged head then reaches on the validation photos."""
        recipe = self.recipe
        last = min(recipe.steps, stop_after or recipe.steps)
        canvases = Canvases(photos, recipe.view_size, recipe.seed, recipe.steps * recipe.batch_size)
        ahead = Subset(canvases, range(self.step * recipe.batch_size, last * recipe.batch_size))
        loader = DataLoader(ahead, recipe.batch_size, num_workers=workers, persistent_workers=workers > 0)
        found = None
        with progress_bar() as progress:
            task = progress.add_task("training", total=last, completed=self.step)
            for pixels, truth in loader:
                loss = self._update(pixels, truth)
                progress.update(task, advance=1, description=f"training, loss {loss:.3f}")
                if self.step % STEPS_BETWEEN_SAVES == 0 or self.step == last:
                    found = self.validate(validation)
                    self._note(loss, found)
                    self.save()
        return found or self.validate(validation)

    def _update(self, pixels: Tensor, truth: Tensor) -> float:
        self.head.train()
        logits, boxes = self.head(self.features(pixels))
        points = self.average.module.get_buffer("points")
        cost = losses(logits, boxes, points, truth.to(logits.device)).total
        self.optimizer.zero_grad()
        self.fabric.backward(cost)
        self.fabric.clip_gradients(self.head, self.optimizer, max_norm=5.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.head.module)
        self.step += 1
        return float(cost.detach())

    def validate(self, photos: BoxedPhotos) -> Localisation:
        usable = photos.labelled()
        order = np.random.default_rng(0).permutation(usable)
        return localise(self.detect, photos, order[: self.recipe.validation_photos], self.recipe.view_size)

    def detect(self, pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> tuple[Any, Any]:
        """The averaged head's scores and boxes, as `training.measure.Detect`."""
        self.average.eval()
        with torch.inference_mode():
            logits, boxes = self.average(self.features(torch.from_numpy(pixels)))
        return logits.sigmoid().cpu().numpy(), boxes.clamp(0, 1).cpu().numpy()

    def export(self, path: Path, found: Localisation) -> None:
        self.average.eval()
        # Where the photos lay on the machine that trained it is nobody's business.
        recipe = {**asdict(self.recipe), "data": self.recipe.data.partition(":")[0]}
        description = HeadFile(
            backbone=self.backbone.name,
            backbone_sha256=self.backbone.sha256,
            config=self.config,
            training={"recipe": recipe, "steps": self.step, "validation": asdict(found)},
        )
        head: Any = self.average.module
        save_head(path, head, description)

    def _note(self, loss: float, found: Localisation) -> None:
        row = {"step": self.step, "loss": round(loss, 4), **asdict(found)}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.fabric.print(
            f"step {self.step}: loss {loss:.3f}, CorLoc {found.corloc:.3f} (of three {found.corloc_of_three:.3f}), "
            f"mean IoU {found.mean_iou:.3f}"
        )


def progress_bar() -> Progress:
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns)


def train(backbone: Backbone, recipe: Recipe, out: Path, cache: Path, stop_after: int | None = None) -> Localisation:
    """The whole of `figureground train`: read, resume or start, train, write the head to `out`."""
    photos, validation = read_photos(recipe.data, "train"), read_photos(recipe.data, "val")
    training = Training(backbone, recipe, out.with_suffix(".run"), cache)
    if training.resume():
        training.fabric.print(f"resumed at step {training.step} of {recipe.steps}")
    found = training.run(photos, validation, stop_after)
    training.export(out, found)
    return found
