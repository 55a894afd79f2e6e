"""Closed-loop evaluation. Each policy needs the folder of its finetune run, or the address of its server.

    python experiments/evaluate.py --config=experiments/configs/evaluate.py:demo --workdir=runs/demo/evaluation \
        --config.policies.lapa=runs/demo/finetune
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.env = "tabletop"
    config.env_split = "heldout"  # objects and wordings that no labelled episode names; "": it has no splits
    config.env_args = ""  # its further arguments, as JSON: {"camera": "corner2"}
    config.families = ()  # task families; none named: all of the environment
    config.episodes = 1000  # seeded, the same for every policy; split evenly over the families
    config.batch_size = 32  # episodes that are played at a time, and observations in a call of the policy
    config.num_processes = 0  # that hold the environments; 0: this one does
    config.timeout = 300.0  # seconds in which such a process has to begin an episode or carry out a chunk
    config.execute = 2  # actions carried out of each predicted chunk before the next look
    config.ensemble = placeholder(float)  # look at each step; mean of all chunks about it, weights exp(-ensemble i)
    config.videos = 1  # how many episodes of each policy, family and outcome are filmed
    config.policies = dict(lapa=placeholder(str), scratch=placeholder(str))  # finetune folders, or ws://HOST:PORT
    config.others = placeholder(str)  # more of them, NAME=FOLDER,NAME=ws://HOST:PORT
    config.bounds = ("expert", "random")  # scripted policies to quote beside them
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": dict(episodes=400), "demo": dict(episodes=120), "tiny": dict(episodes=4)}
