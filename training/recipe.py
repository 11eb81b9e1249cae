"""Train a head, on a frozen backbone or with some of it: resumable, seeded, the same on a CPU and on GPUs."""

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
from torch.utils.data import DataLoader

from models.backbones import Backbone
from models.fcos import FcosHead
from models.heads import HeadConfig, HeadFile, save_head
from training import pictures
from training.canvases import Canvases
from training.measure import Localisation, localise
from training.network import Features, Tuned, channels, scales
from training.objective import losses
from training.photos import BoxedPhotos, read_photos

# An interrupted run loses no more than these.
STEPS_BETWEEN_SAVES = 250


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out; stored with the head.

    `fine_tune` is how many of the backbone's last stages are trained too, with `patch` a few numbers of all its stages
    are (`training.network.Tuned`), both at `backbone_rate` of the head's learning rate. With `multi_scale` the side of
    the canvas differs from step to step (`training.network.scales`). `batch_size` is of all processes together.
    """

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
    fine_tune: int = 0
    multi_scale: bool = False
    patch: bool = False
    backbone_rate: float = 0.05

    @property
    def steps(self) -> int:
        return self.canvases // self.batch_size

    @property
    def trains_backbone(self) -> bool:
        return self.patch or self.fine_tune > 0

    def canvas_side(self, step: int) -> int:
        """What step number `step` shows, in pixels; it follows from the seed."""
        known = scales(self.canvas_size, self.multi_scale)
        return int(np.random.default_rng((self.seed, 1, step)).choice(known)) if len(known) > 1 else known[0]


def _warmed_up(decay: float) -> Any:
    """An exponential average that forgets its random beginning: the decay grows to its value."""

    def average(averaged: Any, current: Any, steps: Any) -> None:
        now = min(decay, (1 + float(steps)) / (10 + float(steps)))
        blend: Any = get_ema_multi_avg_fn(now)  # type: ignore[no-untyped-call]
        blend(averaged, current, steps)

    return average


class Training:
    """One run in a folder: `last.ckpt` to resume from, `metrics.jsonl`, pictures of both; the head when it is done."""

    def __init__(
        self, backbone: Backbone, recipe: Recipe, folder: Path, cache: Path, fabric: Fabric | None = None
    ) -> None:
        self.backbone, self.recipe, self.folder = backbone, recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.fabric = fabric or Fabric(accelerator="auto", devices=1)
        sizes = scales(recipe.canvas_size, recipe.multi_scale)
        counts = channels(backbone, recipe.canvas_size)
        self.config = HeadConfig(counts, recipe.view_size, recipe.canvas_size, recipe.width, recipe.depth)
        if not recipe.trains_backbone:
            self.features = Features(backbone, sizes, recipe.view_size, str(self.fabric.device), cache)
        # Only here: building the backbone draws random numbers too, where it is not built already.
        self.fabric.seed_everything(recipe.seed, verbose=False)
        head = FcosHead(self.config)
        network: FcosHead | Tuned = head
        if recipe.trains_backbone:
            network = Tuned(head, backbone, sizes, recipe.fine_tune, recipe.patch)
        # Depthwise convolutions are up to three times as fast this way on a CPU.
        network = network.to(memory_format=torch.channels_last)
        groups = _groups(network, recipe)
        optimizer = torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.average = AveragedModel(network, multi_avg_fn=_warmed_up(recipe.ema_decay), use_buffers=True)
        # A rise of exactly one step, as 0.05 of 20 would be, makes torch divide by zero.
        rise = min(0.75, max(0.05, 1.5 / recipe.steps))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in groups], total_steps=recipe.steps, pct_start=rise
        )
        self.step = 0

    def resume(self) -> bool:
        """Take up the run in the folder where there is one; False where there is none."""
        path = self.folder / "last.ckpt"
        if not path.exists():
            return False
        state = self.fabric.load(path)
        if Recipe(**state["recipe"]) != self.recipe:
            raise ValueError(f"{self.folder} holds a run of another recipe; choose another --out or remove it")
        self.network.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "head": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
        }
        fresh = self.folder / "fresh.ckpt"
        self.fabric.save(fresh, state)
        if self.fabric.is_global_zero:
            fresh.replace(self.folder / "last.ckpt")
        self.fabric.barrier()

    def run(
        self, photos: BoxedPhotos, validation: BoxedPhotos, stop_after: int | None = None, workers: int = 1
    ) -> Localisation:
        """Train to the end, or to step `stop_after`; what the averaged head then reaches on the validation photos."""
        recipe = self.recipe
        last = min(recipe.steps, stop_after or recipe.steps)
        canvases = Canvases(photos, recipe.view_size, recipe.seed, recipe.steps * recipe.batch_size)
        batches = [list(self._numbers(step)) for step in range(self.step, last)]
        loader = DataLoader(canvases, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
        found, costs = None, []
        with progress_bar(self.fabric.is_global_zero) as progress:
            task = progress.add_task("training", total=last, completed=self.step)
            for pixels, truth in loader:
                costs.append(self._update(pixels, truth))
                progress.update(task, advance=1, description=f"training, loss {costs[-1]:.3f}")
                if self.step % STEPS_BETWEEN_SAVES == 0 or self.step == last:
                    found = self.validate(validation)
                    self._note(float(np.mean(costs)), found, validation)
                    self.save()
                    costs.clear()
        return found or self.validate(validation)

    def _numbers(self, step: int) -> range:
        """Of this process's canvases of a step."""
        share = self.recipe.batch_size // self.fabric.world_size
        start = step * self.recipe.batch_size + self.fabric.global_rank * share
        return range(start, start + share)

    def _update(self, pixels: Tensor, truth: Tensor) -> float:
        self.network.train()
        side = self.recipe.canvas_side(self.step)
        logits, boxes = self._answer(self.network, pixels, side)
        points = self._head.points_at(side)
        cost = losses(logits, boxes, points, truth.to(logits.device)).total
        self.optimizer.zero_grad()
        self.fabric.backward(cost)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=5.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network.module)
        self.step += 1
        return float(cost.detach())

    def _answer(self, network: Any, pixels: Tensor, side: int) -> Any:
        if self.recipe.trains_backbone:
            return network(pixels.to(self.fabric.device), side)
        return network(self.features(pixels, side))

    @property
    def _head(self) -> FcosHead:
        """The averaged one."""
        module: Any = self.average.module
        head: FcosHead = module.head if self.recipe.trains_backbone else module
        return head

    def validate(self, photos: BoxedPhotos) -> Localisation:
        """By the first process; known to all."""
        found = None
        if self.fabric.is_global_zero:
            found = localise(self.detect, photos, self._validated(photos), self.recipe.view_size)
        known: Localisation = self.fabric.broadcast(found)
        return known

    def _validated(self, photos: BoxedPhotos) -> "np.ndarray[Any, np.dtype[np.int64]]":
        order = np.random.default_rng(0).permutation(photos.labelled())
        return order[: self.recipe.validation_photos]

    def detect(self, pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> tuple[Any, Any]:
        """The averaged head's scores and boxes, as `training.measure.Detect`."""
        self.average.eval()
        with torch.inference_mode():
            logits, boxes = self._answer(self.average, torch.from_numpy(pixels), self.recipe.canvas_size)
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
        module: Any = self.average.module
        if self.fabric.is_global_zero:
            save_head(path, self._head, description, module.trained() if self.recipe.trains_backbone else None)

    def _note(self, loss: float, found: Localisation, validation: BoxedPhotos) -> None:
        """`loss` is the mean since the last note, of the first process."""
        if not self.fabric.is_global_zero:
            return
        row = {"step": self.step, "loss": round(loss, 4), **asdict(found)}
        metrics = self.folder / "metrics.jsonl"
        with metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        pictures.draw_progress(rows, self.folder / "progress.png")
        shown = self._validated(validation)[: pictures.PHOTOS]
        pictures.draw_boxes(self.detect, validation, shown, self.recipe.view_size, self.folder / "boxes.png")
        self.fabric.print(
            f"step {self.step}: loss {loss:.3f}, CorLoc {found.corloc:.3f} (of three {found.corloc_of_three:.3f}), "
            f"mean IoU {found.mean_iou:.3f}"
        )


def _groups(network: FcosHead | Tuned, recipe: Recipe) -> list[dict[str, Any]]:
    rate = recipe.learning_rate
    if isinstance(network, FcosHead):
        return [{"params": list(network.parameters()), "lr": rate}]
    # A smaller rate: the backbone knows much already.
    tuned = {"params": list(network.trained().values()), "lr": rate * recipe.backbone_rate}
    return [{"params": list(network.head.parameters()), "lr": rate}, tuned]


def progress_bar(shown: bool = True) -> Progress:
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not shown)


def train(
    backbone: Backbone,
    recipe: Recipe,
    out: Path,
    cache: Path,
    stop_after: int | None = None,
    devices: int | str = "auto",
    workers: int = 1,
) -> Localisation:
    """The whole of `figureground train`: read, resume or start, train, write the head to `out`.

    `devices` are GPUs, or processes on a CPU; "auto" is all GPUs, or one process. Raises `ValueError` and what loading
    a backbone raises.
    """
    processes = max(1, torch.cuda.device_count()) if devices == "auto" else int(devices)
    if recipe.batch_size % processes:
        raise ValueError(f"a batch of {recipe.batch_size} cannot be shared by {processes} processes")
    photos, validation = read_photos(recipe.data, "train"), read_photos(recipe.data, "val")
    fabric = Fabric(accelerator="auto", devices=processes)
    # The other processes run the same command from its beginning.
    fabric.launch()
    training = Training(backbone, recipe, out.with_suffix(".run"), cache, fabric)
    if training.resume():
        fabric.print(f"resumed at step {training.step} of {recipe.steps}")
    found = training.run(photos, validation, stop_after, workers)
    training.export(out, found)
    return found
