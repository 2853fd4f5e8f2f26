"""HTTP service: send an image, get its saliency map, cut-out or overlay; errors are JSON.

Requests that arrive while the network is busy wait, and go through it together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from python_multipart.exceptions import FormParserError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from a2s import __version__
from a2s.data.images import BadImage, encode_png
from a2s.data.open_files import Held
from a2s.evaluation.pictures.outputs import Format, Style, colour_of, encode, pictures_of
from a2s.models.predict import Answer, Picture, Step, to_map
from a2s.storage.parsing import first_problem

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000
"""A person's photographs have fewer; each takes up to 10 bytes of memory per pixel."""
BATCH = 8
WAITING = 32
"""Images that may wait for the network; more are told to come again."""
UPLOAD_SEC, ANSWER_SEC = 30.0, 60.0
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_CODES = {"pixel_bomb": 413, "unsupported": 415, "memory": 503}
"""By the reason of a bad image; other reasons are 422."""
_FORM_ROOM = 65_536
# It would print what is wrong with a form, which the answer says.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


class _Options(BaseModel):
    """What is wanted, from the address."""

    model_config = ConfigDict(extra="forbid")

    output: Literal["mask", "cutout", "overlay"] = "mask"
    crop: bool = False
    background: str | None = None
    format: Format | None = None

    @field_validator("background")
    @classmethod
    def _colour(cls, background: str | None) -> str | None:
        if background not in (None, "blur"):
            try:
                colour_of(background)
            except ValueError:
                raise ValueError("give a colour, such as white or #ff8800, or blur") from None
        return background

    @model_validator(mode="after")
    def _of_cutouts(self) -> _Options:
        if self.output != "cutout" and (self.crop or self.background or self.format):
            raise ValueError("crop, background and format are for output=cutout")
        if self.format == "jpg" and self.background is None:
            raise ValueError("format jpg has no transparency; add a background, or take png")
        return self


@dataclass
class _Job:
    picture: Picture
    answer: asyncio.Future[Answer]


class Batcher:
    """Gives the network all images that wait, up to `BATCH` at a time, in a thread."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(WAITING)
        self.num_batches = self.num_images = 0

    @property
    def num_waiting(self) -> int:
        """Images that wait for the network."""
        return self._jobs.qsize()

    async def predict(self, picture: Picture) -> Answer:
        """Answer of the network.

        Raises:
            asyncio.QueueFull: too many images wait already.
        """
        job = _Job(picture, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.answer

    async def work(self) -> None:
        """Serve until it is cancelled."""
        while True:
            jobs = [await self._jobs.get()]
            while len(jobs) < BATCH and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
            # Whoever has gone away needs no answer.
            if not (wanted := [job for job in jobs if not job.answer.done()]):
                continue
            try:
                answers = await run_in_threadpool(self._step, [job.picture for job in wanted])
            except Exception as error:
                # It belongs to these requests; the service goes on.
                for job in wanted:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            self.num_batches += 1
            self.num_images += len(wanted)
            for job, answer in zip(wanted, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)


def make_service(step: Step, *, model: str, hosts: frozenset[str] | None = None) -> ASGIApp:
    """The application. `hosts`: names under which it answers; None is any.

    A page elsewhere reaches a service of this machine by another name for its address.
    """
    batcher = Batcher(step)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    async def health(request: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "version": __version__,
                "model": model,
                "waiting": batcher.num_waiting,
                "images": batcher.num_images,
                "batches": batcher.num_batches,
            }
        )

    async def predict(request: Request) -> Response:
        try:
            options = _Options.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise HTTPException(400, first_problem(error)) from None
        try:
            async with asyncio.timeout(UPLOAD_SEC):
                data = await _image_in(request)
        except TimeoutError:
            raise HTTPException(408, f"the image did not arrive in {UPLOAD_SEC:g} s") from None
        try:
            async with asyncio.timeout(ANSWER_SEC):
                return await _drawn(batcher, Picture("image", Held(data), "image"), options)
        except asyncio.QueueFull:
            raise HTTPException(
                503, f"{WAITING} images wait; try again", {"Retry-After": "1"}
            ) from None
        except TimeoutError:
            raise HTTPException(
                503, f"no answer in {ANSWER_SEC:g} s", {"Retry-After": "5"}
            ) from None
        except BadImage as error:
            raise HTTPException(_CODES.get(error.reason, 422), str(error)) from None

    routes = [Route("/health", health), Route("/predict", predict, methods=["POST"])]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _as_json, 500: _failed}
    )
    return app if hosts is None else _only_for(app, hosts)


async def _drawn(batcher: Batcher, picture: Picture, options: _Options) -> Response:
    answer = await batcher.predict(picture)
    if isinstance(answer, BadImage):
        raise answer
    file_format = options.format or ("jpg" if options.output == "overlay" else "png")

    def draw() -> bytes:
        map_HW = to_map(answer)
        if options.output == "mask":
            return encode_png(map_HW)
        background, crop = options.background, options.crop
        style = Style(crop=crop, background=background, max_pixels=MAX_PIXELS)
        (drawing,) = pictures_of(picture, map_HW, (options.output,), style)
        return encode(drawing, file_format)

    return Response(await run_in_threadpool(draw), media_type=_TYPES[file_format])


async def _image_in(request: Request) -> bytes:
    """The image of a request: its body, or the field `file` of a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    limit = MAX_BYTES + _FORM_ROOM * is_form
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise HTTPException(413, f"over {MAX_BYTES:,} bytes")
        if not is_form:
            return bytes(body)
        return await _file_of(request.scope, bytes(body))
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed") from None


async def _file_of(scope: Scope, body: bytes) -> bytes:
    """The field `file` of a form that has arrived as a whole."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(scope, receive).form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(400, "the form has no file in its field `file`")
            return await file.read()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"not a form ({error})") from None


def _only_for(app: ASGIApp, hosts: frozenset[str]) -> ASGIApp:
    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").decode("latin-1")
        if scope["type"] == "http" and host.rsplit(":", 1)[0] not in hosts:
            answer = JSONResponse({"error": f"this service answers at {sorted(hosts)}"}, 403)
            await answer(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"internal error ({type(error).__name__})"}, 500)
