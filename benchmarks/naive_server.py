"""A server as people write it: FastAPI, Pillow, one image at a time, as in `baseline`'s "plain".

python -m benchmarks.naive_server NETWORK WEIGHTS PORT
"""

import io
import sys

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, File, Response
from PIL import Image

from benchmarks.baseline import Model

app = FastAPI()
network, weights, port = sys.argv[1:]
model = Model("plain", network, weights)


@app.post("/predict")
def predict(file: bytes = File()) -> Response:
    """The mask of an image, 0 and 255."""
    with torch.no_grad():
        logits = model.net(model.read(io.BytesIO(file)))  # type: ignore[arg-type]
    mask = logits.argmax(1)[0].numpy().astype(np.uint8) * 255
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    return Response(content.getvalue(), media_type="image/png")


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")
