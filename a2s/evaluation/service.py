"""HTTP service: send an image, get its saliency map, cut-out or overlay; errors are JSON.

Requests that arrive while the network is busy wait, and go through it together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
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
from starlette.types import ASGIApp, Scope

from a2s import __version__
from a2s.data.images import BadImage, encode_png
from a2s.data.open_files import Held
from a2s.evaluation.listening import only_for
from a2s.evaluation.pictures.outputs import Format, Style, colour_of, encode, pictures_of
from a2s.models.predict import Answer, Logits, Picture, Probabilities, Step, to_map
from a2s.storage.machine import num_cpus
from a2s.storage.parsing import first_problem

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000
"""A person's photographs have fewer; each takes up to 10 bytes of memory per pixel."""
BATCH = 8
WAITING = 32
"""Images that may wait for the network; more are told to come again."""
IN_WORK = WAITING + BATCH
"""Requests whose images may be in memory, from the first byte to the end of the drawing."""
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


@dataclass(eq=False)
class _Job:
    picture: Picture
    answer: asyncio.Future[Answer]


class Batcher:
    """Gives the network all images that wait, up to `BATCH` at a time, in a thread."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self.num_batches = self.num_images = 0

    @property
    def num_waiting(self) -> int:
        """Images that wait for the network."""
        return len(self._jobs)

    async def predict(self, picture: Picture) -> Answer:
        """Answer of the network.

        Raises:
            asyncio.QueueFull: too many images wait already.
        """
        if len(self._jobs) >= WAITING:
            raise asyncio.QueueFull
        job = _Job(picture, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        try:
            return await job.answer
        finally:
            # Whoever gives up leaves room for others.
            with contextlib.suppress(ValueError):
                self._jobs.remove(job)

    async def work(self) -> None:
        """Serve until it is cancelled."""
        while True:
            await self._arrived.wait()
            jobs = [self._jobs.popleft() for _ in range(min(BATCH, len(self._jobs)))]
            if not self._jobs:
                self._arrived.clear()
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
    in_work, turns = asyncio.Semaphore(IN_WORK), asyncio.Semaphore(num_cpus())

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
        # Before the body is read, which takes memory.
        if in_work.locked():
            raise _later(f"{IN_WORK} images are in work; try again", after_sec=1)
        await in_work.acquire()
        over, drawing = asyncio.Event(), None
        try:
            picture = Picture("image", Held(await _uploaded(request)), "image")
            async with asyncio.timeout(ANSWER_SEC):
                answer = await batcher.predict(picture)
                if isinstance(answer, BadImage):
                    raise answer
                draw, media_type = _drawer(picture, answer, options)
                drawing = asyncio.create_task(_in_turn(draw, turns, over))
                return Response(await asyncio.shield(drawing), media_type=media_type)
        except asyncio.QueueFull:
            raise _later(f"{WAITING} images wait; try again", after_sec=1) from None
        except TimeoutError:
            raise _later(f"no answer in {ANSWER_SEC:g} s", after_sec=5) from None
        except BadImage as error:
            raise HTTPException(_CODES.get(error.reason, 422), str(error)) from None
        finally:
            over.set()
            if drawing is None:
                in_work.release()
            else:
                # Its thread cannot be interrupted, and keeps the image.
                drawing.add_done_callback(lambda _: in_work.release())

    routes = [Route("/health", health), Route("/predict", predict, methods=["POST"])]
    app = Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _as_json, 500: _failed}
    )
    return app if hosts is None else only_for(app, hosts)


def _later(detail: str, *, after_sec: int) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(after_sec)})


def _drawer(
    picture: Picture, answer: Logits | Probabilities, options: _Options
) -> tuple[Callable[[], bytes], str]:
    """What draws the picture that is wanted, and the media type of its bytes."""
    file_format = options.format or ("jpg" if options.output == "overlay" else "png")

    def draw() -> bytes:
        map_HW = to_map(answer)
        if options.output == "mask":
            return encode_png(map_HW)
        background, crop = options.background, options.crop
        style = Style(crop=crop, background=background, max_pixels=MAX_PIXELS)
        (drawing,) = pictures_of(picture, map_HW, (options.output,), style)
        return encode(drawing, file_format)

    return draw, _TYPES[file_format]


async def _in_turn(
    draw: Callable[[], bytes], turns: asyncio.Semaphore, over: asyncio.Event
) -> bytes:
    """Draw in a thread, as one of so many at a time; not at all once the request is over."""
    async with turns:
        return b"" if over.is_set() else await run_in_threadpool(draw)


async def _uploaded(request: Request) -> bytes:
    try:
        async with asyncio.timeout(UPLOAD_SEC):
            return await _image_in(request)
    except TimeoutError:
        raise HTTPException(408, f"the image did not arrive in {UPLOAD_SEC:g} s") from None


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


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"internal error ({type(error).__name__})"}, 500)
