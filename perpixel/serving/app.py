"""The server's addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perpixel.inference.predictor import Predictor
from perpixel.serving.answers import MEDIA, Format, Segmentation, choose, color
from perpixel.serving.metrics import MEDIA as METRICS_MEDIA
from perpixel.serving.metrics import Metrics
from perpixel.serving.pool import Limits, Pool

_IMAGES = ("image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp")
_BODIES = (*_IMAGES, "application/octet-stream", "multipart/form-data")
_PATHS = ("/", "/v1/segment", "/v1/model", "/healthz", "/metrics", "/openapi.json")

# The page is one file: whatever else a browser were told to load would be somebody else's.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Class(BaseModel):
    """A class and its color, "#rrggbb"."""

    name: str
    color: str


class Model(BaseModel):
    """What is served, and what a request may ask of it."""

    name: str
    classes: list[Class]
    max_bytes: int
    max_pixels: int


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Segmentation,
        "description": "A PNG of class indices, JSON, or run lengths",
        "content": {
            MEDIA["png"]: _BINARY,
            MEDIA["rle"]: {"schema": {"$ref": "#/components/schemas/Segmentation"}},
        },
    },
    400: {"model": Problem, "description": "A multipart body that cannot be read"},
    406: {"model": Problem, "description": "An Accept header that no format fits"},
    408: {"model": Problem, "description": "The image did not arrive in time"},
    413: {"model": Problem, "description": "Too many bytes, or too many pixels"},
    415: {"model": Problem, "description": "A body of another media type"},
    422: {"model": Problem, "description": "Not an image that can be decoded, or no such format"},
    503: {"model": Problem, "description": "Too many images at once; Retry-After says when"},
    504: {"model": Problem, "description": "The image was not done in time"},
}
_MULTIPART = {
    "schema": {
        "type": "object",
        "additionalProperties": False,
        "required": ["image"],
        "properties": {"image": {"type": "string", "format": "binary"}},
    }
}
_REQUEST_BODY = {
    "required": True,
    "content": dict.fromkeys(_BODIES[:-1], _BINARY) | {"multipart/form-data": _MULTIPART},
}


def make_app(predictor: Predictor, limits: Limits) -> FastAPI:
    """An ASGI application that serves the predictor's model within the limits."""
    metrics = Metrics()
    pool = Pool(predictor, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    # FastAPI's own pages of documentation load scripts from other hosts; the schema suffices.
    app = FastAPI(
        title="perpixel",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(_counted, metrics=metrics)
    app.add_exception_handler(RequestValidationError, _invalid)
    page = resources.files("perpixel.serving").joinpath("page.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @app.post(
        "/v1/segment",
        response_class=Response,
        responses=_ANSWERS,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def segment(
        request: Request, format: Annotated[Format | None, Query()] = None
    ) -> Response:
        """The class of every pixel of an image: the body, or `image` in a multipart body.

        `format` or, without it, the Accept header says how: a PNG, JSON or run lengths.
        """
        form = format or choose(request.headers.get("accept", "*/*"))
        if form is None:
            raise HTTPException(406, f"this is answered as {', '.join(MEDIA.values())}")
        media = request.headers.get("content-type", "application/octet-stream")
        media = media.partition(";")[0].strip().lower()
        if media not in _BODIES:
            raise HTTPException(415, f"Content-Type {media!r}; there are {', '.join(_BODIES)}")
        if int(request.headers.get("content-length", "0")) > limits.max_bytes:
            raise _too_long(limits)
        limited = Request(request.scope, _limited(request.receive, limits))
        answer = await pool.segment(lambda: _image(limited, media), form)
        return Response(answer, media_type=MEDIA[form])

    @app.get("/v1/model")
    async def describe_model() -> Model:
        """The model's name, its classes in the order of their indices, and the limits."""
        classes = [
            Class(name=name, color=color(rgb))
            for name, rgb in zip(predictor.class_names, predictor.palette, strict=True)
        ]
        return Model(
            name=predictor.recipe.name,
            classes=classes,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
        )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Counts since the start, in Prometheus's text format."""
        return Response(metrics.text(), media_type=METRICS_MEDIA)

    return app


async def _image(request: Request, media: str) -> bytes:
    """The image's bytes, out of the body or of its `image` part."""
    try:
        if media == "multipart/form-data":
            async with request.form(max_files=1, max_fields=0) as parts:
                part = parts.get("image")
                if not isinstance(part, UploadFile):
                    raise HTTPException(422, "no file called image in the multipart body")
                content = await part.read()
        else:
            content = await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the sender has gone") from None
    if not content:
        raise HTTPException(422, "the image is empty")
    return content


def _limited(receive: Receive, limits: Limits) -> Receive:
    """`receive`, ending in a refusal when a body is longer than it may be or than it said."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limits.max_bytes:
            raise _too_long(limits)
        return message

    return counted


def _too_long(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the body is longer than {limits.max_bytes} bytes")


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return Response(Problem(detail=said).model_dump_json(), 422, media_type="application/json")


def _counted(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """`app`, counting every answer by its path and status."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")  # a server's start and end have none
        path = path if path in _PATHS else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.answered(path, message["status"])
            await send(message)

        try:
            await app(scope, receive, counted)
        except Exception:  # answered with 500 further out
            metrics.answered(path, 500)
            raise

    return counting
