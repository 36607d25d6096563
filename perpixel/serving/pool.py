"""Thread pool that segments images within limits, and refuses requests with HTTP status codes."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL.Image import DecompressionBombError
from starlette.exceptions import HTTPException

from perpixel.errors import OutOfMemoryError, PerpixelError
from perpixel.inference.exported import ExportedPredictor
from perpixel.inference.predictor import Predictor
from perpixel.io.images import decode_image, header_size
from perpixel.serving.answers import Format, encode
from perpixel.serving.metrics import Metrics

_MIN_SIDE = 64
_ORIGIN = "the image"


@dataclass(frozen=True)
class Limits:
    """Limits of one request and of concurrent requests.

    `concurrency` images are processed at a time and `queue_size` more may wait. `timeout` is in
    seconds, from a request's headers to its response.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 2**24
    concurrency: int = 1
    queue_size: int = 16
    timeout: float = 60.0


class Pool:
    """Runs a predictor on threads within limits, so that the event loop stays free."""

    def __init__(
        self, predictor: Predictor | ExportedPredictor, limits: Limits, metrics: Metrics
    ) -> None:
        self._predictor = predictor
        self._limits = limits
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(limits.concurrency, "predict")
        self._slots = threading.Semaphore(limits.concurrency + limits.queue_size)

    async def segment(self, read: Callable[[], Awaitable[bytes]], format: Format) -> bytes:
        """Returns the response's body for the image that `read` receives.

        A slot is acquired before the first byte is read, so that the limits bound the memory too;
        it is released when the work ends, which may be after the timeout. Raises HTTPException
        for every refusal.
        """
        if not self._slots.acquire(blocking=False):
            # Any number of seconds is a guess: images differ.
            raise HTTPException(503, "too many images at once", headers={"Retry-After": "1"})
        self._metrics.add_in_progress(1)
        job: Future[bytes] | None = None
        try:
            async with asyncio.timeout(self._limits.timeout):
                content = await read()
                job = self._threads.submit(self._process, content, format, time.perf_counter())
                job.add_done_callback(self._release_slot)
                return await asyncio.wrap_future(job)
        except TimeoutError:
            within = f"within {self._limits.timeout:g} seconds"
            if job is None:
                raise HTTPException(408, f"the image did not arrive {within}") from None
            raise HTTPException(504, f"the image was not segmented {within}") from None
        finally:
            if job is None:
                self._release_slot(None)

    def close(self) -> None:
        """Stops accepting images and drops those in the queue."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release_slot(self, _: object) -> None:
        self._slots.release()
        self._metrics.add_in_progress(-1)

    def _process(self, content: bytes, format: Format, arrived: float) -> bytes:
        """Decodes an image, predicts its mask and encodes the response, on a thread."""
        try:
            try:
                height, width = header_size(content, origin=_ORIGIN)
            except PerpixelError as error:  # whatever the Content-Type says
                raise HTTPException(415, str(error)) from None
            # A model pads or rounds up a very short side, so it costs as if it were longer.
            pixels = math.prod(max(side, _MIN_SIDE) for side in (height, width))
            if pixels > self._limits.max_pixels:
                raise HTTPException(
                    413,
                    f"the image has {height}x{width} pixels; the limit of this server is "
                    f"{self._limits.max_pixels} (a side counts as at least {_MIN_SIDE})",
                )
            image = decode_image(
                np.frombuffer(content, np.uint8),
                origin=_ORIGIN,
                bands=self._predictor.bands,
            )
            body = encode(self._predictor.predict(image), format)
        except DecompressionBombError:
            raise HTTPException(
                413,
                f"the image is far above this server's limit of {self._limits.max_pixels} pixels",
            ) from None
        except (OutOfMemoryError, MemoryError):
            raise HTTPException(
                413, "the server has not enough memory for an image of this size"
            ) from None
        except PerpixelError as error:
            raise HTTPException(422, str(error)) from None
        self._metrics.count_image(pixels=height * width, seconds=time.perf_counter() - arrived)
        return body
