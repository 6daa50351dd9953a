"""What the words in the names of files and folders say: split, role, and why a file takes no part.

Names are cut into words and numbers first: `leftImg8bit` is left, img, 8, bit. The lists are the
words that public data sets use, in several languages; what they do not know, the files' contents
say (`content.py`).
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

Role = Literal["image", "mask", "data"]

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
SPLIT_NAMES = ("train", "val", "test")
_TOKEN = re.compile(
    r"\d+(?:st|nd|rd|th)(?![a-z])|\d+|[A-ZÀ-ÖØ-Þ]+(?![a-zß-öø-ÿ])|[A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+"
    r"|[^\W\d_A-Za-zÀ-ÖØ-öø-ÿ]+"
)
_GLUED = re.compile(
    r"(?<![A-Za-z])(training|train|validation|valid|val|testing|test)(?=ima?g|mask|label|annot)|"
    r"(ground)[ _-]?(?=truths?)",
    re.IGNORECASE,
)
_NNUNET = re.compile(r"(?<=s)T([rs])(?![a-z])")  # imagesTr, labelsTr, imagesTs
_WITH = re.compile(  # frames-with-annotations, images_and_masks; not random_train, gland_masks
    r"(?i:with|without)[-_ ]?\w+|(?<![A-Za-z])(?i:and)[-_ ]\w+|(?<=[a-z])And(?=[A-Z])\w+"
    r"|(?<=[Hh])(?i:and[-_ ]?labell?ed)"  # HandLabeled/{S2Hand,LabelHand} is a place
)
_FILLERS = frozenset({"set", "sets", "folder", "folders", "dir", "data", "dataset"})

_MASK = re.compile(
    r"\w*masks?|\w+maps|label(?!me)\w*|lab|labs|lbls?|ann|anns|anno|annos|annot\w*|gts?|groundtruths?|truths?"
    r"|segs?|segm|segment\w*|semantic\w*|targets?|trimaps?|mattes?|alphas?|manual\w*|map|maps|y"
    r"|lesions?|silhouettes?|stencils?|fuse"
    r"|m[aá]scaras?|masques?|maske\w*|masker|etiquetas?|etichett\w+|v[eé]rit[eé]s?|wahrheit\w*"
    r"|маск\w*|разметк\w*|метк\w*"
    r"|\w*(?:标签|标注|掩码|掩膜|蒙版|分割|真值|ラベル|マスク|正解|教師|마스크|라벨|정답)\w*"
)
_IMAGE = re.compile(
    r"ima?ge?s?|imgs?|photos?|pictures?|pics?|inputs?|src|sources?|orgs?|origs?|originals?|raws?|rgb"
    r"|frames?|x|sat|satellite|jpe?g|jpe?gimages|stills|orthos?|orthophotos?|xrays?|cxr"
    r"|fotos?|bild(?:er)?|bilder|im[aá]gen\w*|immagin\w+|imagem|imagens|im"
    r"|изображ\w*|снимк\w*|фото\w*"
    r"|\w*(?:原图|图像|图片|影像|画像|写真|入力|원본|이미지|사진)\w*"
)
DEPTH = "depth or height"
FIELD_OF_VIEW = "a field of view"
PART = "a part of the masks"
OTHER_BAND = "another band"
PREDICTION = "a prediction or another output"
PICTURE = "a picture for people"
_ASIDE = {
    PREDICTION: re.compile(
        r"pred\w*|outputs?|heatmaps|flows?|probabilit\w*|results?|infer\w*|comparisons?|logs?|checkpoints?|figures?|plots?"
    ),
    PICTURE: re.compile(
        r"overlay\w*|previews?|vis|viz|visual\w*|blend\w*|cutouts?|thumb\w*|examples?|demo|pyramid"
    ),
    DEPTH: re.compile(r"depths?|dems?|dsms?|ndsm|dtms?|disparit\w+|heights?|elevation"),
    "superpixels": re.compile(r"superpixels?"),
    FIELD_OF_VIEW: re.compile(r"fovs?"),
    PART: re.compile(r"parts|rois?|skeletons?|centerlines?|centers?|centres?"),
}
"""Words of files that are neither image nor mask."""
_COLOURS = "a copy in colours"
SECOND_OBSERVER = "a second observer"
_OUTPUT = frozenset({"output", "outputs"})  # mask_output is a mask
_SECOND = {
    "numbers objects": re.compile(r"instances?|instanceids|inst|panoptic|objects?|ids?"),
    _COLOURS: re.compile(r"colou?rs?|coloured"),
    "for the eyes of people": re.compile(r"pseudo|human|palette"),
    SECOND_OBSERVER: re.compile(r"2nd|second"),
    "drawn for watersheds": re.compile(r"watershed"),
    "outlines": re.compile(r"edges?|boundar\w+|contours?|noboundary|borders?"),
    "augmented copies": re.compile(r"aug\w*"),
    OTHER_BAND: re.compile(r"nir|ir|thermal|irrg"),
}
"""Words of files that take part only where nothing plainer does."""


class Said(NamedTuple):
    """What a name says.

    Attributes:
        role: Image or mask; "data" for a folder of that name; None where no word says.
        split: train, val or test.
        aside: Why it takes no part, or nothing.
        second: Why something plainer is preferred, or nothing.
        words: The words that say the role.
        rest: The other words and the ordinals, without split.
        numbers: The numbers.
    """

    role: Role | None
    split: str | None
    aside: str
    second: str
    words: tuple[str, ...]
    rest: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def says_side(self) -> bool:
        """Whether it says image, mask, or neither."""
        return self.role in {"image", "mask"} or bool(self.aside)

    @property
    def tells(self) -> bool:
        """Whether it says anything about the part that a file takes."""
        return self.says_side or bool(self.second)


@cache
def tokens(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, in lower case and composed Unicode form.

    >>> tokens("Spain_S2Hand.v10")
    ('spain', 's', '2', 'hand', 'v', '10')
    """
    text = unicodedata.normalize("NFC", name)
    text = _NNUNET.sub(lambda end: {"r": "_train", "s": "_test"}[end[1]], text)
    text = _GLUED.sub(lambda word: f"{word[0]}_" if word[1] else "ground", text)
    return tuple(token.lower() for token in _TOKEN.findall(text))


