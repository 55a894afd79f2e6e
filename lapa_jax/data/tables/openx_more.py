"""The table, second half: sets converted to RLDS by their authors, and later additions. Data only.

Sources as in `openx`.
"""

from lapa_jax.data.tables.entries import Entry, Part
from lapa_jax.data.tables.openx import DELTA, READERS, SHEET, TFDS

_SOURCE = f"{TFDS}; {SHEET}; {READERS}"
_TWO_CAMERAS = {"image_primary": "observation/image", "image_wrist": "observation/wrist_image"}
_ONE_CAMERA = {"image_primary": "observation/image"}
_MOVE = Part("action", (0, 6))
_CLOSED_LAST = (_MOVE, Part("action", (6, 7), "clip_invert"))
_CLOSED = "1 open, 0 closed; was -1 open, +1 closed"
_ABSOLUTE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_COMMANDS = "Movements are commands to the controller, not metres (not checked by us)."
_SWAPPED = "Red and blue are swapped as published (OpenVLA's preparation swaps them back; we do not)."

ENTRIES = (
    Entry(
        name="stanford_hydra_dataset_converted_externally_to_rlds",
        rate=10,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=(_MOVE, Part("action", (6, 7), "invert")),
        proprio=(
            Part("observation/state", (0, 3)),
            Part("observation/state", (7, 10)),
            Part("observation/state", (24, 25)),
        ),
        widths={"action": 7, "observation/state": 27},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was 1 closed",
        source=_SOURCE,
        note=f"{_SWAPPED} {_COMMANDS}",
    ),
    Entry(
        name="austin_buds_dataset_converted_externally_to_rlds",
        rate=20,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=_CLOSED_LAST,
        proprio=(Part("observation/state", (0, 8)),),
        widths={"action": 7, "observation/state": 24},
        action_dim_names=DELTA,
        gripper=_CLOSED,
        source=_SOURCE,
        note=_COMMANDS,
    ),
    Entry(
        name="austin_sailor_dataset_converted_externally_to_rlds",
        rate=20,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=_CLOSED_LAST,
        proprio=(Part("observation/state"),),
        widths={"action": 7, "observation/state": 8},
        action_dim_names=DELTA,
        gripper=_CLOSED,
        source=_SOURCE,
        note=_COMMANDS,
    ),
    Entry(
        name="austin_sirius_dataset_converted_externally_to_rlds",
        rate=20,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=_CLOSED_LAST,
        proprio=(Part("observation/state"),),
        widths={"action": 7, "observation/state": 8},
        action_dim_names=DELTA,
        gripper=_CLOSED,
        source=_SOURCE,
        note=f"Human and autonomous steps, see action_mode. {_COMMANDS}",
    ),
    Entry(
        name="utaustin_mutex",
        rate=20,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=_CLOSED_LAST,
        proprio=(Part("observation/state", (0, 8)),),
        widths={"action": 7, "observation/state": 24},
        action_dim_names=DELTA,
        gripper=_CLOSED,
        source=_SOURCE,
        note=f"{_SWAPPED} Long instructions. {_COMMANDS}",
    ),
    Entry(
        name="nyu_franka_play_dataset_converted_externally_to_rlds",
        rate=3,
        images={"image_primary": "observation/image", "image_secondary": "observation/image_additional_view"},
        instruction="language_instruction",
        action=(Part("action", (7, 13)), Part("action", (13, 14), "clip01")),
        proprio=(Part("observation/state", (7, 13)),),
        widths={"action": 15, "observation/state": 13},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was a position, +1 open (Octo; not checked by us)",
        source=_SOURCE,
        note="Play: one instruction for all. Joint velocities and the end of the episode are left out.",
    ),
    Entry(
        name="furniture_bench_dataset_converted_externally_to_rlds",
        rate=10,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=(
            Part("action", (0, 3)),
            Part("action", (3, 7), "quaternion_to_rpy"),
            Part("action", (7, 8), "clip_invert"),
        ),
        proprio=(Part("observation/state", (0, 7)), Part("observation/state", (34, 35))),
        widths={"action": 8, "observation/state": 35},
        action_dim_names=DELTA,
        gripper=_CLOSED,
        source=f"features.json as listed by others; {SHEET}; {READERS}",
        note="The quaternion is read as x, y, z, w, as Octo does; not checked by us.",
    ),
    Entry(
        name="ucsd_kitchen_dataset_converted_externally_to_rlds",
        rate=2,
        images=_ONE_CAMERA,
        instruction="language_instruction",
        action=(Part("action", (0, 7)),),
        proprio=(Part("observation/state", (0, 7)),),
        widths={"action": 8, "observation/state": 21},
        action_dim_names=_ABSOLUTE,
        gripper="as published; which value is open is not known to us",
        source=_SOURCE,
        note="Absolute pose, by one reader in millimetres and degrees (not checked by us); Octo and OpenVLA take "
        "it as a difference. The end of the episode is left out.",
    ),
    Entry(
        name="dlr_edan_shared_control_converted_externally_to_rlds",
        rate=5,
        images=_ONE_CAMERA,
        instruction="language_instruction",
        action=(_MOVE, Part("action", (6, 7), "invert")),
        proprio=(Part("observation/state"),),
        widths={"action": 7, "observation/state": 7},
        action_dim_names=("x", "y", "z", "zxy angle 1", "zxy angle 2", "zxy angle 3", "gripper"),
        gripper="1 open, 0 closed; was 1 closed (Octo; not checked by us)",
        source=_SOURCE,
        note="Described as end-effector positions and Euler angles in the order zxy; Octo and OpenVLA take them as "
        "differences. Not checked by us.",
    ),
    Entry(
        name="iamlab_cmu_pickup_insert_converted_externally_to_rlds",
        rate=20,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=(Part("action"),),
        proprio=(Part("observation/state", (0, 8)),),
        widths={"action": 8, "observation/state": 20},
        action_dim_names=("x", "y", "z", "q1", "q2", "q3", "q4", "gripper"),
        gripper="as published; which value is open is not documented",
        source=_SOURCE,
        note="Absolute pose with a quaternion whose order is not documented: left as it is, eight columns.",
    ),
    Entry(
        name="berkeley_fanuc_manipulation",
        rate=10,
        images=_TWO_CAMERAS,
        instruction="language_instruction",
        action=(Part("action"), Part("observation/state", (6, 7), "invert")),
        proprio=(Part("observation/state", (0, 7)),),
        widths={"action": 6, "observation/state": 13},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; no command is stored, so the state, which was 1 closed (Octo)",
        source=_SOURCE,
        note="The feature is described as `gripper open status`, against Octo's reading; not checked by us. "
        + _SWAPPED,
    ),
    Entry(
        name="cmu_stretch",
        rate=10,
        images=_ONE_CAMERA,
        instruction="language_instruction",
        action=(Part("action", (0, 7)),),
        proprio=(Part("observation/state"),),
        widths={"action": 8, "observation/state": 4},
        action_dim_names=_ABSOLUTE,
        gripper="as published, binary; Octo takes 1 as open",
        source=_SOURCE,
        note="Described as position and rotation of the end effector; Octo and OpenVLA take them as differences. "
        "Not checked by us. The end of the episode is left out.",
    ),
    Entry(
        name="droid",
        rate=15,
        images={
            "image_primary": "observation/exterior_image_1_left",
            "image_secondary": "observation/exterior_image_2_left",
            "image_wrist": "observation/wrist_image_left",
        },
        instruction=("language_instruction", "language_instruction_2", "language_instruction_3"),
        action=(
            Part("action_dict/cartesian_velocity"),
            Part("action_dict/gripper_position", op="invert"),
        ),
        proprio=(Part("observation/cartesian_position"), Part("observation/gripper_position")),
        widths={
            "action_dict/cartesian_velocity": 6,
            "action_dict/gripper_position": 1,
            "observation/cartesian_position": 6,
            "observation/gripper_position": 1,
        },
        action_dim_names=DELTA,
        gripper="1 open, 0 closed, continuous; was 1 closed",
        source=f"features.json as listed by others; {SHEET}; {READERS}",
        note="Commanded velocities in the robot's frame, scaled to about -1..1. OpenVLA swaps the two outer "
        "cameras at random and skips actions of all zeros; we do neither.",
    ),
    Entry(
        name="fmb",
        rate=10,
        images={
            "image_primary": "observation/image_side_1",
            "image_secondary": "observation/image_side_2",
            "image_wrist": "observation/image_wrist_1",
        },
        instruction="language_instruction",
        action=(_MOVE, Part("action", (6, 7), "invert")),
        proprio=(Part("observation/eef_pose"), Part("observation/state_gripper_pose")),
        widths={"action": 7, "observation/eef_pose": 7, "observation/state_gripper_pose": 1},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was 1 closed (FMB's environment)",
        source=f"{TFDS}; {SHEET}; rail-berkeley/fmb",
        note="OpenVLA leaves the gripper as it is, 1 closed. One reader swaps red and blue everywhere, we do not.",
    ),
    Entry(
        name="dobbe",
        rate=3.75,
        images={"image_wrist": "observation/wrist_image"},
        instruction="language_instruction",
        action=(Part("action"),),
        proprio=(Part("observation/state"),),
        widths={"action": 7, "observation/state": 7},
        action_dim_names=DELTA,
        gripper="as published; OpenVLA takes 1 as open",
        source=_SOURCE,
        note="Only the camera at the gripper, which OpenVLA uses as the primary one. No feature is described.",
    ),
    *(
        Entry(
            name=f"berkeley_gnm_{site}",
            rate=rate,
            images=_ONE_CAMERA,
            instruction="language_instruction",
            action=(Part("action"),),
            proprio=(Part("observation/state"),),
            widths={"action": 2, "observation/state": 3},
            action_dim_names=("x", "y"),
            source=_SOURCE,
            note="A driving robot: position in the plane, no arm.",
        )
        for site, rate in (("recon", 3), ("cory_hall", 5), ("sac_son", 10))
    ),
)

ALIASES = {"fmb_dataset": "fmb", "droid_101": "droid", "droid_100": "droid", "r2d2_faceblur": "droid"}
"""droid_101 and r2d2_faceblur are the names in the files of DROID 1.0.1 and 1.0.0, fmb_dataset is OpenVLA's."""
