"""Closed-loop evaluation. Each policy needs the folder of its finetune run and nothing else.

    python experiments/evaluate.py --config=experiments/configs/evaluate.py:demo --workdir=runs/demo/evaluation \
        --config.policies.lapa=runs/demo/finetune
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.env = "tabletop"
    config.env_split = "heldout"  # objects and wordings that no labelled episode names
    config.episodes = 1000  # seeded, the same for every policy; split evenly over the families
    config.execute = 2  # actions carried out of each predicted chunk before the next look
    config.ensemble = placeholder(float)  # look at each step; mean of all chunks about it, weights exp(-ensemble i)
    config.policies = dict(lapa=placeholder(str), scratch=placeholder(str))  # finetune folders
    config.bounds = ("expert", "random")  # scripted policies to quote beside them
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": dict(episodes=400), "demo": dict(episodes=120), "tiny": dict(episodes=4)}
