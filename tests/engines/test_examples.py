"""The examples of servers, started as a user starts them and asked three times at once."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import skipcast as sc

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPT = "a large red star on a blue background"
#: What a server's processes inherit, by which they are found again.
MARK = "SKIPCAST_TEST_SERVER"
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def needed(*modules: str) -> None:
    """Skip the test where a server's framework is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the example needs {name}, which is not installed; its first lines say what to install")


def marked(mark: str) -> list[int]:
    """The processes of a server that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            holds = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:  # ended in the meantime, or of somebody else
            continue
        if holds and not zombie:
            found.append(int(folder.name))
    return found


@contextmanager
def running(name: str, log: Path, *arguments: str) -> Iterator[str]:
    """The address of a server that is ready; afterwards none of its processes is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mark, address = uuid.uuid4().hex, f"http://127.0.0.1:{port}"
    command = [sys.executable, str(EXAMPLES / name), "--port", str(port), *arguments]
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, MARK: mark, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        for _ in range(1200):
            if server.poll() is not None or status(f"{address}/health") == 200:
                break
            time.sleep(0.5)
        assert server.poll() is None, log.read_text()[-2000:]
        assert status(f"{address}/health") == 200, log.read_text()[-2000:]
        yield address
    finally:
        server.send_signal(signal.SIGINT)
        for _ in range(60):
            if not marked(mark):
                break
            server.poll()
            time.sleep(0.5)
        for process in marked(mark):
            os.kill(process, signal.SIGKILL)
        server.wait(10)


def status(url: str) -> int | None:
    try:
        with OPEN(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def post(address: str, body: bytes) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/images/generations", body, headers)
    try:
        with OPEN(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def shapes() -> Any:
    return sc.load_reference("shapes-flux")


def direct(pipe: Any, evaluations: int, seed: int, scale: float) -> np.ndarray:
    """The image of the pipeline itself."""
    pipe.scheduler = sc.PlanScheduler(sc.shipped_plan("shapes-flux", evaluations), guidance=scale)
    call = {"negative_prompt": "", "true_cfg_scale": scale, "generator": torch.Generator().manual_seed(seed)}
    return np.asarray(pipe(PROMPT, num_inference_steps=evaluations, **call).images[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a server in /proc")
@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("serve_litserve.py", ("litserve",)),
        ("serve_ray.py", ("ray", "fastapi", "aiohttp", "opencensus")),
    ],
)
def test_three_requests_at_once_get_the_pipeline_s_images(
    name: str, modules: tuple[str, ...], tmp_path: Path, shapes: Any
) -> None:
    needed(*modules)
    asked = [("low", 4, 1, 2.0), ("medium", 10, 2, 3.0), ("auto", 8, 3, 2.0)]
    bodies = [
        json.dumps({"prompt": PROMPT, "quality": quality, "seed": seed, "guidance_scale": scale}).encode()
        for quality, _, seed, scale in asked
    ]
    with running(name, tmp_path / "log") as address:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda body: post(address, body), bodies))
        wrong = [post(address, body) for body in (b"{nope", b"[1]", b'{"prompt": "a", "quality": "best"}')]
        still = status(f"{address}/health")
    for (code, answer), (quality, evaluations, seed, scale) in zip(answers, asked, strict=True):
        assert (code, answer["quality"], answer["plan"]["evaluations"]) == (200, quality, evaluations)
        assert answer["plan"]["predicted_psnr"] > 20
        assert answer["plan"]["guidance_scale"] == scale
        image = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
        assert np.array_equal(np.asarray(image), direct(shapes, evaluations, seed, scale))
    assert [code for code, _ in wrong] == [400] * 3
    assert all(isinstance(answer["detail"], str) for _, answer in wrong)
    assert still == 200
