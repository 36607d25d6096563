"""A model with random weights, and real servers of it on free ports."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

import perpixel
from perpixel.checkpoints.format import Checkpoint, write_checkpoint
from perpixel.data.datasets import camvid
from perpixel.inference.predictor import Predictor
from perpixel.serving.app import make_app
from perpixel.serving.pool import Limits


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A checkpoint whose model knows CamVid's classes and nothing else."""
    recipe = perpixel.override(
        perpixel.recipe("camvid/fcn_r18-d8"), ["model.head.channels=8", "model.aux_head=null"]
    )
    state = perpixel.build(recipe, num_classes=11).state_dict()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    classes = camvid.CLASSES
    write_checkpoint(path, Checkpoint(recipe, classes.names, classes.palette, state))
    return path


@pytest.fixture(scope="session")
def predictor(model) -> Predictor:
    return perpixel.load(model)


@contextmanager
def running(predictor: Predictor, limits: Limits) -> Iterator[str]:
    """A server's address; it listens before this returns, so that no request is lost."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(predictor, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture
def serve() -> Iterator[Callable[[Predictor, Limits], httpx.Client]]:
    """Starts a server for the test's time, and returns a client of it."""
    with ExitStack() as stack:

        def start(predictor: Predictor, limits: Limits) -> httpx.Client:
            url = stack.enter_context(running(predictor, limits))
            return stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))

        yield start


@pytest.fixture(scope="module")
def client(predictor) -> Iterator[httpx.Client]:
    """A client of a server with small limits on bytes and pixels."""
    limits = Limits(max_bytes=40_000, max_pixels=10_000, concurrency=1, queue_size=4, timeout=30)
    with (
        running(predictor, limits) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        yield client
