"""The transforms of each profile of augmentations; two of them as albumentations has, but faster.

These two draw the same and give the same pixels. Import it late: albumentations takes a second.
"""

from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

KERNEL = 17
"""Side of the Gaussian that albumentations smooths approximate displacements with, pixels."""
_MOST_CHANNELS = 4  # that OpenCV turns
_TURNS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "e": lambda image: image,
    "r90": lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
    "r180": lambda image: cv2.rotate(image, cv2.ROTATE_180),
    "r270": lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    "v": lambda image: cv2.flip(image, 0),
    "h": lambda image: cv2.flip(image, 1),
    "t": cv2.transpose,
    "hvt": lambda image: cv2.transpose(cv2.rotate(image, cv2.ROTATE_180)),
}


class Elastic(A.ElasticTransform):  # type: ignore[misc]  # albumentations has no types
    """An approximate elastic deformation with Gaussian displacements that keeps the middle alone.

    Args:
        size: Side of the square in the middle that is kept, pixels.
        alpha: Factor of the displacements.
        sigma: Deviation of the Gaussian that smooths them, pixels.
        border_mode: How OpenCV continues the image.
        p: Probability.
    """

    def __init__(self, size: int, alpha: float, sigma: float, border_mode: int, p: float) -> None:
        super().__init__(alpha=alpha, sigma=sigma, approximate=True, border_mode=border_mode, p=p)
        self.size = size

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, NDArray[np.float32]]:
        """For each pixel of the result where in the image it comes from."""
        height, width = params["shape"][:2]
        moves = self.random_generator.standard_normal((2, height, width), np.float32)
        moves = moves.reshape(-1, width)  # albumentations smooths both at once, so one in the other
        largest = cv2.norm(moves, cv2.NORM_INF)
        if largest > 1e-6:
            moves /= np.float32(largest)
        border = cv2.BORDER_REPLICATE
        cv2.GaussianBlur(moves, (KERNEL, KERNEL), self.sigma, dst=moves, borderType=border)
        moves *= np.float32(self.alpha)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        middle = slice(top, top + self.size), slice(left, left + self.size)
        columns, rows = (move[middle] for move in moves.reshape(2, height, width))
        return {
            "map_x": columns + np.arange(left, left + self.size, dtype=np.float32),
            "map_y": rows + np.arange(top, top + self.size, dtype=np.float32)[:, None],
        }


class Symmetry(A.SquareSymmetry):  # type: ignore[misc]
    """One of the eight symmetries of the square."""

    def apply(self, img: NDArray[Any], group_element: str, **params: Any) -> NDArray[Any]:
        """Turn or mirror an image H×W×C or a mask H×W."""
        if img.ndim == 3 and img.shape[2] > _MOST_CHANNELS:
            return np.asarray(super().apply(img, group_element, **params))
        return _TURNS[group_element](img).reshape(img.shape)


def pipeline(profile: str, size: int, upright: bool) -> A.Compose:
    """All transforms of a profile, see `Augmenter`, in order."""
    return A.Compose([*geometry(profile, size, upright), *colour(profile)])


def geometry(profile: str, size: int, upright: bool) -> list[A.BasicTransform]:
    """Transforms that move pixels; the mask moves with the image, by nearest neighbour."""
    if profile == "none":
        return []
    flips = A.HorizontalFlip(p=0.5) if upright else Symmetry(p=1.0)
    if profile == "light":
        return [flips]
    reflect = cv2.BORDER_REFLECT_101
    degrees = 8 if upright else 45
    return [
        A.Affine(
            scale=(0.7, 1.4),
            rotate=(-degrees, degrees),
            balanced_scale=True,
            border_mode=reflect,
            p=0.6,
        ),
        Elastic(size, alpha=60, sigma=8, border_mode=reflect, p=0.15),
        A.CenterCrop(size, size),
        flips,
    ]


def colour(profile: str) -> list[A.BasicTransform]:
    """Transforms that change values; the mask stays as it is."""
    if profile == "none":
        return []
    brightness = A.RandomBrightnessContrast(0.25, 0.25, brightness_by_max=False, p=0.5)
    if profile == "light":
        return [brightness]
    return [
        brightness,
        A.RandomGamma((70, 140), p=0.3),
        A.GaussNoise(std_range=(0.01, 0.06), p=0.15),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.2), p=0.15),
    ]