@cache
def read_name(name: str) -> Said:
    """Role, split and the rest of a name."""
    parts = tokens(_WITH.sub("", name) or name)
    split = next((SPLITS[part] for part in parts if part in SPLITS), None)
    letters = [p for p in parts if not p.isdigit() and p not in SPLITS]
    masks = [part for part in letters if _MASK.fullmatch(part)]
    images = [part for part in letters if _IMAGE.fullmatch(part)]
    role: Role | None = "mask" if masks else "image" if images else None
    if role is None and "data" in parts:
        role = "data"
    return Said(
        role,
        split,
        "" if masks and _OUTPUT.intersection(letters) else _first(_ASIDE, letters),
        _second(letters, masks),
        tuple(masks or images),
        tuple(p for p in letters if p not in (masks or images) and p not in _FILLERS),
        tuple(part for part in parts if part.isdigit()),
    )


def split_of(*names: str) -> str | None:
    """The split that the name of a file or folder says, the first of several.

    >>> split_of("instances_train2017"), split_of("trainval"), split_of("photos", "val")
    ('train', None, 'val')
    """
    for name in names:
        split = read_name(name).split
        if split and "trainval" not in re.findall("[a-z]+", name.lower()):
            return split
    return None


def _first(reasons: Mapping[str, re.Pattern[str]], letters: Sequence[str]) -> str:
    """The first reason of which one of the words is, or nothing."""
    return next((why for why, word in reasons.items() if any(map(word.fullmatch, letters))), "")


def _second(letters: Sequence[str], masks: Sequence[str]) -> str:
    why = _first(_SECOND, letters)
    if why == _COLOURS and not masks:
        return ""  # beside depth, the colours are the photo's
    return why or (_COLOURS if masks and "rgb" in letters else "")


def is_output(folder: str) -> bool:
    """Whether a folder's name says predictions, overlays or the like."""
    return read_name(folder).aside in {PREDICTION, PICTURE}


def says_mask(word: str) -> bool:
    """Whether a part of a file name, such as `mask`, `manual1` or `LabelHand`, means a mask."""
    return any(_MASK.fullmatch(token) for token in tokens(word)[:1])


def fold(name: str) -> str:
    """What is left of a name where neither case nor Unicode form counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def says_side(word: str) -> bool:
    """Whether a word of a file's name says image, mask or neither; x and y are letters there."""
    return len(word) > 1 and read_name(word).says_side


@cache
def says_role(word: str) -> bool:
    """Whether a word of a file's name says something that image and mask do not share."""
    said = read_name(word)
    is_second = any(second.fullmatch(word) for second in _SECOND.values())
    return len(word) > 1 and bool(said.tells or said.role or said.split or is_second)
