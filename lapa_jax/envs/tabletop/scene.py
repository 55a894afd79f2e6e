"""The physical scene: a tray with blocks and an effector, in one PyBullet client of its own.

Seen from straight above: image right is +x, image up is +y, and the image shows
0.56 x 0.56 metres around the origin. Blocks slide and turn on the table but never tumble
(their inertia about x and y is infinite). A low rim keeps them in; the effector passes above it,
so that it can always get behind a block.
"""

from collections.abc import Sequence

import numpy as np

from lapa_jax.envs import extras
from lapa_jax.envs.tabletop import appearance, language, tasks

pybullet = extras.require("pybullet", "tabletop")
bullet_client = extras.require("pybullet_utils.bullet_client", "tabletop")

CAMERA_HEIGHT = 3.0  # metres; far away, so that tall bodies hardly lean outwards
CONTROL_SECONDS = 0.1
SUBSTEPS = 6  # physics steps per control step

EFFECTOR_RADIUS = 0.025
EFFECTOR_HEIGHT = 0.07
EFFECTOR_MASS = 1.0
BLOCK_HEIGHT = 0.035
BLOCK_MASS = 0.05
GRAVITY = 9.8


class Scene:
    """Blocks, effector and camera. All positions are centres in metres, (x, y)."""

    def __init__(self, image_size: int):
        self._image_size = image_size
        self._client = bullet_client.BulletClient(connection_mode=pybullet.DIRECT)
        self._view = pybullet.computeViewMatrix((0, 0, CAMERA_HEIGHT), (0, 0, 0), (0, 1, 0))
        fov = np.degrees(2 * np.arctan(appearance.VIEW / 2 / CAMERA_HEIGHT))
        self._projection = pybullet.computeProjectionMatrixFOV(
            fov, 1.0, CAMERA_HEIGHT - 0.5, CAMERA_HEIGHT + 0.5
        )
        self._backdrop = appearance.paint_backdrop(image_size)
        self._blocks: list[int] = []
        self._effector = -1

    def build(
        self, objects: Sequence[tuple[str, str]], blocks: np.ndarray, yaws: np.ndarray,
        effector: np.ndarray,
    ) -> None:
        """Clears the world and puts `objects`, (colour, shape) pairs, at `blocks` float[N, 2]."""
        self._client.resetSimulation()
        self._client.setGravity(0, 0, -GRAVITY)
        self._client.setTimeStep(CONTROL_SECONDS / SUBSTEPS)
        self._add_table()
        self._blocks = [
            self._add_block(*pair, position, yaw)
            for pair, position, yaw in zip(objects, blocks, yaws, strict=True)
        ]
        self._effector = self._add_effector(effector)

    def step(self, delta: np.ndarray) -> None:
        """Drives the effector by `delta` float[2] metres within one control step."""
        limit = tasks.EFFECTOR_LIMIT
        goal = np.clip(self.effector() + delta, -limit, limit)
        seconds = CONTROL_SECONDS / SUBSTEPS
        for remaining in range(SUBSTEPS, 0, -1):
            x, y, z = self._client.getBasePositionAndOrientation(self._effector)[0]
            velocity_xy = (goal - (x, y)) / (remaining * seconds)
            hold_z = (EFFECTOR_HEIGHT / 2 + 0.002 - z) / seconds + GRAVITY * seconds
            self._client.resetBaseVelocity(
                self._effector, (*np.clip(velocity_xy, -0.5, 0.5), hold_z), (0, 0, 0)
            )
            self._client.stepSimulation()

    def effector(self) -> np.ndarray:
        """float[2]"""
        return np.array(self._client.getBasePositionAndOrientation(self._effector)[0][:2])

    def blocks(self) -> np.ndarray:
        """float[N, 2]"""
        pose = self._client.getBasePositionAndOrientation
        return np.array([pose(body)[0][:2] for body in self._blocks])

    def render(self) -> np.ndarray:
        """uint8[image_size, image_size, 3], from straight above."""
        size = self._image_size
        _, _, pixels, depth, _ = self._client.getCameraImage(
            size, size, self._view, self._projection,
            renderer=pybullet.ER_TINY_RENDERER, flags=pybullet.ER_NO_SEGMENTATION_MASK, shadow=0,
            lightDirection=(0.2, 0.3, 1.0), lightColor=(1, 1, 1),
            lightAmbientCoeff=0.6, lightDiffuseCoeff=0.4, lightSpecularCoeff=0.0,
        )
        colours = np.reshape(pixels, (size, size, 4))[..., :3].astype(np.uint8)
        empty = np.reshape(depth, (size, size, 1)) >= 1.0
        return np.where(empty, self._backdrop, colours)

    def close(self) -> None:
        """Disconnects the client; calling it again does nothing."""
        if self._client.isConnected():
            self._client.disconnect()

    def _add_table(self) -> None:
        """The table top and four walls, not drawn here: `appearance.BACKDROP` shows them."""
        halves, centres = [[0.5, 0.5, 0.05]], [[0.0, 0.0, -0.05]]
        for axis, sign in ((0, -1), (0, 1), (1, -1), (1, 1)):
            half, centre = [0.4, 0.4, 0.1], [0.0, 0.0, 0.0]
            half[axis], centre[axis] = 0.05, sign * (appearance.RIM + 0.05)
            halves.append(half)
            centres.append(centre)
        boxes = self._client.createCollisionShapeArray(
            shapeTypes=[pybullet.GEOM_BOX] * 5, halfExtents=halves, collisionFramePositions=centres
        )
        unseen = self._client.createVisualShape(
            pybullet.GEOM_BOX, halfExtents=[0.001] * 3, visualFramePosition=(0, 0, -10)
        )
        table = self._client.createMultiBody(0, boxes, unseen)
        self._client.setCollisionFilterGroupMask(table, -1, 1, 2)  # stops blocks only

    def _add_block(self, colour: str, shape: str, position: np.ndarray, yaw: float) -> int:
        sides, radius = appearance.PRISMS[shape]
        body = self._add_prism(
            sides, radius, BLOCK_HEIGHT, BLOCK_MASS, language.COLOURS[colour], position, yaw
        )
        self._client.setCollisionFilterGroupMask(body, -1, 2, 1 | 2 | 4)
        self._client.changeDynamics(
            body, -1, lateralFriction=0.5, restitution=0, linearDamping=0.6, angularDamping=0.9,
            localInertiaDiagonal=(0, 0, BLOCK_MASS * radius**2 / 2),
        )
        return body

    def _add_effector(self, position: np.ndarray) -> int:
        body = self._add_prism(
            14, EFFECTOR_RADIUS, EFFECTOR_HEIGHT, EFFECTOR_MASS,
            appearance.EFFECTOR_COLOUR, position, 0.0,
        )
        self._client.setCollisionFilterGroupMask(body, -1, 4, 2)
        self._client.changeDynamics(
            body, -1, lateralFriction=0.3, restitution=0, localInertiaDiagonal=(0, 0, 0)
        )
        return body

    def _add_prism(self, sides, radius, height, mass, colour, position, yaw) -> int:
        vertices, indices = appearance.prism(sides, radius, height)
        mesh = {"shapeType": pybullet.GEOM_MESH, "vertices": vertices}
        collision = self._client.createCollisionShape(**mesh)
        visual = self._client.createVisualShape(**mesh, indices=indices, rgbaColor=(*colour, 1))
        turn = pybullet.getQuaternionFromEuler((0, 0, yaw))
        return self._client.createMultiBody(
            mass, collision, visual, (*position, height / 2), turn
        )
