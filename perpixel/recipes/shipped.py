"""Weights that perpixel's releases hold, by the name of the recipe that finds them."""

from typing import NamedTuple

RELEASES = "https://github.com/perpixel/perpixel/releases/download"


class ShippedWeights(NamedTuple):
    """A checkpoint: its path in the repository, its release and its name there, and a note."""

    path: str
    release: str
    file: str
    sha256: str
    note: str

    @property
    def url(self) -> str:
        """The address in the release."""
        return f"{RELEASES}/{self.release}/{self.file}"


REPLACED = {"camvid/semantic_fpn_r18": "camvid/fast"}
"""Recipes whose weights shipped with an earlier release, and those that took their place."""

SHIPPED = {
    "camvid/fast": ShippedWeights(
        "benchmarks/results/camvid/fast.safetensors",
        "v0.3.0",
        "camvid_fast.safetensors",
        "6f77db0b45ba943defff379b9d8cb92be6d10c19878265eba19bbceee7a7dab3",
        "They started from ImageNet weights. CamVid's terms apply.",
    ),
}
