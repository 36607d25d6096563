"""The server's HTTP routes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Message, Receive

from perpixel.inference.exported import ExportedPredictor
from perpixel.inference.predictor import Predictor
from perpixel.io.images import hex_color
from perpixel.serving.answers import MEDIA_TYPES, Format, Segmentation, choose_format
from perpixel.serving.metrics import PROMETHEUS_MEDIA_TYPE, Metrics
from perpixel.serving.pool import Limits, Pool

_BODY_TYPES = (
    "image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp", "application/octet-stream",
)  # fmt: skip

# The page is one file: a browser loads nothing from elsewhere.
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
    """The model that is served, and the limits of a request."""

    name: str
    classes: list[Class]
    max_bytes: int
    max_pixels: int


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Segmentation,
        "description": "A PNG of class indices, JSON, or run lengths",
        "content": {
            MEDIA_TYPES["png"]: _BINARY,
            MEDIA_TYPES["rle"]: {"schema": {"$ref": "#/components/schemas/Segmentation"}},
        },
    },
    400: {"model": Problem, "description": "A multipart body that cannot be read"},
    406: {"model": Problem, "description": "An Accept header that accepts no format"},
    408: {"model": Problem, "description": "The image did not arrive within the timeout"},
    413: {"model": Problem, "description": "Too many bytes, or too many pixels"},
    415: {"model": Problem, "description": "Not an image, or one of another kind"},
    422: {"model": Problem, "description": "A corrupt image, several pages, or no such format"},
    503: {"model": Problem, "description": "Too many images at once; see Retry-After"},
    504: {"model": Problem, "description": "The image was not segmented within the timeout"},
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
    "content": dict.fromkeys(_BODY_TYPES, _BINARY) | {"multipart/form-data": _MULTIPART},
}


def make_app(predictor: Predictor | ExportedPredictor, limits: Limits) -> FastAPI:
    """Returns an ASGI application that serves the predictor's model within the limits."""
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
    page = resources.files("perpixel.serving").joinpath("page.html").read_bytes()

    @app.middleware("http")
    async def count_response(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        path = request.scope["path"]
        path = path if path in known_paths else "other"
        try:
            response = await call_next(request)
        except Exception:  # Starlette responds with 500
            metrics.count_response(path, 500)
            raise
        metrics.count_response(path, response.status_code)
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(_: Request, error: RequestValidationError) -> Response:
        problems = (f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
        return JSONResponse({"detail": "; ".join(problems)}, 422)

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    @app.post(
        "/v1/segment",
        response_class=Response,
        responses=_RESPONSES,
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def segment(
        request: Request, format: Annotated[Format | None, Query()] = None
    ) -> Response:
        """Segments an image: the request's body, or `image` in a multipart body.

        `format` or, without it, the Accept header selects a PNG, JSON or run lengths.
        """
        format = format or choose_format(request.headers.get("accept", "*/*"))
        if format is None:
            raise HTTPException(
                406, f"the Accept header takes none of {', '.join(MEDIA_TYPES.values())}"
            )
        if int(request.headers.get("content-length", "0")) > limits.max_bytes:
            raise _too_long(limits)
        limited = Request(request.scope, _limit_bytes(request.receive, limits))
        body = await pool.segment(lambda: _read_image(limited), format)
        return Response(body, media_type=MEDIA_TYPES[format])

    @app.get("/v1/model")
    async def describe_model() -> Model:
        """Returns the model's name, its classes in the order of their indices, and the limits."""
        classes = [
            Class(name=name, color=hex_color(color))
            for name, color in zip(predictor.class_names, predictor.palette, strict=True)
        ]
        return Model(
            name=predictor.name,
            classes=classes,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
        )

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Returns "ok" while the server runs."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Returns counts since the start, in Prometheus's text format."""
        return Response(metrics.text(), media_type=PROMETHEUS_MEDIA_TYPE)

    known_paths = {route.path for route in app.routes if isinstance(route, Route)}
    return app


async def _read_image(request: Request) -> bytes:
    """Returns the image's bytes: the body, or its `image` part.

    Clients name images by many media types, or none, so that their bytes decide.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media == "multipart/form-data":
            async with request.form(max_files=1, max_fields=0) as parts:
                part = parts.get("image")
                if not isinstance(part, UploadFile):
                    raise HTTPException(422, "no file named image in the multipart body")
                content = await part.read()
        else:
            content = await request.body()
    except ClientDisconnect:
        raise HTTPException(400, "the client has disconnected") from None
    if not content:
        raise HTTPException(422, "the image is empty")
    return content


def _limit_bytes(receive: Receive, limits: Limits) -> Receive:
    """Wraps `receive` so that it raises HTTPException when a body exceeds the limit."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limits.max_bytes:
            raise _too_long(limits)
        return message

    return receive_limited


def _too_long(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the body is longer than {limits.max_bytes} bytes")
