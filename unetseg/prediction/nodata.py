"""What a mask holds where its image has no data.

Inside the program the index of such a pixel is `IGNORED`; in the mask it has its own code.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.data.masks.class_map import IGNORED, ClassMap, Code


def no_data_code(class_map: ClassMap) -> Code | None:
    """The code of a mask's pixels without data: of ignored pixels, or a number that is no class.

    That is the highest number of the masks' type without a meaning. Palettes and colours have no
    such code to spare: None.

    >>> from unetseg.data.masks.class_map import ClassInfo
    >>> cell = ClassInfo(name="cell", code=255, colour=(0, 0, 0))
    >>> no_data_code(ClassMap(classes=(cell,)))
    254
    """
    if class_map.ignore:
        return class_map.ignore[0]
    if class_map.coding != "integer":
        return None
    taken = {item.code for item in class_map.classes}
    highest = int(np.iinfo(class_map.dtype).max)
    return next(code for code in range(highest, highest - 256, -1) if code not in taken)


def no_data_tag(class_map: ClassMap) -> float | None:
    """What a mask of an image that may lack pixels declares as its no-data value."""
    code = no_data_code(class_map)
    return None if isinstance(code, tuple) else code


def mask_pixels(index: NDArray[np.uint8], class_map: ClassMap) -> NDArray[Any]:
    """Indexes (uint8 H×W, `IGNORED` without data) in the coding of the masks.

    Without data a pixel gets the no-data code, or where there is none, that of the background.
    """
    missing = index == IGNORED
    if not missing.any():
        return class_map.decode(index)
    pixels = class_map.decode(np.where(missing, np.uint8(class_map.background or 0), index))
    code = no_data_code(class_map)
    if code is not None:
        pixels[missing] = code
    return pixels
