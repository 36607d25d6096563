"""Masks of a video's frames, in order, a few at a time."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from perpixel.errors import PerpixelError
from perpixel.inference.exported import ExportedPredictor
from perpixel.inference.predictor import Predictor
from perpixel.io.images import Array, write_mask

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def predict_video(
    predictor: Predictor | ExportedPredictor,
    path: Path,
    *,
    masks: Path,
    overlay: Path | None = None,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes masks/000000.png, ... for every frame and, if asked, an MP4 of overlays.

    `progress` is called with (frames done, frames the file promises).
    Raises PerpixelError for a file that cannot be decoded, or that ends well before its last frame;
    the frames until then are written; or when the MP4 does not fit on the disk, which removes it.
    """
    video = cv2.VideoCapture(str(path))
    promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    writer: cv2.VideoWriter | None = None
    done = 0
    try:
        all_frames = _frames(video)
        while frames := list(islice(all_frames, batch)):
            for result in predictor.predict_batch(frames):
                write_mask(masks / f"{done:06}.png", result.mask, result.palette)
                if overlay is not None:
                    if writer is None:
                        writer = _writer(overlay, frames[0], video.get(cv2.CAP_PROP_FPS))
                    writer.write(cv2.cvtColor(result.overlay(), cv2.COLOR_RGB2BGR))
                done += 1
            if progress is not None:
                progress(done, max(promised, done))
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if overlay is not None and writer is not None:
        _require_whole(overlay, frames=done)
    if done == 0:
        raise PerpixelError(f"{path}: not a video that can be decoded, or a corrupt one")
    if done < 0.95 * promised - 5:  # what files promise is often an estimate
        raise PerpixelError(
            f"{path}: can be decoded up to frame {done} of {promised} only; those are written"
        )


def _frames(video: cv2.VideoCapture) -> Iterator[Array]:
    while (read := video.read())[0]:
        yield np.asarray(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB), np.uint8)


def _writer(path: Path, frame: Array, fps: float) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    # MPEG-4 writes a rate as a fraction of 16-bit numbers; a corrupt header may say anything.
    rate = round(fps, 2 if fps < 600 else 0) if 0 < fps <= 1000 else 25.0
    writer = cv2.VideoWriter(str(path), code, rate, (frame.shape[1], frame.shape[0]))
    if not writer.isOpened():
        raise PerpixelError(f"{path}: cannot be written as an MP4 video")
    return writer


def _require_whole(path: Path, *, frames: int) -> None:
    """Raises PerpixelError unless all frames can be read back: OpenCV reports no write errors."""
    written = cv2.VideoCapture(str(path))
    readable = max(int(written.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    written.release()
    if readable != frames:
        path.unlink(missing_ok=True)
        raise PerpixelError(
            f"{path}: not fully written ({readable} of {frames} frames can be read back), "
            f"so it was removed; is the disk full? The masks are written"
        )
