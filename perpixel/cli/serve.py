"""`perpixel serve`."""

import contextlib
import os
import socket
from typing import Annotated

import typer

from perpixel.cli import options
from perpixel.errors import PerpixelError, needs_extra


def serve(
    model: options.ModelOrExported,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 selects a free one.")
    ] = 8000,
    max_bytes: Annotated[
        int,
        typer.Option(
            min=1, help="The longest body of a request; longer ones are refused with 413."
        ),
    ] = 32 * 2**20,
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**27,
            help="The largest image; larger ones are refused with 413 before decoding.",
        ),
    ] = 2**24,
    concurrency: Annotated[int, typer.Option(min=1, help="Images processed at a time.")] = 1,
    queue_size: Annotated[
        int, typer.Option(min=0, help="Images that may wait; further ones are refused with 503.")
    ] = 16,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds for an image; then the response is 504.")
    ] = 60.0,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
) -> None:
    """Serve a model: a page to drop images on, and POST /v1/segment for programs.

    Needs the extra `serve`, and `export` for a .onnx file. Example: perpixel serve runs/camvid
    --port 8000
    """
    # In addition to the server's own check. OpenCV reads it when it is imported, below.
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(max_pixels)
    with needs_extra("serve", "serve"):
        import uvicorn

        from perpixel.serving.app import make_app

    import perpixel
    from perpixel.serving.pool import Limits

    limits = Limits(max_bytes, max_pixels, concurrency, queue_size, timeout)
    predictor = perpixel.load(model, device=device, precision=precision)
    app = make_app(predictor, limits)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PerpixelError(
            f"cannot listen on {host}, port {port} ({error.strerror}): give another --host or "
            f"--port"
        ) from None
    netloc = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    typer.echo(f"{predictor.name} at http://{netloc} (Ctrl-C stops it)")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
