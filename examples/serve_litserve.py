"""A server of images on LitServe, where the quality of a request chooses its plan.

    pip install "skipcast[models]" litserve
    python examples/serve_litserve.py --port 8000
    curl 127.0.0.1:8000/v1/images/generations -H "Content-Type: application/json" \
        -d '{"prompt": "a large red star on a blue background", "quality": "high", "seed": 7}'

GET /health answers 200 once every worker has loaded its model.
"""

from __future__ import annotations

import argparse
from typing import Any

import litserve as ls
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from skipcast.engines.serving import ImageServer


class Images(ls.LitAPI):
    """One pipeline a worker."""

    def __init__(self, model: str, plans: str | None) -> None:
        super().__init__(api_path="/v1/images/generations")
        self.named = model, plans

    def setup(self, device: str) -> None:
        self.server = ImageServer.load(*self.named)
        self.server.pipe.to(device)

    def decode_request(self, request: dict) -> dict:  # by this annotation the body is parsed
        return request

    def predict(self, body: Any) -> dict[str, Any]:
        try:
            return self.server.answer(body)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer


async def no_object(request: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"detail": "the request must be a JSON object."}, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-flux", help="a reference model, a folder or a hub id")
    parser.add_argument("--plans", help="a plan or a folder of plans; those that ship, by default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    server = ls.LitServer(Images(given.model, given.plans), devices=1)
    server.app.exception_handler(RequestValidationError)(no_object)
    server.run(host=given.host, port=given.port, generate_client_file=False)


if __name__ == "__main__":
    main()
