"""Where the images are taken from, all the right way up."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera of MetaWorld's own by `name`, or a place of ours.

    Attributes:
        upside_down: MetaWorld mounts it so; the image is turned by half a turn.
        lookat: point in the middle of the image, metres.
        distance: from that point, metres.
        azimuth, elevation: direction of the look, degrees.
    """

    name: str | None = None
    upside_down: bool = False
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 0.0
    azimuth: float = 0.0
    elevation: float = 0.0

    def upright(self, image: np.ndarray) -> np.ndarray:
        """A turn, not a flip: that would mirror the scene."""
        return np.ascontiguousarray(np.rot90(image, 2)) if self.upside_down else image


CAMERAS = {
    # Near enough that at 64 pixels the fingers are four of them; from the right of the robot, over its table.
    "near": Camera(lookat=(0.0, 0.68, 0.18), distance=1.1, azimuth=140.0, elevation=-33.0),
    "corner": Camera("corner", upside_down=True),
    "corner2": Camera("corner2", upside_down=True),
    "corner3": Camera("corner3", upside_down=True),
    "corner4": Camera("corner4", upside_down=True),
    "topview": Camera("topview"),
}
