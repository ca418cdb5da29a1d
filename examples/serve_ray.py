"""A server of images on Ray Serve, where the quality of a request chooses its plan.

    pip install "skipcast[models]" "ray[serve]"
    python examples/serve_ray.py --port 8000 --replicas 1
    curl 127.0.0.1:8000/v1/images/generations -H "Content-Type: application/json" \
        -d '{"prompt": "a large red star on a blue background", "quality": "high", "seed": 7}'

GET /health answers 200 once a replica has loaded its model.
"""

# Annotations stay objects: a replica receives this file's class pickled, where FastAPI could not resolve their names.
import argparse
import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from ray import serve

from skipcast.engines.serving import ImageServer

app = FastAPI()


@serve.deployment(max_ongoing_requests=8)
@serve.ingress(app)
class Images:
    """One pipeline a replica; what waits for it waits in order."""

    def __init__(self, model: str, plans: str | None, device: str) -> None:
        self.server = ImageServer.load(model, plans)
        self.server.pipe.to(device)

    @app.get("/health")
    def health(self) -> str:
        return "ok"

    @app.post("/v1/images/generations")
    async def images(self, request: Request) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(self.server.answer, await request.body())
        except ValueError as error:
            raise HTTPException(400, str(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-flux", help="a reference model, a folder or a hub id")
    parser.add_argument("--plans", help="a plan or a folder of plans; those that ship, by default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each replica; 0 draws on the CPU")
    given = parser.parse_args()
    serve.start(http_options={"host": given.host, "port": given.port})
    replica = Images.options(num_replicas=given.replicas, ray_actor_options={"num_gpus": given.gpus})
    serve.run(replica.bind(given.model, given.plans, "cuda" if given.gpus else "cpu"), blocking=True)


if __name__ == "__main__":
    main()
