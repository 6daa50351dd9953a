"""The whole of `unetseg serve`: a model, its routers and limits."""

from pathlib import Path

from fastapi import FastAPI

from unetseg.config import DeviceConfig, ServeConfig, TilingConfig
from unetseg.errors import ConfigError
from unetseg.prediction.predictor import Predictor
from unetseg.serving.door import Limits
from unetseg.serving.inference import health_router, inference_router
from unetseg.serving.label_studio import label_studio_router
from unetseg.serving.predictions import predictions_router
from unetseg.serving.server import build_app
from unetseg.serving.service import Service


def model_app(
    run: Path, config: ServeConfig, tiling: TilingConfig, device: DeviceConfig, token: str | None
) -> tuple[FastAPI, str]:
    """The application of a trained U-Net, made ready, and what it is in words.

    Args:
        run: What `Predictor` takes.
        config: Limits and doors.
        tiling: How it is applied.
        device: Where.
        token: What requests must bring.

    Raises:
        BundleError: there is no usable model.
        ConfigError: pairs are to be kept of no files, or a folder is not there.
    """
    files, pairs = config.label_studio_files, config.label_studio_pairs
    if files is not None and not files.is_dir():
        raise ConfigError(f"--label-studio-files {files} is no folder")
    if pairs is not None and files is None:
        raise ConfigError("--label-studio-pairs needs --label-studio-files DIR")
    predictor = Predictor(run, tiling, device)
    about = predictor.describe()
    home = run.resolve()
    name = config.name or (home.stem if home.is_file() else home.name)
    service = Service(predictor, name, config.max_pixels, config.timeout)
    routers = [predictions_router(service), health_router, inference_router(service)]
    if files is not None:
        routers.append(label_studio_router(service, files, pairs))
    limits = Limits(
        body=round(config.max_body * 2**20), requests=config.max_requests, seconds=config.timeout
    )
    return build_app(routers, limits, token, f"unetseg: {name}"), f"{name} on {about}"
