"""What a folder was found to hold, as far as it could be read: the checks look at nothing else."""

from dataclasses import dataclass
from pathlib import Path

from unetseg.data.facts.fingerprint import PairFacts
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.pairs.match import Pair


@dataclass(frozen=True)
class Evidence:
    """Pairs and their facts.

    Attributes:
        root: The folder.
        pairs: Every pair of which both files could be read, sorted by name.
        facts: The facts of each, in the same order.
        class_map: What the mask values mean; None where they make no sense.
        names: Whether the classes come from a class list.
        own_splits: Whether the splits of the pairs are those of the folder, and not drawn by us.
    """

    root: Path
    pairs: tuple[Pair, ...]
    facts: tuple[PairFacts, ...]
    class_map: ClassMap | None = None
    names: bool = False
    own_splits: bool = False
