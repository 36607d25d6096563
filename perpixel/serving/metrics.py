"""Counters of the server in Prometheus's text format."""

import threading
from collections import Counter
from collections.abc import Mapping

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets, in seconds."""

PROMETHEUS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts requests, pixels and seconds since the server started; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._in_progress = 0
        self._pixels = 0
        self._seconds = 0.0
        self._images = 0
        self._images_within = [0] * len(_BUCKETS)

    def add_in_progress(self, change: int) -> None:
        """Adds `change`, 1 or -1, to the number of images being read, waiting or processed."""
        with self._lock:
            self._in_progress += change

    def count_response(self, path: str, status: int) -> None:
        """Counts a response by its path and status code."""
        with self._lock:
            self._requests[path, status] += 1

    def count_image(self, *, pixels: int, seconds: float) -> None:
        """Counts a segmented image; `seconds` are those from its arrival to its response."""
        with self._lock:
            self._pixels += pixels
            self._seconds += seconds
            self._images += 1
            for index, bound in enumerate(_BUCKETS):
                self._images_within[index] += seconds <= bound

    def text(self) -> str:
        """Returns all metrics in Prometheus's text format."""
        with self._lock:
            requests = {
                f'{{path="{path}",status="{status}"}}': count
                for (path, status), count in sorted(self._requests.items())
            }
            seconds: dict[str, float] = {
                f'_bucket{{le="{bound}"}}': count
                for bound, count in zip(_BUCKETS, self._images_within, strict=True)
            }
            seconds |= {
                '_bucket{le="+Inf"}': self._images,
                "_sum": self._seconds,
                "_count": self._images,
            }
            families: tuple[tuple[str, str, str, Mapping[str, float]], ...] = (
                ("requests_total", "counter", "Responses by path and status code.", requests),
                ("in_progress", "gauge", "Images being read, waiting or processed.",
                 {"": self._in_progress}),
                ("pixels_total", "counter", "Pixels segmented.", {"": self._pixels}),
                ("segment_seconds", "histogram", "Time from an image's arrival to its response.",
                 seconds),
            )  # fmt: skip
        lines = []
        for name, kind, help_text, values in families:
            lines += [f"# HELP perpixel_{name} {help_text}", f"# TYPE perpixel_{name} {kind}"]
            lines += [f"perpixel_{name}{suffix} {value}" for suffix, value in values.items()]
        return "\n".join(lines) + "\n"
