"""What one writes first: an encoder of sentence-transformers behind FastAPI, a request a call. python -m
benchmarks.plain_server FOLDER PORT"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Asked(BaseModel):
    texts: list[str]


def main(folder: str, port: int) -> None:
    model = SentenceTransformer(folder, device="cpu")
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embed")
    def embed(asked: Asked) -> dict[str, list[list[float]]]:
        return {"vectors": model.encode(asked.texts, normalize_embeddings=True).tolist()}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
