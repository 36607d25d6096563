"""The page in a real browser."""

import base64
import io
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, wait
from PIL import Image

from perpixel.cli import main
from perpixel.io.images import overlay, read_image
from perpixel.serving.pool import Limits


@pytest.fixture
def masks(model, tmp_path, mini, monkeypatch) -> Path:
    """What `perpixel predict` writes."""
    words = ["perpixel", "predict", model, mini / "val", "--out", tmp_path / "masks"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*words, "--device", "cpu"]])
    with pytest.raises(SystemExit, match=r"^0$"):
        main.main()
    return tmp_path / "masks"


def downloaded(path: Path) -> bytes:
    wait(path.exists, f"{path.name} is downloaded")
    while any(path.parent.glob("*.crdownload")):
        time.sleep(0.05)
    return path.read_bytes()


def test_an_image_is_dropped_seen_and_saved(serve, predictor, mini, masks, tmp_path):
    client = serve(predictor, Limits(max_bytes=10**6))
    sent = mini / "val/00.png"
    with chromium(tmp_path / "browser") as page:
        page.open(str(client.base_url))
        wait(lambda: "CamVid" in page.text("main") or "sky" in page.text("#legend"), "the legend")
        assert page.text("#model") == "camvid/fcn_r18-d8"
        page.type("#file", str(sent))
        wait(lambda: "64 x 48" in page.text("#status"), "the image is segmented")

        result = predictor.predict(sent)
        shares = [(name, share) for name, share in result.class_fractions.items() if share > 0]
        shares.sort(key=lambda item: -item[1])
        shown = page.run(
            "return [...document.querySelectorAll('#legend li:not(.absent)')].map(row => "
            "[row.querySelector('.name').textContent, row.querySelector('.share').textContent,"
            " row.querySelector('.swatch').style.background])"
        )
        assert [name for name, _, _ in shown] == [name for name, _ in shares]
        colors = dict(zip(result.class_names, result.palette, strict=True))
        for (name, share), (_, percent, color) in zip(shares, shown, strict=True):
            assert color == "rgb({}, {}, {})".format(*colors[name])
            assert percent in (f"{100 * share:.1f} %", "< 0.1 %")
        assert len(page.run("return [...document.querySelectorAll('#legend li')]")) == 11

        # The mask lies over the image with the slider's opacity, which keys change.
        assert page.run("return getComputedStyle(mask).opacity") == "0.5"
        page.run("document.getElementById('opacity').focus()")
        page.press(*["\ue014"] * 20)  # right
        assert page.run("return getComputedStyle(mask).opacity") == "0.7"
        assert page.text("#percent") == "70%"
        together = page.run(
            "const [a, b] = [image, mask].map(element => element.getBoundingClientRect());"
            "return a.width > 0 && a.width === b.width && a.height === b.height && a.x === b.x"
        )
        assert together
        page.screenshot(tmp_path / "page.png")

        page.click("#save-mask")
        mask = downloaded(tmp_path / "browser/downloads/00.png")
        assert mask == (masks / "00.png").read_bytes()
        page.click("#save-overlay")
        drawn = downloaded(tmp_path / "browser/downloads/00_overlay.png")
        with Image.open(io.BytesIO(drawn)) as file:
            saved = np.asarray(file.convert("RGB")).astype(int)
        expected = overlay(read_image(sent), result.mask, result.palette, opacity=0.7)
        assert np.abs(saved - expected).max() <= 2  # the browser blends in 8 bits
        assert [line for line in page.messages() if "SEVERE" in line or "rror" in line] == []


def test_images_that_cannot_be_segmented_show_why(serve, predictor, mini, tmp_path):
    client = serve(predictor, Limits(max_bytes=20_000))
    (tmp_path / "<b>bad<b>.png").write_bytes(b"no image")
    (tmp_path / "long.png").write_bytes(bytes(20_001))
    Image.open(mini / "val/00.png").save(tmp_path / "odd.tiff")
    with chromium(tmp_path / "browser") as page:
        page.open(str(client.base_url))
        wait(lambda: "sky" in page.text("#legend"), "the legend")
        page.type("#file", str(tmp_path / "<b>bad<b>.png"))
        wait(lambda: "not an image" in page.text("#status"), "a bad image is refused")
        assert page.text("#status").startswith("<b>bad<b>.png")
        page.type("#file", str(tmp_path / "long.png"))
        wait(lambda: "20001 bytes; this server takes 20000" in page.text("#status"), "too long")
        page.type("#file", str(tmp_path / "odd.tiff"))
        wait(lambda: "only the classes" in page.text("#status"), "a TIFF shows its classes alone")
        assert page.run("return getComputedStyle(mask).opacity") == "1"


def test_an_image_can_be_dropped_anywhere(serve, predictor, mini, tmp_path):
    client = serve(predictor, Limits())
    content = base64.b64encode((mini / "val/01.png").read_bytes()).decode()
    with chromium(tmp_path / "browser", width=420, height=900) as page:
        page.open(str(client.base_url))
        page.run(
            "const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));"
            "const transfer = new DataTransfer();"
            "transfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));"
            "document.body.dispatchEvent(new DragEvent('drop', "
            "{dataTransfer: transfer, bubbles: true, cancelable: true}))",
            content,
        )
        wait(lambda: re.search("dropped.png: 64 x 48", page.text("#status")), "it is segmented")
        narrow = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert page.run(narrow)
        page.screenshot(tmp_path / "narrow.png")
