"""The plain scripts that unetseg is measured against, as people write them.

    python -m benchmarks.baseline plain NETWORK WEIGHTS IMAGES OUTPUT
    python -m benchmarks.baseline flags NETWORK WEIGHTS IMAGES OUTPUT

"plain": float32, one image at a time, Pillow in and out, argmax. "flags": the same with
the flags that everybody knows: inference mode, autocast to bfloat16, channels_last.
Nothing of unetseg is imported here: its memory allocator setting would help the scripts too.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

LR, WEIGHT_DECAY, CLIP = 1e-3, 0.01, 1.0


# -------------------------------------------------------------------- networks


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """(convolution => BN => ReLU) * 2."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """The U-Net with padding and batch norm; of width 64 and two classes it has 31,037,698 weights.

    Args:
        width: Channels of the first level.
    """

    def __init__(self, width: int = 64, classes: int = 2) -> None:
        super().__init__()
        widths = [width, width * 2, width * 4, width * 8, width * 16]
        self.inc = double_conv(3, width)
        self.pool = nn.MaxPool2d(2)
        self.downs = nn.ModuleList(double_conv(widths[i], widths[i + 1]) for i in range(4))
        widths.reverse()
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(widths[i], widths[i + 1], kernel_size=2, stride=2) for i in range(4)
        )
        self.blocks = nn.ModuleList(double_conv(widths[i], widths[i + 1]) for i in range(4))
        self.outc = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised image N×3×H×W → logits N×K×H×W; sides are multiples of 16."""
        skips = []
        x = self.inc(x)
        for down in self.downs:
            skips.append(x)
            x = down(self.pool(x))
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.outc(x)
        return logits


class ResNetUNet(nn.Module):
    """A U-Net on the resnet34 of segmentation-models-pytorch, with its decoder's widths."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        from segmentation_models_pytorch.encoders import get_encoder

        self.encoder = get_encoder("resnet34", weights=None)
        below, skips, widths = (
            [512, 256, 128, 64, 32],
            [256, 128, 64, 64, 3],
            [256, 128, 64, 32, 16],
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(i, o, kernel_size=2, stride=2)
            for i, o in zip(below, widths, strict=True)
        )
        self.blocks = nn.ModuleList(
            double_conv(s + o, o) for s, o in zip(skips, widths, strict=True)
        )
        self.outc = nn.Conv2d(widths[-1], classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised image N×3×H×W → logits N×K×H×W; sides are multiples of 32."""
        *skips, x = self.encoder(x)
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.outc(x)
        return logits


def build(network: str, kind: str = "plain", device: str = "cpu") -> nn.Module:
    """The network called classic, base32, base16 or resnet34; channels_last for "flags"."""
    widths = {"classic": 64, "base32": 32, "base16": 16}
    net = ResNetUNet() if network == "resnet34" else UNet(widths[network])
    layout = torch.channels_last if kind == "flags" else torch.contiguous_format
    net.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    return net


# ------------------------------------------------------------------ prediction


class Model:
    """A trained network and the statistics it wants its images scaled by.

    Args:
        kind: plain or flags.
        network: Its name, as for `build`.
        weights: A file of `torch.save`: model, mean and std (of pixels 0–1).
        device: cpu or cuda.
    """

    def __init__(self, kind: str, network: str, weights: Path, device: str = "cpu") -> None:
        checkpoint = torch.load(weights, weights_only=True)
        self.device = device
        self.mean = np.array(checkpoint["mean"], dtype=np.float32)
        self.std = np.array(checkpoint["std"], dtype=np.float32)
        self.net = build(network, kind, device).eval()
        self.net.load_state_dict(checkpoint["model"])
        self.forward = FORWARD[kind]

    def read(self, path: Path) -> Tensor:
        """A normalised image, 1×3×H×W."""
        image = np.array(Image.open(path).convert("RGB"), dtype=np.float32) / 255
        image = (image - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).unsqueeze(0)


def write_mask(logits: Tensor, image: Path, output: Path) -> None:
    """Write the class of each pixel."""
    mask = logits.argmax(dim=1)[0].cpu().numpy().astype(np.uint8)
    Image.fromarray(mask).save(output / f"{image.stem}.png")


@torch.no_grad()
def forward_plain(net: nn.Module, x: Tensor) -> Tensor:
    """The network in float32."""
    logits: Tensor = net(x)
    return logits


