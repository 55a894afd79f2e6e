"""Is this LAQ good? Gap and image size are those it was trained with; docs/judging.md defines every line.

    python experiments/evaluate_laq.py --config=experiments/configs/evaluate_laq.py --workdir=runs/demo/judge \
        --config.laq=runs/demo/laq
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.laq = placeholder(str)  # folder of a train_laq run
    config.split = "val"  # held-out episodes
    config.pairs = 2000  # in all, as many from each dataset
    config.lpips = placeholder(str)  # .npz of AlexNet's and LPIPS's weights (docs/judging.md); None: not measured
    config.data = dict(  # None: as the LAQ was trained. Another directory takes the other keys from here as well
        directory=placeholder(str),
        mixture=placeholder(str),
        name=placeholder(str),
        rate=placeholder(float),
        image_key=placeholder(str),
        gap=placeholder(float),  # seconds
        cache=placeholder(str),
    )
    config.skip = ()  # lines that are left out
    config.thresholds = dict(  # a lab's own
        perplexity=0.5,  # of the worst position, as a share of num_codes
        used=0.75,  # share of codes that occur
        gain=1.0,  # dB of squared error below copying the first frame
        ssim=-0.1,  # above that of copying; small models blur, so a little may be lost
        lpips=-0.05,  # below that of copying
        cosine=0.0,  # above that of copying; features only
        probe=0.5,  # R2, linear, from codes to true motion
        probe_mlp=0.5,  # R2, two hidden layers
        over_first_frame=0.3,  # R2 above what the first frame tells
        of_bound=0.5,  # share of the R2 that optical flow reaches
        shuffled=0.1,  # R2 from shuffled codes, at most
        control=0.5,  # dB, PSNR of true codes above that of random ones
        swap=0.4,  # cosine above chance
        swap_of_ceiling=0.7,  # share of what own reconstructions show
        reversal=0.4,  # R2 of the reversed pair's code to the opposite motion
        composition=0.5,  # correlation of a sum of two motions with one over both gaps
        overlap=0.5,  # 1 - Jensen-Shannon divergence, the two datasets that share least
        swap_across=0.2,  # cosine above chance, the two datasets between which codes move worst
    )
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": {}, "tiny": dict(pairs=40, batch_size=8)}
