"""What the tabletop looks like: the backdrop behind the bodies, and the bodies' meshes. Metres."""

import numpy as np

VIEW = 0.56  # metres that the image covers, both ways
RIM = 0.205  # the rim's inner face, where blocks stop

# The still picture behind the bodies, painted in this order: (half width in metres, RGB).
BACKDROP = (
    (np.inf, (0.25, 0.28, 0.33)),  # floor
    (0.265, (0.62, 0.47, 0.33)),  # table
    (RIM + 0.009, (0.40, 0.28, 0.18)),  # rim
    (RIM, (0.86, 0.84, 0.80)),  # tray
)

EFFECTOR_COLOUR = (0.10, 0.10, 0.10)

# Shape -> (sides of the prism, distance of its corners from its axis in metres)
PRISMS = {"cube": (4, 0.0425), "cylinder": (14, 0.032), "triangle": (3, 0.045)}


def paint_backdrop(size: int) -> np.ndarray:
    """uint8[size, size, 3]: concentric squares of `BACKDROP` as the camera sees them."""
    centres = np.abs((np.arange(size) + 0.5) / size - 0.5) * VIEW
    reach = np.maximum(centres[:, None], centres[None, :])
    image = np.zeros((size, size, 3))
    for half, colour in BACKDROP:
        image[reach <= half] = colour
    return np.round(image * 255).astype(np.uint8)


def prism(sides: int, radius: float, height: float) -> tuple[list, list]:
    """Vertices (metres) and triangle indices of an upright regular prism around its centre."""
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius
    bottom = np.column_stack([ring, np.full(sides, -height / 2)])
    top = np.column_stack([ring, np.full(sides, height / 2)])
    indices = []
    for i in range(sides):
        j = (i + 1) % sides
        indices += [i, j, sides + j, i, sides + j, sides + i]  # wall
    for i in range(1, sides - 1):
        indices += [sides, sides + i, sides + i + 1, 0, i + 1, i]  # lid, floor
    return np.concatenate([bottom, top]).tolist(), indices
