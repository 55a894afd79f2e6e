"""Stage 3. Finetune a pretrained VLM on a few labelled episodes, or the same network from scratch.

    python experiments/finetune.py --config=experiments/configs/finetune.py:demo --workdir=runs/demo/finetune \
        --config.vlm=runs/demo/vlm
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 128
    config.num_steps = 2000
    config.vlm = placeholder(str)  # folder of a pretrain_vlm run: its weights, sizes and tokenizer
    config.scratch = False  # True: its sizes and tokenizer only, fresh weights
    config.tune = "all"  # what is trained: all, head, or lora (and the head)
    config.lora = dict(rank=16, alpha=16.0, layers="attention|feed_forward")  # of tune=lora; see docs/training.md
    config.history = 0  # steps between looks, to be told the latents that were planned last; 0: not told
    config.head = dict(
        kind="latents",  # or features, bins, l1, flow: see docs/heads.md
        horizon=1,  # actions a call
        width=1024,  # hidden units
        depth=2,  # layers of flow
        flow_steps=10,  # of flow, from noise to actions
        flow_draws=8,  # of flow in training: times and noises for each observation
        bins=256,  # of bins, a dimension
        bins_file=placeholder(str),  # official CSV of bins, instead of fitting them
        gripper=placeholder(bool),  # of bins: is the last number one, 0 or 1? None: as the table of datasets says
    )
    config.action_space = dict(names="", units="", convention="", gripper="")  # what actions are, where nobody says
    config.optimizer = common.get_optimizer(
        learning_rate=2e-5, end_learning_rate=2e-5, warmup_steps=0, b2=0.95, weight_decay=0.0,
        clip_norm=1.0,
    )
    config.data = common.get_data()
    config.data.split = "labelled"
    config.data.episodes = 100  # the first so many are trained on, the others are held out
    config.data.normalisation = "quantile"  # or "gaussian"
    config.data.cameras = ()  # beside the main one, by their names: image_secondary, image_wrist
    config.data.proprio = False  # whether the policy reads the robot's own state
    if size != "base":
        config.update(
            num_steps=600, batch_size=64, head=dict(horizon=4, width=128), tune="head",
            optimizer=dict(
                learning_rate=1e-3, end_learning_rate=1e-5, warmup_steps=20, b2=0.99, weight_decay=0.01,
            ),
            data=dict(episodes=20, decode_once=True),
        )
    return common.resize(config, size, SIZES)


SIZES = {
    "base": {},
    "full": {},
    "demo": dict(num_steps=250),
    "tiny": dict(
        num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2), head=dict(width=16),
        data=dict(episodes=2),
    ),
}
