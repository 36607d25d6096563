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


SHIPPED = {
    "camvid/semantic_fpn_r18": ShippedWeights(
        "benchmarks/results/camvid/semantic_fpn_r18.safetensors",
        "v0.2.0",
        "camvid_semantic_fpn_r18.safetensors",
        "e4e87b752b1eb5aac258cfcf022e9cb86cc5b79ed31e344f080dddb76ca5e3a1",
        "Its head is 64 channels wide, narrower than the recipe's. CamVid's terms apply.",
    ),
}
