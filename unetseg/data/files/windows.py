"""Windows: rectangles of images, cut out, and found on the image as it is stored."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Window(NamedTuple):
    """A rectangle of an image, pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.top + self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns: `image[window.slices]` for H×W×C, `logits[:, *window.slices]`."""
        return slice(self.top, self.bottom), slice(self.left, self.left + self.width)


def inside(window: Sequence[int], size: Sequence[int]) -> Window:
    """The window (top, left, height, width), which lies in an image of this height and width.

    Raises:
        ValueError: it does not.
    """
    top, left, height, width = found = Window(*window)
    lies_inside = 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1]
    if not lies_inside or not height or not width:
        raise ValueError(f"{found} does not lie in an image of {size[0]}×{size[1]}")
    return found


def cut(pixels: NDArray[Any], window: Sequence[int]) -> NDArray[Any]:
    """A copy of the window (top, left, height, width) of an array H×W….

    Raises:
        ValueError: the window does not lie inside.
    """
    return pixels[inside(window, pixels.shape).slices].copy()


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply the orientation (1–8) of EXIF 2.32, section 4.6.4, to H×W×C; from 5 on sides swap."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return pixels


def stored_window(window: Sequence[int], size: tuple[int, int], orientation: int) -> Window:
    """A window of an upright image on the stored one: `upright` backwards.

    Raises:
        ValueError: it does not lie in the upright image, whose height and width are `size`.
    """
    top, left, height, width = inside(window, size)
    if orientation in {3, 4, 7, 8}:
        top = size[0] - top - height
    if orientation in {2, 3, 6, 7}:
        left = size[1] - left - width
    return Window(left, top, width, height) if orientation > 4 else Window(top, left, height, width)
