"""HTTP side of the review: pages of labels, their pictures, decisions; JSON in and out."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from a2s.data.arrays import Bool
from a2s.errors import A2SError, DataError, StorageError
from a2s.evaluation.review.desk import Desk, Flag, Query, State
from a2s.evaluation.review.pictures import Pictures, pack, unpack
from a2s.evaluation.review.snap import snap
from a2s.labels.crf.backends import marginal_of
from a2s.labels.review import SupersededError, now
from a2s.storage import files
from a2s.storage.failures import FILE_NAME as FAILURES
from a2s.storage.parsing import first_problem, parse_json

MAX_BODY = 32 * 2**20
MAX_PAGE = 500
_BITS = "application/octet-stream"
_HERE = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
T = TypeVar("T", bound=BaseModel)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Filters(_Asked):
    least_quality: float = Field(0, ge=0, le=1)
    most_quality: float = Field(1, ge=0, le=1)
    flag: Flag | None = None
    shard: Annotated[str, Field(max_length=64)] | None = None
    state: State | None = None
    text: str = Field("", max_length=200)


class _Page(_Asked):
    query: int
    first: int = Field(ge=0)
    count: int = Field(ge=1, le=MAX_PAGE)


class _Since(_Asked):
    since: int = Field(ge=0, lt=2**62)


class _Decision(_Asked):
    row: int
    version: int
    verdict: Literal["accepted", "rejected", "fixed"]
    mask_bits: str | None = None


class _Undo(_Asked):
    row: int
    version: int


class _Snap(_Asked):
    row: int
    mask_bits: str
    stroke_bits: str
    adds: bool


def make_app(desk: Desk) -> Starlette:
    """The application, without its guard."""
    pictures = Pictures(desk)
    # Part of the address of every picture: versions and rows mean something else after a restart.
    start = secrets.token_hex(8)

    async def summary(request: Request) -> Response:
        # First, so that what is decided meanwhile comes again with the changes after it.
        version, _ = await run_in_threadpool(desk.follow)
        failures = desk.labels.folder / FAILURES
        num_failed = files.read_bytes(failures).count(b"\n") if failures.is_file() else 0
        return JSONResponse(
            {
                "labels": str(desk.labels.folder),
                "total": len(desk),
                "num_failed": num_failed,
                "has_quality": desk.quality_N is not None,
                "flags": sorted(desk.flags),
                "shards": [shard.name for shard in desk.labels.shards],
                "counts": await run_in_threadpool(desk.counts),
                "version": version,
                "start": start,
            }
        )

    async def find(request: Request) -> Response:
        asked = _parsed(_Filters, dict(request.query_params))
        query = Query(**asked.model_dump())
        number, total = await run_in_threadpool(desk.find, query)
        return JSONResponse({"query": number, "total": total})

    async def rows(request: Request) -> Response:
        asked = _parsed(_Page, dict(request.query_params))
        # What takes the desk's lock may wait for a disk, and so runs in a thread.
        page = await run_in_threadpool(desk.page, asked.query, first=asked.first, count=asked.count)
        if page is None:
            raise HTTPException(410, "this list is no longer kept; ask for it again")
        return JSONResponse({"rows": page})

    async def changes(request: Request) -> Response:
        asked = _parsed(_Since, dict(request.query_params))

        def follow() -> dict[str, object]:
            version, found = desk.follow(asked.since)
            return {
                "version": version,
                "rows": [desk.describe(row) for row in found[:MAX_PAGE]],
                "is_all": len(found) <= MAX_PAGE,
                "counts": desk.counts(),
            }

        return JSONResponse(await run_in_threadpool(follow))

    def picture(make: Callable[[int], bytes], kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            row = _row(request.path_params["row"])
            data = await run_in_threadpool(make, row)
            # The address of a picture has this start, and the version of the decision it shows.
            headers = {"Cache-Control": "private, max-age=3600"}
            return Response(data, media_type=kind, headers=headers)

        return answer

    async def decide(request: Request) -> Response:
        asked = _parsed(_Decision, await _json(request))
        row = _row(asked.row)

        def store() -> dict[str, object]:
            png = None
            if asked.mask_bits is not None:
                png = pictures.drawn(row, _mask(row, asked.mask_bits))
            desk.decide(row, asked.verdict, png, now(), version=asked.version)
            return _state(row)

        return JSONResponse(await run_in_threadpool(store))

    async def undo(request: Request) -> Response:
        asked = _parsed(_Undo, await _json(request))
        row = _row(asked.row)

        def take_back() -> dict[str, object]:
            desk.undo(row, version=asked.version)
            return _state(row)

        return JSONResponse(await run_in_threadpool(take_back))

    async def snapped(request: Request) -> Response:
        asked = _parsed(_Snap, await _json(request))
        row = _row(asked.row)

        def move() -> bytes:
            mask_hw, stroke_hw = _mask(row, asked.mask_bits), _mask(row, asked.stroke_bits)
            image_hw3, marginal = pictures.image(row), marginal_of("numba")
            return pack(snap(image_hw3, mask_hw, stroke_hw, marginal, adds=asked.adds))

        return Response(await run_in_threadpool(move), media_type=_BITS)

    def _mask(row: int, text: str) -> Bool:
        """A mask of the size at which the label is edited."""
        height, width = pictures.image(row).shape[:2]
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            raise DataError("the mask is no base64") from None
        return unpack(data, height=height, width=width)

    def _row(row: int) -> int:
        if not 0 <= row < len(desk):
            raise HTTPException(404, f"there is no label {row}")
        return row

    def _state(row: int) -> dict[str, object]:
        return {"row": desk.describe(row), "counts": desk.counts()}

    routes = [Route(path, _file(*found)) for path, found in _FILES.items()]
    routes += [
        Route("/api/summary", summary),
        Route("/api/find", find),
        Route("/api/rows", rows),
        Route("/api/changes", changes),
        Route("/api/decide", decide, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/snap", snapped, methods=["POST"]),
        Route("/thumb/{row:int}", picture(pictures.thumbnail, "image/jpeg")),
        Route("/image/{row:int}", picture(pictures.photograph, "image/jpeg")),
        Route("/mask/{row:int}", picture(pictures.mask, _BITS)),
        Route("/first/{row:int}", picture(lambda r: pictures.mask(r, is_first=True), _BITS)),
        Route("/favicon.ico", _no_icon),
    ]
    return Starlette(
        routes=routes, exception_handlers={A2SError: _user_error, HTTPException: _http_error}
    )


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return Response(files.read_bytes(_HERE / name), media_type=kind)

    return answer


def _parsed(kind: type[T], values: object) -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise HTTPException(400, first_problem(error)) from None


async def _json(request: Request) -> object:
    """The body of a request; a page elsewhere cannot send this content type unasked."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"over {MAX_BODY:,} bytes")
    try:
        return parse_json(bytes(body))
    except ValueError as error:
        raise HTTPException(400, f"no JSON ({error})") from None


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


async def _user_error(request: Request, error: Exception) -> Response:
    code = 507 if isinstance(error, StorageError) else 422
    code = 409 if isinstance(error, SupersededError) else code
    return JSONResponse({"error": str(error)}, code)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
