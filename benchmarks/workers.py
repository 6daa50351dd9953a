"""What the contenders' processes run; see `contenders.py` for how they are told to work.

    python -m benchmarks.workers predict plain classic WEIGHTS IMAGES OUTPUT DEVICE

The processes of the plain scripts import nothing of unetseg.
"""

import itertools
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.contenders import serve

EPOCHS = 1000
"""Of our training: more than any measurement lasts."""


def predict_script(kind: str, network: str, weights: str, *rest: str) -> None:
    """A plain script at work: IMAGES OUTPUT DEVICE."""
    from benchmarks.baseline import Model, predict

    images, output, device = Path(rest[0]), Path(rest[1]), rest[2]
    model, paths = Model(kind, network, Path(weights), device), _endless(images)
    output.mkdir(parents=True, exist_ok=True)
    serve(lambda count: predict(model, list(itertools.islice(paths, count)), output))


def predict_ours(run: str, *rest: str) -> None:
    """Our pipeline at work on folders of a few images, loaded once: IMAGES OUTPUT DEVICE ENGINE."""
    from unetseg.config import DeviceConfig, PredictConfig
    from unetseg.prediction.outputs import plan_job
    from unetseg.prediction.predict import Prediction, predict_images
    from unetseg.prediction.predictor import Predictor

    images, output = Path(rest[0]), Path(rest[1])
    device = DeviceConfig.model_validate({"device": rest[2], "engine": rest[3]})
    config = PredictConfig(existing="overwrite")
    predictor, paths = Predictor(Path(run), config, device), _endless(images)
    class_map = predictor.info.class_map

    def work(count: int) -> None:
        some = itertools.islice(paths, count)
        jobs = [plan_job(path, output / path.stem, class_map) for path in some]
        result = Prediction()
        predict_images(predictor, jobs, config, result)
        if result.failures:
            raise SystemExit(f"these images failed: {result.failures}")

    serve(work, engine=predictor.engine.choice.name, machine=str(predictor.machine))


def train_script(kind: str, network: str, data: str, device: str) -> None:
    """A plain script that trains."""
    from benchmarks.baseline import train

    losses = train(kind, network, Path(data), device)
    serve(lambda count: list(itertools.islice(losses, count)))


def train_ours(network: str, data: str, device: str, folder: str, workers: str = "") -> None:
    """`unetseg train`, which waits for orders between its steps; WORKERS processes load."""
    from benchmarks.contenders import InTurns, NoMoreOrders
    from benchmarks.networks import NETWORKS
    from unetseg.config import TrainConfig
    from unetseg.training.fit import train

    training = {
        "optimizer": "adamw",  # as the plain scripts
        "patch": 256,
        "batch": 8,
        "augment": "full",
        "upright": "no",
        "epochs": EPOCHS,
    }
    runtime = {"device": device} | ({"workers": int(workers)} if workers else {})
    config = TrainConfig.model_validate(
        {"network": NETWORKS[network], "training": training, "runtime": runtime}
    )
    with suppress(NoMoreOrders):
        train(data, config, out=folder, name=network, progress=InTurns())


def forward_script(kind: str, network: str, height: str, width: str, device: str) -> None:
    """A plain script's network at work on one image in memory."""
    import torch

    from benchmarks.baseline import FORWARD, build

    net = build(network, kind, device).eval()
    image, forward = torch.randn(1, 3, int(height), int(width), device=device), FORWARD[kind]
    serve(_repeat(lambda: forward(net, image)))


def forward_ours(run: str, height: str, width: str, device: str, engine: str) -> None:
    """The network of a run at work on one prepared image."""
    import torch

    from unetseg.config import DeviceConfig
    from unetseg.prediction.predictor import Predictor

    config = DeviceConfig.model_validate({"device": device, "engine": engine})
    predictor = Predictor(Path(run), device=config)
    image = torch.randn(1, 3, int(height), int(width), device=predictor.machine.device)
    image = image.contiguous(memory_format=torch.channels_last)
    choice = predictor.engine.choice
    with torch.inference_mode():
        serve(_repeat(lambda: choice.backend(image)), engine=choice.name)


def multiply(side: str, device: str) -> None:
    """A product of square matrices, in the arithmetic that unetseg chooses here."""
    import torch

    from unetseg.config import DeviceConfig
    from unetseg.runtime import start

    machine = start(DeviceConfig(device=device))
    a, b, product = (
        torch.randn(int(side), int(side), device=machine.device).to(machine.dtype) for _ in range(3)
    )
    serve(_repeat(lambda: torch.mm(a, b, out=product)), dtype=str(machine.dtype))


def _repeat(work: Callable[[], object]) -> Callable[[int], None]:
    """What works several times."""

    def repeated(count: int) -> None:
        for _ in range(count):
            work()

    return repeated


def _endless(folder: Path) -> "itertools.cycle[Path]":
    """The files of a folder in their order, again and again."""
    return itertools.cycle(sorted(folder.iterdir()))


WORK: dict[str, Callable[..., None]] = {
    "predict-script": predict_script,
    "predict-ours": predict_ours,
    "train-script": train_script,
    "train-ours": train_ours,
    "forward-script": forward_script,
    "forward-ours": forward_ours,
    "multiply": multiply,
}

if __name__ == "__main__":
    WORK[sys.argv[1]](*sys.argv[2:])
