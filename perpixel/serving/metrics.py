"""What the server counts, in Prometheus's text format."""

import threading
from collections import Counter
from collections.abc import Mapping

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of requests, pixels and seconds since the start; threads may count at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._in_progress = 0
        self._pixels = 0
        self._seconds = 0.0
        self._within = [0] * len(_BOUNDS)
        self._timed = 0

    def entered(self, change: int) -> None:
        """Counts images that are being read, wait or are worked on: 1 comes, -1 leaves."""
        with self._lock:
            self._in_progress += change

    def answered(self, path: str, status: int) -> None:
        """Counts an answer."""
        with self._lock:
            self._requests[path, status] += 1

    def segmented(self, pixels: int, seconds: float) -> None:
        """Counts an image of so many pixels that took so long, from its arrival to its answer."""
        with self._lock:
            self._pixels += pixels
            self._seconds += seconds
            self._timed += 1
            for index, bound in enumerate(_BOUNDS):
                self._within[index] += seconds <= bound

    def text(self) -> str:
        """All of it."""
        with self._lock:
            requests = {
                f'{{path="{path}",status="{status}"}}': count
                for (path, status), count in sorted(self._requests.items())
            }
            within = zip((*_BOUNDS, "+Inf"), (*self._within, self._timed), strict=True)
            buckets = {f'_bucket{{le="{bound}"}}': count for bound, count in within}
            seconds = {**buckets, "_sum": self._seconds, "_count": self._timed}
            families: tuple[tuple[str, str, str, Mapping[str, float]], ...] = (
                ("requests_total", "counter", "Answers by path and status code.", requests),
                ("in_progress", "gauge", "Images being read, waiting or worked on.",
                 {"": self._in_progress}),
                ("pixels_total", "counter", "Pixels given a class.", {"": self._pixels}),
                ("segment_seconds", "histogram", "Time from an image's arrival to its answer.",
                 seconds),
            )  # fmt: skip
        lines = []
        for name, kind, said, values in families:
            lines += [f"# HELP perpixel_{name} {said}", f"# TYPE perpixel_{name} {kind}"]
            lines += [f"perpixel_{name}{suffix} {value}" for suffix, value in values.items()]
        return "\n".join(lines) + "\n"
