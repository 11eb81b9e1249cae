"""The journal's paths: POST /feedback, POST /feedback/batch, GET /experiment, GET /answers."""

import asyncio
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from models.label_spaces import LABEL_SPACES, LabelSpace, label_space
from models.served import Served
from service import experiment as experiments
from service import metrics
from service.database import DatabaseAway
from service.drift import Windows
from service.feedback import FindSpace, Learnt, Said, learn
from service.journal import Journal
from service.problems import MEDIA_TYPE, Problem, as_problem, refused
from service.recent import Wanted, recent
from service.requests import json_object, media_type, one_of_each, read_body
from service.series import series
from service.settings import settings

# What these may raise, to be answered by `problem`.
ERRORS = (Problem, ValidationError, DatabaseAway, TimeoutError, ClientDisconnect)
_MAX_BYTES = 64 * 1024
_MAX_BATCH_BYTES = 4 * 2**20
_MAX_WORDS = 10_000


async def feedback(request: Request) -> Response:
    """The true label of an earlier answer."""
    body = await _body(request, "application/json", _MAX_BYTES)
    (learnt,) = await _learn(request, [_said(body)])
    if isinstance(learnt, Problem):
        raise learnt
    return _json(learnt.as_answer())


async def feedback_batch(request: Request) -> Response:
    """One word a line; each has a result or an error of its own, in order."""
    body = await _body(request, "application/x-ndjson", _MAX_BATCH_BYTES)
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > _MAX_WORDS:
        raise Problem(413, f"Send at most {_MAX_WORDS} lines at once.")
    read = [_said_or_problem(line) for line in lines]
    learnt = iter(await _learn(request, [said for said in read if isinstance(said, Said)]))
    request_id = request.state.request_id
    results = [_result(next(learnt) if isinstance(said, Said) else said, request_id) for said in read]
    return _json({"results": results})


async def experiment(request: Request) -> Response:
    """The running comparison."""
    asked = experiments.parse(request.query_params)
    database = _journal(request).database
    windows = Windows(settings().drift_hours, settings().drift_reference_hours)
    async with asyncio.timeout(settings().deadline_seconds):
        found = await asyncio.to_thread(experiments.experiment, database, asked, windows)
        if asked.series is not None:
            points = await asyncio.to_thread(series, database, asked, asked.series)
            for name, backbone in found["backbones"].items():
                backbone["series"] = points.get(name, [])
    served: Served = request.app.state.served
    if not found["backbones"] and asked.detector not in (None, *served.detectors):
        raise Problem(422, f"detector {asked.detector!r} has no answers; served are: {', '.join(served.detectors)}")
    return _json(found)


async def answers(request: Request) -> Response:
    """The latest answers, without photos."""
    wanted = Wanted.model_validate(one_of_each(request.query_params.multi_items()))
    database = _journal(request).database
    async with asyncio.timeout(settings().deadline_seconds):
        found = await asyncio.to_thread(recent, database, wanted, _find_space(request.app.state.served))
    return _json({"answers": found})


async def problem(request: Request, error: Exception) -> Response:
    """An error of one of these as its response."""
    told = as_problem(error)
    return Response(refused(told, request.state.request_id), told.status, told.headers, MEDIA_TYPE)


def _journal(request: Request) -> Journal:
    journal: Journal | None = request.app.state.journal
    if journal is None:
        raise Problem(404, "The journal is off: FIGUREGROUND_JOURNAL_URL is empty.")
    return journal


async def _learn(request: Request, said: list[Said]) -> list[Learnt | Problem]:
    async with asyncio.timeout(settings().deadline_seconds):
        results = await learn(_journal(request), said, _find_space(request.app.state.served), metrics.rows_that_wait)
    for result in results:
        if isinstance(result, Learnt) and result.new and result.correct is not None:
            metrics.count_feedback(result.backbone, result.correct)
    return results


def _find_space(served: Served) -> FindSpace:
    def space(backbone: str, name: str) -> LabelSpace | None:
        """An answer of another machine may be of a backbone that is not served here."""
        spaces = served.backbones[backbone].spaces if backbone in served.backbones else {}
        return spaces.get(name) or (label_space(name) if name in LABEL_SPACES else None)

    return space


def _said(line: bytes) -> Said:
    return Said.model_validate(json_object(line, 'Send a JSON object, {"request_id": "...", "label": "..."}.'))


def _said_or_problem(line: bytes) -> Said | Problem:
    try:
        return _said(line)
    except (Problem, ValidationError) as error:
        return as_problem(error)


def _result(learnt: Learnt | Problem, request_id: str) -> dict[str, Any]:
    if isinstance(learnt, Problem):
        return {"error": orjson.Fragment(refused(learnt, request_id))}
    return learnt.as_answer()


async def _body(request: Request, wanted: str, limit: int) -> bytes:
    if media_type(request) != wanted:
        raise Problem(415, f"Send {wanted}.")
    return await read_body(request, limit)


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
