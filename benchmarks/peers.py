"""What else people train with, in the same minutes: plain scripts on the same split.

    python -m benchmarks.peers smp FOLDER SECONDS SEED CLASSES BF16

"smp": segmentation-models-pytorch's Unet on a resnet34 from scratch, albumentations, AdamW, Dice
and cross-entropy, channels_last, bfloat16 where the processor has units for it (BF16 is 1).
"milesial": the recipe of the best known U-Net in PyTorch, from its published settings: the U-Net of
width 64 on whole images at half size, one at a time, RMSprop, float32, no augmentation. (Its
learning rate falls after five validations without a better one; there are fewer in these minutes,
so it stays.)

"nnunet" has a script and a Python of its own: nnunet.py.

FOLDER holds train/ and val/ with images/ (RGB PNG) and masks/ (class numbers, 255 ignored); masks
of the validation images go to FOLDER/predicted. Nothing of unetseg is imported by the scripts.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.baseline import UNet, descend
from benchmarks.nnunet import find_python

IGNORED = 255
SIDE, BATCH = 256, 8
MEAN, STD = 0.5, 0.25
Index = NDArray[np.uint8]


def train_peer(kind: str, data: Path, folder: Path, budget: float, seed: int) -> dict[str, Any]:
    """Train a peer in a process of its own, and score its masks as ours are scored."""
    from unetseg.config import TrainConfig
    from unetseg.data.crops.reader import PairReader
    from unetseg.data.facts.survey import survey
    from unetseg.evaluation.confusion import dice, iou, mean_over
    from unetseg.evaluation.counting import count_classes
    from unetseg.runtime import cpu_has_bf16

    python = find_python() if kind == "nnunet" else sys.executable
    known = survey(data, TrainConfig().data)
    classes = len(known.class_map.classes)
    for split in ("train", "val"):
        reader = PairReader(known.select(split), known.class_map, 3)
        for number in range(len(reader)):
            image, mask = reader[number]
            _save(folder / split / "images" / f"{number:05}.png", image)
            _save(folder / split / "masks" / f"{number:05}.png", mask)
    given = [folder, budget, seed, classes]
    command = [python, "-m", "benchmarks.peers", kind, *given, int(cpu_has_bf16())]
    if kind == "nnunet":
        has_background = int(known.class_map.background == 0)
        command = [python, "-m", "benchmarks.nnunet", *given, has_background]
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)
    counts = np.zeros((classes, classes), np.int64)
    for path in sorted((folder / "val" / "masks").iterdir()):
        truth, mask = (np.array(Image.open(p)) for p in (path, folder / "predicted" / path.name))
        counts += count_classes(truth, mask, classes)
    told: dict[str, Any] = json.loads((folder / "told.json").read_text())
    foreground = known.class_map.foreground
    score = float(mean_over(dice(counts), foreground))
    return told | {
        "dice": score,
        "iou": float(mean_over(iou(counts), range(classes))),
        "iou_foreground": float(mean_over(iou(counts), foreground)),
        "curve": [[told["seconds"], score]],
    }


def _save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# ------------------------------------------------------------------ the scripts


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops of 256², one of each image."""

    def __init__(self, folder: Path) -> None:
        import albumentations as A

        self.paths = sorted((folder / "images").iterdir())
        self.transform = A.Compose(
            [
                A.PadIfNeeded(SIDE, SIDE, border_mode=0, fill_mask=IGNORED),
                A.RandomCrop(SIDE, SIDE),
                A.HorizontalFlip(p=0.5),
                A.Affine(scale=(0.8, 1.2), rotate=(-15, 15), p=0.5, fill_mask=IGNORED),
                A.RandomBrightnessContrast(p=0.5),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = _read(self.paths[index])
        moved = self.transform(image=image, mask=mask)
        return _normalised(moved["image"]), torch.from_numpy(moved["mask"]).long()


def _read(path: Path) -> tuple[Index, Index]:
    """An image H×W×3, and its mask H×W."""
    mask = path.parent.with_name("masks") / path.name
    return np.array(Image.open(path).convert("RGB")), np.array(Image.open(mask))


def _normalised(image: Index) -> Tensor:
    return torch.from_numpy((image.transpose(2, 0, 1) / 255 - MEAN) / STD).float()


def _loop(batches: Iterator[tuple[Tensor, Tensor]], step: Callable[..., float], ends: float) -> int:
    """Steps until the time is over; how many."""
    steps = 0
    for images, masks in batches:
        step(images, masks)
        steps += 1
        if time.monotonic() > ends:
            break
    return steps


def smp(folder: Path, ends: float, classes: int, *, fast: bool) -> tuple[nn.Module, int, int]:
    """The plain script of today; network, steps, pixels of a step."""
    import segmentation_models_pytorch

    network = segmentation_models_pytorch.Unet("resnet34", encoder_weights=None, classes=classes)
    network = network.to(memory_format=torch.channels_last).train()
    dice_loss = segmentation_models_pytorch.losses.DiceLoss("multiclass", ignore_index=IGNORED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    began = time.monotonic()

    def step(images: Tensor, masks: Tensor) -> float:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * max(0.0, ends - time.monotonic()) / (ends - began)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            logits = network(images.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), masks, ignore_index=IGNORED)
        return descend(network, optimizer, loss + dice_loss(logits.float(), masks))

    crops = Crops(folder / "train")
    loader = DataLoader(crops, BATCH, shuffle=True, num_workers=2, drop_last=len(crops) >= BATCH)
    return network, _loop(_for_ever(loader), step, ends), BATCH * SIDE**2


def milesial(folder: Path, ends: float, classes: int) -> tuple[nn.Module, int, int]:
    """Whole images at half size, one by one; network, steps, pixels of a step."""
    network = Halved(UNet(64, classes)).train()
    optimizer = torch.optim.RMSprop(
        network.parameters(), lr=1e-5, weight_decay=1e-8, momentum=0.999, foreach=True
    )
    paths, pixels = sorted((folder / "train" / "images").iterdir()), 0

    def step(images: Tensor, masks: Tensor) -> float:
        nonlocal pixels
        pixels += masks.numel() // 4
        small = F.interpolate(masks[:, None].float(), scale_factor=0.5, mode="nearest")[:, 0].long()
        logits = network.inner(images)
        known = small != IGNORED
        truth = F.one_hot(small * known, classes).permute(0, 3, 1, 2) * known[:, None]
        shares = logits.softmax(1) * known[:, None]
        overlap = 2 * (shares * truth).sum((0, 2, 3))
        dice = (overlap + 1e-6) / (shares.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1e-6)
        loss = F.cross_entropy(logits, small, ignore_index=IGNORED) + 1 - dice.mean()
        return descend(network, optimizer, loss)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for index in torch.randperm(len(paths)).tolist():
                image, mask = _read(paths[index])
                masks = padded(torch.from_numpy(mask)[None].long(), value=IGNORED)
                yield halved(padded(_normalised(image)[None])), masks

    steps = _loop(batches(), step, ends)
    return network, steps, pixels // max(1, steps)


class Halved(nn.Module):
    """A network that sees images at half size, its logits brought back to full size."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W → N×K×H×W."""
        return F.interpolate(self.inner(halved(x)), x.shape[-2:], mode="bilinear")


def halved(images: Tensor) -> Tensor:
    """Half the size."""
    return F.interpolate(images, scale_factor=0.5, mode="bicubic")


def padded(pixels: Tensor, value: float = 0) -> Tensor:
    """…×H×W with sides that are multiples of 32, filled below and on the right."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % 32, 0, -height % 32), value=value)


def _for_ever(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


@torch.inference_mode()
def predict(network: nn.Module, folder: Path, *, fast: bool) -> None:
    """Write the class of each pixel of the validation images."""
    network.eval()
    for path in sorted((folder / "val" / "images").iterdir()):
        x = _normalised(np.array(Image.open(path).convert("RGB")))[None]
        height, width = x.shape[-2:]
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            logits = network(padded(x))
        mask = logits[0, :, :height, :width].argmax(0).to(torch.uint8)
        _save(folder / "predicted" / path.name, mask.numpy())


def main() -> None:
    """Train, and predict the validation images."""
    began = time.monotonic()
    kind, folder, budget, seed, classes, bf16 = sys.argv[1:]
    torch.manual_seed(int(seed))
    fast = kind == "smp" and bf16 == "1"
    scripts: dict[str, Callable[..., tuple[nn.Module, int, int]]]
    scripts = {"smp": partial(smp, fast=fast), "milesial": milesial}
    network, steps, pixels = scripts[kind](Path(folder), began + float(budget), int(classes))
    seconds = time.monotonic() - began
    predict(network, Path(folder), fast=fast)
    told = {"steps": steps, "pixels": steps * pixels, "width": None, "seconds": seconds}
    (Path(folder) / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
