"""What an evaluation is asked for, by names alone, so that it can travel to other machines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.classes import Classes, resolve
from evaluation.data import open_data
from evaluation.run import Plan
from evaluation.stress import Stage, Stress, chosen, conditions
from models.label_spaces import LabelSpace
from models.served import Served

_BATCH_ON_A_GPU = 32


@dataclass(frozen=True)
class Order:
    """`data`, `boxes` and `paired` are paths or fsspec URLs; `batch` None is 1 photo on a CPU and 32 on a GPU.

    `only` are patterns of the names of conditions; photos as they are are always shown.
    """

    data: str
    arms: tuple[str, ...]
    stresses: tuple[Stress, ...] = ()
    only: tuple[str, ...] = ("*",)
    boxes: str | None = None
    paired: str | None = None
    label_space: str | None = None
    mask: str | None = None
    limit: int | None = None
    seed: int = 0
    batch: int | None = None

    def prepare(self, spaces: Iterable[LabelSpace]) -> "Prepared":
        """Lists the photos, for backbones of these label spaces. Raises `DataError`; needs no model."""
        data = open_data(self.data, self.boxes)
        partner = None if self.paired is None else open_data(self.paired)
        classes = resolve(data, spaces, self.label_space, self.mask)
        shown = chosen(conditions(self.stresses, partner is not None), self.only)
        return Prepared(self, Stage(data, classes.wnids, shown, self.seed, partner), classes)


@dataclass(frozen=True)
class Prepared:
    order: Order
    stage: Stage
    classes: Classes

    @property
    def arms(self) -> tuple[str, ...]:
        """Those that the data set can have."""
        missing = set() if self.stage.data.has_boxes else {"oracle_box"}
        if all(condition.scale == 1 for condition in self.stage.conditions):
            missing.add("rectangle")
        return tuple(arm for arm in self.order.arms if arm not in missing)

    def plan(self, served: Sequence[Served], threads: int) -> Plan:
        on_cpu = all(classifier.engine.device == "cpu" for classifier in served[0].backbones.values())
        return Plan(
            stage=self.stage,
            classes=self.classes,
            served=tuple(served),
            arms=self.arms,
            limit=self.order.limit,
            threads=threads,
            batch=self.order.batch or (1 if on_cpu else _BATCH_ON_A_GPU),
        )
