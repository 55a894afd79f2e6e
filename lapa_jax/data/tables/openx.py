"""The table, first half: Bridge, RT-X and Language Table, and what is simulated here. Data only.

Keys and widths are those of the TFDS catalog (versions 0.1.0), of the Bridge files at
rail.eecs.berkeley.edu and of Language Table 0.0.1. Rates are the control frequencies of
the Open-X dataset sheet, as two other readers copied it. Gripper conventions are those of the features' own
descriptions where there are any, otherwise those that Octo and OpenVLA use. `note` says where these disagree.
"""

import dataclasses

from lapa_jax.data.tables.entries import Entry, Part

DELTA = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
TFDS, SHEET, READERS = "TFDS catalog", "Open-X sheet", "Octo, OpenVLA"
_SOURCE = f"{TFDS}; {SHEET}; {READERS}"
_INSTRUCTION = "observation/natural_language_instruction"
_MOVE = (Part("action/world_vector"), Part("action/rotation_delta"))
_MOVE_WIDTHS = {"action/world_vector": 3, "action/rotation_delta": 3}
_CLOSEDNESS = "action/gripper_closedness_action"
_RELATIVE = "1 open, 0 closed, held between commands; was relative, +1 close and -1 open"
_BRIDGE_MOVE = (
    Part("observation/state", (0, 3), "difference_next"),
    Part("observation/state", (3, 6), "angle_difference_next"),
)
_BRIDGE_NOTE = (
    "The six movements are differences of the reached state (metres, radians), not the commands. The first step is "
    "dropped for its dummy action (OpenVLA; not checked by us), the last because nothing follows it."
)

_LANGUAGE_TABLE = Entry(
    name="language_table",
    rate=10,
    images={"image_primary": "observation/rgb"},
    instruction="observation/instruction",
    text_encoding="int-utf32",
    action=(Part("action"),),
    proprio=(Part("observation/effector_translation"),),
    widths={"action": 2, "observation/effector_translation": 2},
    action_dim_names=("dx", "dy"),
    source=f"features.json of 0.0.1; {SHEET}",
    note="Two columns, no gripper: Octo pads them to seven. The instruction is an int32[512] padded with 0; its "
    "description says UTF-8 bytes, readers take code points, which is the same for ASCII.",
)
_LANGUAGE_TABLE_SIMS = (
    "sim",
    "blocktoblock_sim",
    "blocktoblock_4block_sim",
    "blocktoblock_oracle_sim",
    "blocktoblockrelative_oracle_sim",
    "blocktoabsolute_oracle_sim",
    "blocktorelative_oracle_sim",
    "separate_oracle_sim",
)

