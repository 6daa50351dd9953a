"""How fast images of one size go."""

from dataclasses import dataclass

MOST_ROUNDS = 50
"""Rounds after which nothing more is learned."""


@dataclass(frozen=True)
class Pace:
    """How fast images of one size go.

    >>> pace = Pace(seconds=0.5, pixels=2e6, gflop=100)
    >>> pace.images_per_second, pace.megapixels_per_second, pace.gflops
    (2.0, 4.0, 200.0)
    """

    seconds: float
    """For one image."""
    pixels: float
    """Of one image, height × width."""
    gflop: float
    """Convolutions and matrix products of one image; multiplication and addition count as two."""

    @property
    def images_per_second(self) -> float:
        """Images per second."""
        return 1 / self.seconds

    @property
    def megapixels_per_second(self) -> float:
        """10⁶ pixels per second, the bands not counted."""
        return self.pixels / self.seconds / 1e6

    @property
    def gflops(self) -> float:
        """10⁹ floating-point operations per second."""
        return self.gflop / self.seconds

    def to_json(self) -> dict[str, float]:
        """All figures, milliseconds for one image first."""
        return {
            "milliseconds": 1000 * self.seconds,
            "images_per_second": self.images_per_second,
            "megapixels_per_second": self.megapixels_per_second,
            "gflops": self.gflops,
        }
