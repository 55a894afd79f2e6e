"""Lines to pass or fail: which number of the results is held against a threshold, and what failing means."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Line:
    """One question.

    Attributes:
        name: its key in `config.thresholds`.
        title: what a reader sees.
        measure: dotted path in the results of a dataset, or below "across".
        unit: after the number.
        why: what it means when it fails.
        interval: path of the 95 % interval of the value; "" where there is none.
        needs_truth: whether measured flow in place of true motion is not enough.
        at_most: whether the value may not exceed the threshold; else it may not be below.
        only: "pixels" or "features", where the measure is of one of them.
    """

    name: str
    title: str
    measure: str
    unit: str
    why: str
    interval: str = ""
    needs_truth: bool = False
    at_most: bool = False
    only: str = ""

    @property
    def sign(self) -> str:
        return "<=" if self.at_most else ">="

    def met(self, value: float, threshold: float) -> bool:
        return value <= threshold if self.at_most else value >= threshold


LINES = (
    Line(
        "perplexity",
        "Perplexity of the worst position",
        "usage.perplexity_share",
        "of the codes",
        "codes collapse: a few of them, or one position, stand for everything",
    ),
    Line(
        "used",
        "Codes in use",
        "usage.used_share",
        "of the codes",
        "dead codes: the codebook is larger than what it has to say, or parts of it were never reached",
    ),
    Line(
        "gain",
        "Error below that of copying",
        "images.gain_db",
        "dB",
        "the decoder does no better than showing the first frame again",
        interval="images.gain_interval",
    ),
    Line(
        "ssim",
        "SSIM above that of copying",
        "images.ssim_gain",
        "",
        "what is gained in squared error is paid for in structure: blur, or a picture of another scene",
        only="pixels",
    ),
    Line(
        "lpips",
        "LPIPS below that of copying",
        "images.lpips_gain",
        "",
        "the reconstruction looks less like the later frame than the first frame does",
        only="pixels",
    ),
    Line(
        "cosine",
        "Feature cosine above that of copying",
        "images.cosine_gain",
        "",
        "decoded features point no nearer to the later frame than those of the first frame",
        only="features",
    ),
    Line(
        "probe",
        "Motion read from the latent action",
        "probes.latent.linear.r2",
        "R²",
        "codes do not carry what the robot did",
        needs_truth=True,
        interval="probes.latent.linear.interval",
    ),
    Line(
        "probe_mlp",
        "The same by an MLP",
        "probes.latent.mlp.r2",
        "R²",
        "codes do not carry what the robot did, not even in a tangled way",
        needs_truth=True,
        interval="probes.latent.mlp.interval",
    ),
    Line(
        "over_first_frame",
        "Above what the first frame tells",
        "probes.over_first_frame",
        "R²",
        "codes add little to what could be guessed from the first frame",
        needs_truth=True,
    ),
    Line(
        "of_bound",
        "Share of what optical flow tells",
        "probes.of_bound",
        "of R²",
        "the frames show more of the motion than the codes keep",
        needs_truth=True,
    ),
    Line(
        "shuffled",
        "Motion read from shuffled codes",
        "probes.shuffled.linear.r2",
        "R²",
        "the probes themselves are broken or overfit: trust no probe above",
        needs_truth=True,
        at_most=True,
        interval="probes.shuffled.linear.interval",
    ),
    Line(
        "control",
        "Controllability (ΔPSNR)",
        "control.delta_db",
        "dB",
        "the decoder ignores the codes: a random code rebuilds the later frame as well",
        interval="control.interval",
    ),
    Line(
        "swap",
        "Action swap, direction above chance",
        "swap.over_chance",
        "cosine",
        "codes of one clip do not move another clip's frame the same way",
        interval="swap.over_chance_interval",
    ),
    Line(
        "swap_of_ceiling",
        "Share of motion that survives the swap",
        "swap.of_ceiling",
        "of the ceiling",
        "a code means different motions in different scenes, or even own reconstructions show no motion",
    ),
    Line(
        "reversal",
        "Going back turns the motion round",
        "reversal.r2",
        "R²",
        "the code of the reversed pair is not the opposite motion: codes describe frames, not motions",
        interval="reversal.interval",
    ),
    Line(
        "composition",
        "Two motions add up to one",
        "composition.correlation",
        "correlation",
        "two steps and one long step disagree: codes depend on the scene, or on the length of the gap",
        interval="composition.interval",
    ),
)
ACROSS = (
    Line(
        "overlap",
        "Codes shared by every two datasets",
        "overlap.lowest",
        "of 1",
        "datasets are told apart by their codes: nothing learned on one carries to the other",
    ),
    Line(
        "swap_across",
        "Swap between datasets, direction above chance",
        "swap.lowest",
        "cosine",
        "a code moves another dataset's frame in another direction",
    ),
)
NAMES = tuple(line.name for line in (*LINES, *ACROSS))