ENTRIES = (
    Entry(
        name="tabletop",
        rate=10,
        images={"image_primary": "observation/image"},
        instruction="language_instruction",
        action=(Part("action"),),
        proprio=(Part("observation/effector_translation"),),
        widths={"action": 2, "observation/effector_translation": 2},
        action_dim_names=("dx", "dy"),
        source="data/simulated",
        note="Simulated here; metres.",
    ),
    Entry(
        name="metaworld",
        rate=20,
        images={"image_primary": "observation/image"},
        instruction="language_instruction",
        action=(Part("action"),),
        proprio=(Part("observation/effector_translation"), Part("observation/gripper_opening")),
        widths={"action": 4, "observation/effector_translation": 3, "observation/gripper_opening": 1},
        action_dim_names=("dx", "dy", "dz", "gripper_effort"),
        gripper="effort, -1 opens, +1 closes, as the simulator takes it",
        source="data/simulated",
        note="Simulated here. Movements of the hand's target in the robot's frame, within +-1: 4 cm a step.",
    ),
    Entry(
        name="bridge_dataset",
        rate=5,
        images={"image_primary": "observation/image_0", "image_secondary": "observation/image_1"},
        instruction="language_instruction",
        action=(*_BRIDGE_MOVE, Part("action", (6, 7), "binarize")),
        proprio=(Part("observation/state"),),
        trim=(1, 1),
        widths={"action": 7, "observation/state": 7},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was the same, now and then in between",
        source=f"rail.eecs.berkeley.edu; {SHEET}; {READERS}",
        note=_BRIDGE_NOTE + " Cameras that an episode lacks are black; episode_metadata/has_image_N says which. "
        "Prefer it to `bridge`, an older and smaller copy.",
    ),
    Entry(
        name="bridge",
        rate=5,
        images={"image_primary": "observation/image"},
        instruction=_INSTRUCTION,
        action=(*_BRIDGE_MOVE, Part("action/open_gripper")),
        proprio=(Part("observation/state"),),
        trim=(1, 1),
        widths={"action/open_gripper": 1, "observation/state": 7},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was the same, a bool",
        source=_SOURCE,
        note="The copy in the Open-X bucket. " + _BRIDGE_NOTE,
    ),
    Entry(
        name="fractal20220817_data",
        rate=3,
        images={"image_primary": "observation/image"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="rel2abs")),
        proprio=(Part("observation/base_pose_tool_reached"), Part("observation/gripper_closed")),
        widths=_MOVE_WIDTHS
        | {_CLOSEDNESS: 1, "observation/base_pose_tool_reached": 7, "observation/gripper_closed": 1},
        action_dim_names=DELTA,
        gripper=_RELATIVE,
        source=_SOURCE,
        note="RT-1. Movements of the base are left out; proprio's gripper is 1 closed.",
    ),
    Entry(
        name="kuka",
        rate=10,
        images={"image_primary": "observation/image"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="rel2abs")),
        proprio=(
            Part("observation/clip_function_input/base_pose_tool_reached"),
            Part("observation/gripper_closed"),
        ),
        widths=_MOVE_WIDTHS
        | {
            _CLOSEDNESS: 1,
            "observation/clip_function_input/base_pose_tool_reached": 7,
            "observation/gripper_closed": 1,
        },
        action_dim_names=DELTA,
        gripper=_RELATIVE,
        source=_SOURCE,
        note="QT-Opt grasping, failed grasps too: `success` of the episode says which. State is stored "
        "zlib-compressed. Instructions say little.",
    ),
    Entry(
        name="taco_play",
        rate=15,
        images={"image_primary": "observation/rgb_static", "image_wrist": "observation/rgb_gripper"},
        instruction=(_INSTRUCTION, "observation/structured_language_instruction"),
        action=(
            Part("action/rel_actions_world", (0, 6)),
            Part("action/rel_actions_world", (6, 7), "clip01"),
        ),
        proprio=(Part("observation/robot_obs", (0, 7)),),
        widths={"action/rel_actions_world": 7, "observation/robot_obs": 15},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was +1 and -1",
        source=_SOURCE,
        note="Sign of the gripper as CALVIN and Octo have it; the description of the feature says the opposite. "
        "The description orders rotations yaw, pitch, roll, CALVIN roll, pitch, yaw. Units are CALVIN's "
        "scaled commands, not metres. None of these checked by us.",
    ),
    Entry(
        name="jaco_play",
        rate=10,
        images={"image_primary": "observation/image", "image_wrist": "observation/image_wrist"},
        instruction=_INSTRUCTION,
        action=(
            Part("action/world_vector"),
            Part("action/world_vector", op="zeros"),
            Part(_CLOSEDNESS, op="rel2abs"),
        ),
        proprio=(Part("observation/end_effector_cartesian_pos"),),
        widths={"action/world_vector": 3, _CLOSEDNESS: 1, "observation/end_effector_cartesian_pos": 7},
        action_dim_names=DELTA,
        gripper=_RELATIVE,
        source=_SOURCE,
        note="No rotation is commanded: droll, dpitch and dyaw are 0.",
    ),
    Entry(
        name="berkeley_cable_routing",
        rate=10,
        images={
            "image_primary": "observation/image",
            "image_secondary": "observation/top_image",
            "image_wrist": "observation/wrist45_image",
        },
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part("action/world_vector", (0, 1), "zeros")),
        proprio=(Part("observation/robot_state"),),
        widths=_MOVE_WIDTHS | {"observation/robot_state": 7},
        action_dim_names=DELTA,
        gripper="always 0, closed; none is stored",
        source=_SOURCE,
        note="Velocities, and rotation about z only. Instructions say little.",
    ),
    Entry(
        name="roboturk",
        rate=10,
        images={"image_primary": "observation/front_rgb"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="clip_invert")),
        widths=_MOVE_WIDTHS | {_CLOSEDNESS: 1},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was +1 closed",
        source=_SOURCE,
        note="No state is stored.",
    ),
    Entry(
        name="nyu_door_opening_surprising_effectiveness",
        rate=3,
        images={"image_wrist": "observation/image"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="rel2abs")),
        widths=_MOVE_WIDTHS | {_CLOSEDNESS: 1},
        action_dim_names=DELTA,
        gripper=_RELATIVE,
        source=_SOURCE,
        note="Only the camera at the gripper; velocities. No state is stored.",
    ),
    Entry(
        name="viola",
        rate=20,
        images={"image_primary": "observation/agentview_rgb", "image_wrist": "observation/eye_in_hand_rgb"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="clip_invert")),
        proprio=(Part("observation/joint_states"), Part("observation/gripper_states")),
        widths=_MOVE_WIDTHS | {_CLOSEDNESS: 1, "observation/joint_states": 7, "observation/gripper_states": 1},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was -1 open, +1 closed",
        source=_SOURCE,
        note="Movements are commands to the controller within -1..1, not metres (not checked by us).",
    ),
    Entry(
        name="berkeley_autolab_ur5",
        rate=5,
        images={"image_primary": "observation/image", "image_wrist": "observation/hand_image"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part(_CLOSEDNESS, op="rel2abs")),
        proprio=(Part("observation/robot_state", (6, 14)),),
        widths=_MOVE_WIDTHS | {_CLOSEDNESS: 1, "observation/robot_state": 15},
        action_dim_names=DELTA,
        gripper=_RELATIVE,
        source=_SOURCE,
        note="Red and blue are swapped in hand_image as published (OpenVLA's preparation swaps them, we do not).",
    ),
    Entry(
        name="toto",
        rate=30,
        images={"image_primary": "observation/image"},
        instruction=_INSTRUCTION,
        action=(*_MOVE, Part("action/open_gripper")),
        proprio=(Part("observation/state"),),
        widths=_MOVE_WIDTHS | {"action/open_gripper": 1, "observation/state": 7},
        action_dim_names=DELTA,
        gripper="1 open, 0 closed; was the same, a bool",
        source=_SOURCE,
        note="The sheet has joint positions as the action space and no instructions.",
    ),
    Entry(
        name="bc_z",
        rate=10,
        images={"image_primary": "observation/image"},
        instruction=_INSTRUCTION,
        action=(
            Part("action/future/xyz_residual", (0, 3)),
            Part("action/future/axis_angle_residual", (0, 3)),
            Part("action/future/target_close", (0, 1), "invert"),
        ),
        proprio=(
            Part("observation/present/xyz"),
            Part("observation/present/axis_angle"),
            Part("observation/present/sensed_close"),
        ),
        widths={
            "action/future/xyz_residual": 30,
            "action/future/axis_angle_residual": 30,
            "action/future/target_close": 10,
            "observation/present/xyz": 3,
            "observation/present/axis_angle": 3,
            "observation/present/sensed_close": 1,
        },
        action_dim_names=("dx", "dy", "dz", "d axis-angle x", "d axis-angle y", "d axis-angle z", "gripper"),
        gripper="1 open, 0 closed; was 1 closed",
        source=_SOURCE,
        note="The first of ten future actions; the rotation is an axis-angle difference, not roll, pitch, yaw. "
        "OpenVLA found versions after 0.1.0 broken.",
    ),
    _LANGUAGE_TABLE,
    *(dataclasses.replace(_LANGUAGE_TABLE, name=f"language_table_{sim}") for sim in _LANGUAGE_TABLE_SIMS),
)

ALIASES = {"bridge_orig": "bridge_dataset", "bridge_oxe": "bridge"}
"""Names that OpenVLA gives to renamed folders."""
