"""What the server counts, in Prometheus's text format."""

import threading
from collections import Counter

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
        """Counts pictures that are being read, wait or are worked on: 1 comes, -1 leaves."""
        with self._lock:
            self._in_progress += change

    def answered(self, path: str, status: int) -> None:
        """Counts an answer."""
        with self._lock:
            self._requests[path, status] += 1

    def segmented(self, pixels: int, seconds: float) -> None:
        """Counts a picture of so many pixels that took so long, from its arrival to its answer."""
        with self._lock:
            self._pixels += pixels
            self._seconds += seconds
            self._timed += 1
            for index, bound in enumerate(_BOUNDS):
                self._within[index] += seconds <= bound

    def text(self) -> str:
        """All of it."""
        with self._lock:
            requests = [
                f'perpixel_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self._requests.items())
            ]
            buckets = [
                f'perpixel_segment_seconds_bucket{{le="{bound}"}} {count}'
                for bound, count in zip(
                    (*_BOUNDS, "+Inf"), (*self._within, self._timed), strict=True
                )
            ]
            lines = [
                "# HELP perpixel_requests_total Answers by path and status code.",
                "# TYPE perpixel_requests_total counter",
                *requests,
                "# HELP perpixel_in_progress Pictures being read, waiting or worked on.",
                "# TYPE perpixel_in_progress gauge",
                f"perpixel_in_progress {self._in_progress}",
                "# HELP perpixel_pixels_total Pixels given a class.",
                "# TYPE perpixel_pixels_total counter",
                f"perpixel_pixels_total {self._pixels}",
                "# HELP perpixel_segment_seconds Time from a picture's arrival to its answer.",
                "# TYPE perpixel_segment_seconds histogram",
                *buckets,
                f"perpixel_segment_seconds_sum {self._seconds}",
                f"perpixel_segment_seconds_count {self._timed}",
            ]
        return "\n".join(lines) + "\n"
