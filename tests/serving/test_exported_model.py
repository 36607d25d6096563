"""The server of an exported file: its masks, its one size, and its refusals under load."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from browser import wait
from PIL import Image

import perpixel
from perpixel.inference.exported import ExportedPredictor
from perpixel.serving.pool import Limits

pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
pytest.importorskip("onnxscript", reason="the extra [export] is not installed")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> ExportedPredictor:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    perpixel.export(model, path, size=(48, 64), seconds=0)
    return perpixel.load(path)


def image(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_an_exported_file_is_served_as_its_checkpoint(serve, exported, predictor):
    client = serve(exported, Limits())
    answer = client.post("/v1/segment", content=image(48, 64))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.content)) as mask:
        expected = predictor.predict(Image.open(io.BytesIO(image(48, 64)))).mask
        assert (np.asarray(mask) == expected).mean() > 0.99
    described = client.get("/v1/model").json()
    assert described["name"] == predictor.recipe.name
    assert [one["name"] for one in described["classes"]] == list(predictor.class_names)
    refused = client.post("/v1/segment", content=image(40, 56))
    assert refused.status_code == 422
    assert "an image of 40x56, and the exported file takes 48x64" in refused.json()["detail"]
    assert str(exported.path.parent) not in refused.text


def test_under_load_it_refuses_as_with_pytorch(serve, exported, monkeypatch):
    started, go = threading.Semaphore(0), threading.Event()
    predict = ExportedPredictor.predict

    def slowly(self, image):
        started.release()
        assert go.wait(timeout=60)
        return predict(self, image)

    monkeypatch.setattr(ExportedPredictor, "predict", slowly)
    client = serve(exported, Limits(concurrency=2, queue_size=1))
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(client.post, "/v1/segment", content=image(48, 64)) for _ in range(3)]
        assert started.acquire(timeout=30)
        wait(lambda: "perpixel_in_progress 3" in client.get("/metrics").text, "3 in progress")
        refused = client.post("/v1/segment", content=image(48, 64))
        assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (503, True)
        go.set()
        answers = [job.result() for job in jobs]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.content for answer in answers}) == 1