@torch.inference_mode()
def forward_flags(net: nn.Module, x: Tensor) -> Tensor:
    """The network in channels_last and mixed precision."""
    x = x.to(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        logits: Tensor = net(x)
    return logits


FORWARD = {"plain": forward_plain, "flags": forward_flags}


def predict(model: Model, images: Sequence[Path], output: Path) -> None:
    """Predict one image after the other."""
    for path in images:
        x = model.read(path).to(model.device)
        write_mask(model.forward(model.net, x), path, output)


# -------------------------------------------------------------------- training


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks (0 and 255) of equal names in two folders, as augmented crops of 256².

    Args:
        folder: Holds images/ and masks/.
        mean: Of the training pixels, 0–1.
        std: Of the training pixels, 0–1.
    """

    def __init__(self, folder: Path, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = sorted((folder / "images").iterdir())
        self.masks = sorted((folder / "masks").iterdir())
        self.transform = augmentation(256, mean, std)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.array(Image.open(self.images[index]).convert("RGB"))
        mask = (np.array(Image.open(self.masks[index])) > 0).astype(np.uint8)
        moved = self.transform(image=image, mask=mask)
        return moved["image"], moved["mask"].long()


def augmentation(size: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Crops, turned, scaled, bent, mirrored, brightened, blurred; as many as unetseg's own."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    reflect = cv2.BORDER_REFLECT_101
    return A.Compose(
        [
            A.RandomCrop(round(size * 1.25), round(size * 1.25)),
            A.Affine(
                scale=(0.7, 1.4),
                rotate=(-45, 45),
                balanced_scale=True,
                border_mode=reflect,
                p=0.6,
            ),
            A.ElasticTransform(alpha=60, sigma=8, approximate=True, border_mode=reflect, p=0.15),
            A.CenterCrop(size, size),
            A.SquareSymmetry(p=1.0),
            A.RandomBrightnessContrast(0.25, 0.25, brightness_by_max=False, p=0.5),
            A.RandomGamma((70, 140), p=0.3),
            A.GaussNoise(std_range=(0.01, 0.06), p=0.15),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.2), p=0.15),
            A.Normalize(mean, std),
            ToTensorV2(),
        ]
    )


def batches(pairs: Pairs, batch_size: int = 8) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, epoch after epoch."""
    loader = DataLoader(pairs, batch_size, shuffle=True, num_workers=2, drop_last=True)
    while True:
        yield from loader


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus the soft Dice of class 1."""
    probability = logits.float().softmax(dim=1)[:, 1]
    truth = (masks == 1).float()
    overlap = (probability * truth).sum()
    return 1 - (2 * overlap + 1e-5) / (probability.sum() + truth.sum() + 1e-5)


def step_plain(net: nn.Module, optimizer: Any, images: Tensor, masks: Tensor) -> float:
    """One training step in float32; its loss."""
    logits = net(images)
    loss = F.cross_entropy(logits, masks) + dice_loss(logits, masks)
    return descend(net, optimizer, loss)


def step_flags(net: nn.Module, optimizer: Any, images: Tensor, masks: Tensor) -> float:
    """The same with autocast and channels_last."""
    images = images.to(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        logits = net(images)
        loss = F.cross_entropy(logits, masks) + dice_loss(logits, masks)
    return descend(net, optimizer, loss)


def descend(net: nn.Module, optimizer: Any, loss: Tensor) -> float:
    """Move the weights along the gradient, clipped; the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), CLIP)
    optimizer.step()
    return loss.item()


STEP: dict[str, Callable[[nn.Module, Any, Tensor, Tensor], float]] = {
    "plain": step_plain,
    "flags": step_flags,
}


def train(kind: str, network: str, folder: Path, device: str = "cpu") -> Iterator[float]:
    """Train without end; the loss of each step."""
    torch.manual_seed(0)
    net = build(network, kind, device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    pairs = Pairs(folder, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    for images, masks in batches(pairs):
        yield STEP[kind](net, optimizer, images.to(device), masks.to(device))


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict a folder from the shell."""
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.baseline")
    parser.add_argument("kind", choices=FORWARD)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    model = Model(given.kind, given.network, given.weights, given.device)
    predict(model, sorted(given.images.iterdir()), given.output)


if __name__ == "__main__":
    main()
