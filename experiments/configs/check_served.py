"""Training images through a deployed server.

    python experiments/check_served.py --config=experiments/configs/check_served.py:demo \
        --workdir=runs/demo/served --config.policy=runs/demo/finetune --config.server=ws://127.0.0.1:8000
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.policy = placeholder(str)  # folder of the finetune run that is served
    config.server = placeholder(str)  # ws://HOST:PORT
    config.steps = 200  # of the episodes it was trained on, at random
    config.directory = placeholder(str)  # the dataset, where it is elsewhere than in training
    config.thresholds = dict(
        difference=1e-3,  # of normalised actions, between the server and the policy in this process
        train_ratio=1.25,  # error over that of the run on its training steps, where the run tells it
        held_out_ratio=1.0,  # or else over that on held-out ones, which is larger
        mean_ratio=0.8,  # error over that of always answering the mean
    )
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": dict(steps=100), "tiny": dict(steps=8)}
