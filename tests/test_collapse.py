"""The alarm of stage 1: when it goes off, what it names, and that training from a collapsed state recovers."""

import json
import re

import codes_parts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import collapse, metrics, optimizers, training
from lapa_jax.models import laq

HEALTHY = {"perplexity_worst": 7.0, "z_std": 1.0, "z_offset": 0.1, "copy_mse": 0.01}
COLLAPSED = HEALTHY | {"perplexity_worst": 1.2}
CAUSES = [
    ({"copy_mse": 1e-7}, "frames hardly differ.*data.gap"),
    ({"z_std": 1e-7}, "the same for every pair.*learning_rate"),
    ({"quantise_error": 40.0}, r"far from the data \(quantise_error 40 .*revive=data"),
    ({"z_offset": 50.0}, "offset 50 times their spread"),
    ({"codebook_grad_norm": 0.0}, "no gradient reaches the codebook"),
    ({"revived": 12.0}, "few codes win all pairs; restarts so far: 12"),
    ({}, "few codes win all pairs; restarts so far: 0"),
]


@pytest.mark.parametrize("signs, says", CAUSES)
def test_the_likely_cause_is_named(signs, says):
    alarm = collapse.diagnose(COLLAPSED | signs, num_codes=8)
    assert re.search(rf"collapsed: 1.2 of 8 codes.*{says}", alarm)


def test_healthy_codes_and_continuous_ones_raise_no_alarm():
    assert collapse.diagnose(HEALTHY, 8) is None
    assert collapse.diagnose({"z_std": 0.0, "z_offset": 0.0}, 8) is None  # kl
    assert collapse.diagnose(HEALTHY | {"perplexity_worst": 1.6}, 2) is None  # of 2 codes one and a half is much
    assert collapse.diagnose(HEALTHY, 8, collapse.Limits(share=0.95))


class Silent:
    def begin(self, *_): ...
    def write(self, *_): ...


def test_an_alarm_is_told_once_and_so_is_its_end(tmp_path, capsys):
    watched = collapse.Watched(Silent(), tmp_path, 8, collapse.Limits(after=100))
    far = COLLAPSED | {"quantise_error": 40.0}
    nearer = far | {"quantise_error": 30.0}
    for step, values in [(50, far), (100, far), (150, nearer), (200, COLLAPSED), (250, HEALTHY)]:
        watched.write(step, values)
    watched.write(300, COLLAPSED, "val")
    told = [json.loads(line) for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert [row["step"] for row in told] == [100, 200, 250]
    assert "quantise_error 40" in told[0]["alarm"] and "recovered" in told[2]["alarm"]
    assert capsys.readouterr().out.count("ALARM") == 2


def test_perplexities_are_of_positions_and_of_whole_sequences():
    codes = jnp.asarray([[0, 0], [0, 1], [0, 2], [0, 3]] * 5)
    health = metrics.code_health(codes, num_codes=4)
    np.testing.assert_allclose([health["perplexity/0"], health["perplexity/1"]], [1.0, 4.0], rtol=1e-4)
    np.testing.assert_allclose([health["perplexity_worst"], health["perplexity_joint"]], [1.0, 4.0], rtol=1e-4)
    assert health["codes_used"] == 4
    many = np.random.default_rng(0).integers(0, 1000, (500, 16))
    np.testing.assert_allclose(metrics.joint_perplexity(jnp.asarray(many)), 500, rtol=1e-3)  # all differ
    swapped = np.concatenate([many, many[:, ::-1]])
    np.testing.assert_allclose(metrics.joint_perplexity(jnp.asarray(swapped)), 1000, rtol=1e-3)


def test_offset_and_spread_of_z():
    z = jnp.asarray(np.random.default_rng(0).normal(30.0, 2.0, (4000, 1, 3)))
    found = metrics.z_health(z)
    np.testing.assert_allclose([found["z_std"], found["z_offset"]], [2.0, 15.0], rtol=0.05)


def pairs(seed):
    """A bright square that moves by one of four steps."""
    random = np.random.default_rng(seed)
    frames = np.zeros((2, 32, 16, 16, 3), np.uint8)
    for row in range(32):
        at, step = random.integers(4, 8, 2), [(4, 0), (-4, 0), (0, 4), (0, -4)][random.integers(4)]
        for frame, (y, x) in zip(frames, (at, at + step), strict=True):
            frame[row, y : y + 4, x : x + 4] = 255
    return {"frame": frames[0], "next_frame": frames[1]}


CURED = [("nsvq", True), ("vq", True), ("vq_ema", True), ("nsvq_official", False)]


@pytest.mark.parametrize("quantizer, recovers", CURED)
def test_training_from_a_collapsed_state(programs, quantizer, recovers, tmp_path):
    """Rows far from all data but one: the official rule never finds the way back, ours does at once."""
    program = programs["train_laq"]
    own = {name: dict(whiten=False) for name in ("vq", "vq_ema")}
    model = laq.LatentActionQuantizer(
        backbone="conv", backbone_args=dict(width=8, patch_size=4), quantizer=quantizer, quantizers=own,
        num_codes=4, code_dim=2,
    )
    tx, _ = optimizers.make(
        100, learning_rate=3e-3, end_learning_rate=3e-3, warmup_steps=0, b2=0.99, weight_decay=0.0, clip_norm=1.0
    )
    state = training.make_init(laq.init_fn(model, 16), tx)(jax.random.key(0))
    rows = jnp.asarray([[0.0, 0.0], [500.0, 0.0], [0.0, 500.0], [500.0, 500.0]])
    counts = state.variables["codebook"]["quantize"]
    counts["steps"] = counts["steps"] + 6000  # past the start, and past the last official replacement
    if quantizer == "vq_ema":
        counts["codewords"] = rows
    else:
        state.params["quantize"]["codebook"] = rows
    step = training.make_train_step(
        program.make_loss(model, 1.0), tx, 0, codes_parts.make_maintain(model), program.WATCH
    )
    watched = collapse.Watched(Silent(), tmp_path, 4, collapse.Limits(after=1, share=0.5))
    perplexity = []
    for i in range(30):
        state, log = step(state, pairs(i))
        watched.write(i + 1, {name: float(value) for name, value in log.items()})
        perplexity.append(float(log["perplexity_worst"]))
    assert perplexity[0] < 1.5
    alarms = (tmp_path / "alarms.jsonl").read_text()
    assert "collapsed" in alarms and ("recovered" in alarms) == recovers
    assert (np.mean(perplexity[-5:]) > 2.5) == recovers
