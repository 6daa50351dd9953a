"""The Open Inference Protocol, version 2, as Triton, OpenVINO's server and KServe speak it.

Input `image`: raw pixel values N×C×H×W, or C×H×W of one. Outputs `mask`, N×H×W codes of the
training masks (N×H×W×3 of colours), and `probabilities`, N×K×H×W. Tensors are JSON or, by the
binary tensor extension, bytes after it: https://github.com/kserve/open-inference-protocol.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from unetseg import __version__
from unetseg.bundle import BundleInfo
from unetseg.prediction.outputs import mask_pixels
from unetseg.prediction.stream import Band
from unetseg.serving.door import MOST_JSON, Refusal
from unetseg.serving.service import Service

DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "FP32": np.dtype("<f4"),
}
NAMES = {dtype.name: name for name, dtype in DATATYPES.items()}
MOST_IMAGES = 64
"""N of one request."""
MOST_VALUES = 2**22
"""Of an output as JSON."""
BINARY_HEADER = "inference-header-content-length"


class InputTensor(BaseModel):
    """A tensor of a request."""

    name: Literal["image"]
    shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=3, max_length=4)]
    datatype: Literal["UINT8", "UINT16", "INT16", "FP32"]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputWanted(BaseModel):
    """A tensor that is asked for."""

    name: Literal["mask", "probabilities"]
    parameters: dict[str, Any] = {}


def each_once(outputs: list[OutputWanted]) -> list[OutputWanted]:
    """Outputs of different names.

    Raises:
        ValueError: two have one name: each takes memory of its own.
    """
    if len({output.name for output in outputs}) < len(outputs):
        raise ValueError("an output is asked for twice")
    return outputs


class InferenceRequest(BaseModel):
    """What a client sends."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputWanted], Field(max_length=2), AfterValidator(each_once)] = [
        OutputWanted(name="mask"),
        OutputWanted(name="probabilities"),
    ]


health_router = APIRouter(prefix="/v2")


@health_router.get("", summary="What the server is")
async def server() -> dict[str, Any]:
    """Name, version and extensions of the protocol."""
    return {"name": "unetseg", "version": __version__, "extensions": ["binary_tensor_data"]}


@health_router.get("/health/live", summary="Whether the server is there")
async def live() -> dict[str, bool]:
    """It is."""
    return {"live": True}


@health_router.get("/health/ready", summary="Whether the server takes work")
async def ready(request: Request) -> JSONResponse:
    """It does until it is about to end."""
    is_ready = not request.app.state.door.is_draining
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


def inference_router(service: Service) -> APIRouter:
    """/v2 of one model."""
    router = APIRouter(prefix="/v2")
    info = service.predictor.info
    version = info.weights_sha256[:12] if info.weights_sha256 else "1"

    def check(name: str, wanted: str = version) -> None:
        if (name, wanted) != (service.name, version):
            told = f"there is no model {name!r} of version {wanted!r}"
            raise Refusal(404, told, f"There is {service.name!r} of version {version!r}.")

    @router.get("/models/{name}", summary="What the model takes and gives")
    @router.get("/models/{name}/versions/{wanted}", include_in_schema=False)
    async def model(name: str, wanted: str = version) -> dict[str, Any]:
        check(name, wanted)
        return {"name": name, "versions": [version], "platform": "unetseg", **tensors_of(info)}

    @router.get("/models/{name}/ready", summary="Whether the model takes work")
    @router.get("/models/{name}/versions/{wanted}/ready", include_in_schema=False)
    async def model_ready(request: Request, name: str, wanted: str = version) -> JSONResponse:
        check(name, wanted)
        return await ready(request)

    @router.post(
        "/models/{name}/infer",
        summary="Masks and probabilities of images in memory",
        response_class=Response,
        openapi_extra={"requestBody": {"content": _BODY, "required": True}},
    )
    @router.post("/models/{name}/versions/{wanted}/infer", include_in_schema=False)
    async def infer(
        request: Request,
        name: str,
        wanted: str = version,
        json_length: Annotated[int | None, Header(alias=BINARY_HEADER)] = None,
    ) -> Response:
        check(name, wanted)
        body = await request.body()
        asked, images = await service.thread(parsed, body, json_length)
        likely = any(output.name == "probabilities" for output in asked.outputs)
        works = [
            partial(service.band, image, f"image {number}", probabilities=likely)
            for number, image in enumerate(images)
        ]
        bands = await service.answers(request, works)
        beginning = {"model_name": name, "model_version": version, "id": asked.id}
        return await service.thread(answered, asked, bands, info, beginning)

    return router


_BODY = {"application/json": {"schema": InferenceRequest.model_json_schema()}}


