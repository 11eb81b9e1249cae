"""The same evaluation on Ray Data: parts are judged by actors with models of their own, on one machine or many.

Every machine reads the photos itself, so that a path must mean the same on all of them; an fsspec URL does. The
results are written by the one machine that asked.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from evaluation.order import Order
from evaluation.parts import Photos
from evaluation.run import Answered, Part, Plan, judge_part
from models.engines import EngineError

if TYPE_CHECKING:
    from service.settings import Settings


class PartJudge:
    """An actor: loads the models and lists the photos once, then answers for parts.

    Raises `RuntimeError` where its photos or models are not those of `identity`, the plan's.
    """

    def __init__(self, order: Order, settings: "Settings", identity: Mapping[str, Any]) -> None:
        from service import loading

        served = loading.load(settings)
        spaces = [classifier.model.label_space for classifier in served.backbones.values()]
        self.plan = order.prepare(spaces).plan([served], threads=1)
        self.parts = self.plan.parts
        differs = [name for name, value in identity.items() if self.plan.identity[name] != value]
        if differs:
            raise RuntimeError(f"a machine of the cluster has other {', '.join(differs)} than the one that asked")

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """`number` (N,) of parts -> the same, and their rows and photos as JSON, whose numbers are exact."""
        answers = []
        for number in batch["number"]:
            rows, photos = judge_part(self.plan, self.parts[int(number)])
            answers.append(json.dumps([rows, asdict(photos)]))
        return {"number": batch["number"], "answer": np.array(answers, dtype=object)}


@dataclass(frozen=True)
class RayWorkers:
    """`address` of a cluster; None starts one on this machine. `actors` None is one a core, or one a GPU."""

    order: Order
    settings: "Settings"
    address: str | None = None
    actors: int | None = None

    def __call__(self, plan: Plan, parts: Sequence[Part]) -> Iterator[Answered]:
        """Part by part, as they are done. Raises `EngineError` where the cluster fails."""
        try:
            yield from self._answers(plan, parts)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"Ray: {reason}") from error

    def _answers(self, plan: Plan, parts: Sequence[Part]) -> Iterator[Answered]:
        if not ray.is_initialized():
            ray.init(
                address=self.address or "local",
                include_dashboard=None if self.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        sizes = {number: len(indices) for number, indices in parts}
        on_gpu = any(one.engine.device != "cpu" for one in plan.served[0].backbones.values())
        actors = self.actors or int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1))
        answers = ray.data.from_items([{"number": number} for number in sizes]).map_batches(
            PartJudge,
            fn_constructor_args=(self.order, self.settings, plan.identity),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=max(1, min(actors, len(sizes)))),
            num_gpus=1 if on_gpu else None,
        )
        for answer in answers.iter_rows():
            rows, photos = json.loads(answer["answer"])
            yield int(answer["number"]), sizes[int(answer["number"])], rows, Photos(**photos)
