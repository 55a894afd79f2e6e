"""A dataset's own actions in its environment.

    python experiments/check_replay.py --config=experiments/configs/check_replay.py:demo \
        --workdir=runs/demo/replay --config.data.directory=runs/demo/dataset
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.env = "tabletop"
    config.env_split = "labelled"  # of the environment, as the recorder had it; "": it has no splits
    config.env_args = ""  # its further arguments, as JSON: {"camera": "corner2"}
    config.episodes = 50  # that are replayed, evenly over the split
    config.data = dict(directory="datasets", split="labelled", cache=placeholder(str))  # RLDS, see docs/data.md
    config.thresholds = dict(
        began=1.0,  # share of episodes that begin as recorded
        success=0.95,  # share of those that succeeded when recorded
        state_drift=0.05,  # standard deviations of the recorded states
        image_drift=0.02,  # mean distance, of all grey levels; JPEG alone takes up to 0.01
    )
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": dict(episodes=20), "tiny": dict(episodes=3)}