def tensors_of(info: BundleInfo) -> dict[str, Any]:
    """Inputs and outputs of a model, as its metadata tells them."""
    class_map = info.class_map
    colours = [3] if class_map.coding == "rgb" else []
    image = {"name": "image", "datatype": NAMES[info.dtype], "shape": [-1, info.bands, -1, -1]}
    mask = {"name": "mask", "datatype": NAMES[class_map.dtype], "shape": [-1, -1, -1, *colours]}
    shape = [-1, len(class_map.classes), -1, -1]
    likely = {"name": "probabilities", "datatype": "FP32", "shape": shape}
    return {"inputs": [image], "outputs": [mask, likely]}


def parsed(body: bytes, json_length: int | None) -> tuple[InferenceRequest, list[NDArray[Any]]]:
    """A request without its tensor, and the images H×W×C that this holds.

    Args:
        body: JSON, and perhaps bytes of tensors after it.
        json_length: Bytes of the JSON, where that is not all.

    Raises:
        Refusal: it is no such request.
    """
    length = len(body) if json_length is None else json_length
    if not 0 <= length <= min(len(body), MOST_JSON):
        told = f"the JSON of {length} bytes is cut off, or larger than {MOST_JSON}"
        raise Refusal(413, told, "Send large tensors by the binary tensor extension.")
    try:
        request = InferenceRequest.model_validate_json(body[:length])
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise Refusal(422, f"this is no inference request: {told}", "See /v2/models.") from error
    (tensor,) = request.inputs
    dtype, count = DATATYPES[tensor.datatype], math.prod(tensor.shape)
    size = tensor.parameters.get("binary_data_size")
    rest = memoryview(body)[length:]
    if size is not None and not len(rest) == size == count * dtype.itemsize:
        told = f"{len(rest)} bytes follow the JSON and {size} are announced, expected "
        raise Refusal(422, f"{told}{count * dtype.itemsize} of {tensor.datatype} {tensor.shape}")
    try:
        values = np.frombuffer(rest, dtype) if size is not None else _exact(tensor.data, dtype)
        images = values.reshape(-1, *tensor.shape[-3:]).transpose(0, 2, 3, 1)  # N, H, W, C
    except (TypeError, ValueError, OverflowError) as error:
        told = f"the data are no {tensor.datatype} of {tensor.shape}: {error}"
        raise Refusal(422, told) from error
    if len(images) != math.prod(tensor.shape[:-3]) or len(images) > MOST_IMAGES:
        raise Refusal(422, f"there are {len(images)} images, at most {MOST_IMAGES} are taken")
    return request.model_copy(update={"inputs": ()}), list(np.ascontiguousarray(images))


def _exact(data: list[Any] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values of JSON as numbers of a type.

    Raises:
        ValueError: some are fractions, and the type has none; or they are no such numbers.
    """
    values = np.array(data, dtype)
    if dtype.kind != "f" and (values != np.array(data)).any():
        raise ValueError("there are fractions")
    return values


def answered(
    request: InferenceRequest, bands: Sequence[Band], info: BundleInfo, beginning: Mapping[str, Any]
) -> Response:
    """The tensors that are asked for, as JSON or with bytes after it."""
    outputs, chunks = [], []
    for wanted in request.outputs:
        tensor: NDArray[Any]
        if wanted.name == "mask":
            tensor = np.stack([mask_pixels(band.index, info.class_map) for band in bands])
        else:
            tensor = np.stack([next(iter(band.probabilities)).transpose(2, 0, 1) for band in bands])
        datatype = NAMES[tensor.dtype.name]
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": tensor.shape}
        is_binary = request.parameters.get("binary_data_output", False)
        if wanted.parameters.get("binary_data", is_binary):
            chunks.append(tensor.astype(DATATYPES[datatype]).tobytes())
            output["parameters"] = {"binary_data_size": len(chunks[-1])}
        elif tensor.size > MOST_VALUES:
            told = f"{wanted.name} has {tensor.size} values, at most {MOST_VALUES} are sent as JSON"
            raise Refusal(413, told, 'Ask for "parameters": {"binary_data": true}.')
        else:
            output["data"] = [None if v != v else v for v in tensor.ravel().tolist()]
        outputs.append(output)
    named = {key: value for key, value in beginning.items() if value is not None}
    text = json.dumps({**named, "outputs": outputs}, allow_nan=False).encode()
    if not chunks:
        return Response(text, media_type="application/json")
    headers = {BINARY_HEADER: str(len(text))}
    content = b"".join([text, *chunks])
    return Response(content, headers=headers, media_type="application/octet-stream")
