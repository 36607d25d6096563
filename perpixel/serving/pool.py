"""Where images are taken in and worked on: the limits, and who is refused with which status."""

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
from perpixel.inference.predictor import Predictor
from perpixel.io.images import decode_image, header_size
from perpixel.serving.answers import Format, encode
from perpixel.serving.metrics import Metrics

_SHORTEST_SIDE = 64
_IMAGE = "the image"


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may ask at once.

    `concurrency` images are worked on at a time and `waiting` more are let in. `seconds` are
    those from a request's headers to its answer.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 2**24
    concurrency: int = 1
    waiting: int = 16
    seconds: float = 60.0


class Pool:
    """A predictor behind limits. Its work runs on threads, so that the event loop stays free."""

    def __init__(self, predictor: Predictor, limits: Limits, metrics: Metrics) -> None:
        self._predictor = predictor
        self._limits = limits
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(limits.concurrency, "predict")
        self._places = threading.Semaphore(limits.concurrency + limits.waiting)

    async def segment(self, read: Callable[[], Awaitable[bytes]], form: Format) -> bytes:
        """The answer to the image that `read` receives. Raises HTTPException for all refusals.

        A place is taken before the first byte is read, so that the limits bound the memory too;
        it is free again when the work has ended, which may be after its time was up.
        """
        if not self._places.acquire(blocking=False):
            # Any number of seconds is a guess: images differ.
            raise HTTPException(503, "too many images at once", headers={"Retry-After": "1"})
        self._metrics.entered(1)
        job: Future[bytes] | None = None
        try:
            async with asyncio.timeout(self._limits.seconds):
                content = await read()
                job = self._threads.submit(self._work, content, form, time.perf_counter())
                job.add_done_callback(self._leave)
                return await asyncio.wrap_future(job)
        except TimeoutError:
            within = f"within {self._limits.seconds:g} seconds"
            if job is None:
                raise HTTPException(408, f"the image did not arrive {within}") from None
            raise HTTPException(504, f"the image was not done {within}") from None
        finally:
            if job is None:
                self._leave(None)

    def close(self) -> None:
        """Takes nothing more; what was let in and nobody waits for any longer is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _: object) -> None:
        self._places.release()
        self._metrics.entered(-1)

    def _too_large(self, size: str) -> HTTPException:
        return HTTPException(
            413,
            f"an image of {size} pixels; this server takes {self._limits.max_pixels} (a side "
            f"counts as {_SHORTEST_SIDE} at least)",
        )

    def _work(self, content: bytes, form: Format, arrived: float) -> bytes:
        """Decodes, predicts and encodes, on a thread."""
        try:
            height, width = header_size(content, origin=_IMAGE)
            # A model pads or rounds up a very short side, so it costs as if it were longer.
            pixels = math.prod(max(side, _SHORTEST_SIDE) for side in (height, width))
            if pixels > self._limits.max_pixels:
                raise self._too_large(f"{height}x{width}")
            image = decode_image(np.frombuffer(content, np.uint8), origin=_IMAGE)
            answer = encode(self._predictor.predict(image), form)
        except DecompressionBombError:
            raise self._too_large("far too many") from None
        except (OutOfMemoryError, MemoryError):
            raise HTTPException(413, "not enough memory here for an image of this size") from None
        except PerpixelError as error:
            raise HTTPException(422, str(error)) from None
        self._metrics.segmented(height * width, time.perf_counter() - arrived)
        return answer
