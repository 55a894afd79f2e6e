"""What a log line says of speed, against worlds whose clock is ours; counts and MFU by hand."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import pytest

from lapa_jax import errors, metrics, model_flops, sharding, speed, tracing, trained, training
from lapa_jax.data import layouts, prompts, synthetic
from lapa_jax.models import attention_plain
from lapa_jax.planning import work

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
"""Examples of 3, 2 and 8 tokens, and 3 places of padding."""


class World:
    """A host that reads and dispatches, and a device that computes what it was told, in order.

    Args:
        reads, computes, saves: seconds of step n.
    """

    def __init__(self, reads, computes, saves=lambda n: 0.0, batch=None):
        self.now, self.free, self.position = 100.0, 0.0, 0
        self.reads, self.computes, self.saves = reads, computes, saves
        self.batch = {"x": np.zeros((8, 2), np.float32)} if batch is None else batch

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        self.now += self.reads(self.position)
        return self.batch

    def step(self, state, batch):
        """Dispatched at once; the device begins when it is free."""
        self.free = max(self.now, self.free) + self.computes(self.position)
        return state, {"loss": Loss(self, self.free)}

    def get_state(self):
        return {}

    def due(self, step):
        return self.saves(step) > 0

    def save(self, step, *_):
        self.now += self.saves(step)

    def leave_if_told(self, step):
        pass

    def latest_step(self):
        return None

    def wait(self):
        pass

    def lines(self, num_steps, log_every, **options):
        """What `fit` logs."""
        said = []
        writer = types.SimpleNamespace(begin=lambda *_: None, write=lambda *line: said.append(line))
        meter = speed.Speedometer(clock=lambda: self.now, finished=lambda loss: loss.at, **options)
        state = types.SimpleNamespace(step=0)
        training.fit(
            state, self.step, self, self, writer, sharding.make_mesh(), num_steps, log_every, speed=meter
        )
        return dict(said)


class Loss:
    """Who reads it waits for it."""

    def __init__(self, world, at):
        self.world, self.at = world, at

    def __float__(self):
        self.world.now = max(self.world.now, self.at)
        return 1.0

    block_until_ready = __float__


@pytest.mark.parametrize(
    "reads, computes, rate, waited",
    [
        (9.0, 1.0, 1 / 9, 8 / 9),  # the device computes for 1 of 9 seconds
        (100.0, 0.1, 1 / 100, 0.999),
        (0.9, 1.0, 1.0, 0.0),  # the host waits for data nearly all the time, and the device never
        (0.0, 1.0, 1.0, 0.0),
        (1e-6, 1e-3, 1e3, 0.0),
    ],
)
def test_devices_wait_for_data_only_when_they_have_nothing_to_do(reads, computes, rate, waited):
    lines = World(lambda n: reads, lambda n: computes).lines(41, 10)
    assert list(lines) == [1, 10, 20, 30, 40, 41]
    for step in (20, 30, 40):
        assert lines[step]["steps_per_second"] == pytest.approx(rate, rel=1e-6)
        assert lines[step]["samples_per_second"] == pytest.approx(8 * rate, rel=1e-6)
        assert lines[step]["data_wait"] == pytest.approx(waited, abs=1e-6)
        assert lines[step]["host_wait"] == pytest.approx(0.0, abs=1e-6)


def test_compilation_is_in_the_first_line_alone():
    lines = World(lambda n: 0.1, lambda n: 60.0 if n == 1 else 1.0).lines(20, 10)
    assert lines[1]["first_step_seconds"] == pytest.approx(60.1) and "steps_per_second" not in lines[1]
    assert [lines[step]["steps_per_second"] for step in (10, 20)] == pytest.approx([1.0, 1.0])


def test_a_hiccup_of_the_data_is_in_the_line_where_it_was():
    lines = World(lambda n: 11.0 if n == 15 else 0.5, lambda n: 1.0).lines(30, 10)
    assert lines[10]["data_wait"] == lines[30]["data_wait"] == 0.0
    # Of the 11 s some pass while the device computes what the host was ahead by, five steps at most.
    assert 6 / 20 < lines[20]["data_wait"] < 10 / 20


def test_saving_takes_time_and_is_not_waiting_for_data():
    lines = World(lambda n: 0.5, lambda n: 1.0, saves=lambda n: 5.0 if n == 15 else 0.0).lines(30, 10)
    # The device is done when saving begins, and then gets its batch half a second late.
    assert lines[20]["steps_per_second"] == pytest.approx(10 / 15.5)
    assert lines[20]["host_wait"] == pytest.approx(5 / 15.5) and lines[20]["data_wait"] == pytest.approx(0.5 / 15.5)
    assert lines[30]["steps_per_second"] == pytest.approx(1.0) and lines[30]["host_wait"] == 0.0


def test_the_profiler_takes_no_time_of_a_line(tmp_path):
    world = World(lambda n: 0.5, lambda n: 1.0)

    class Slow(tracing.Trace):
        def start(self):
            self._on, world.now = True, world.now + 7.0

        def stop(self):
            self._on, world.now = False, world.now + 30.0

    lines = world.lines(30, 10, trace=Slow(range(12, 15), tmp_path))
    assert world.now == pytest.approx(100 + 0.5 + 30 + 7 + 30 + 2 * 0.5)  # what is read after a pause is not hidden
    assert lines[20]["steps_per_second"] == pytest.approx(10 / 11) and lines[20]["host_wait"] == 0.0
    assert lines[30]["steps_per_second"] == pytest.approx(1.0)


def test_counts_of_a_batch():
    assert speed.count({"segments": SEGMENTS, "image": np.zeros((2, 3))}) == (3, 13, 16, 3**2 + 2**2 + 8**2)
    assert speed.count({"segments": np.zeros((2, 4), np.int32)}) == (0, 0, 8, 0)
    assert speed.count({"frame": np.zeros((5, 2)), "labelled_frame": np.zeros((3, 2))}) == (5, 0, 0, 0)


def test_rows_that_several_processes_share_count_once():
    world = World(lambda n: 0.0, lambda n: 0.5, batch={"segments": np.tile(SEGMENTS, (4, 1))})
    meter = speed.Speedometer(clock=lambda: world.now, finished=lambda loss: loss.at).begin(0)
    with meter:
        for _ in range(3):
            meter.next(world)
            meter.run(world.step, None, {"segments": np.tile(SEGMENTS, (2, 1))})  # of all processes together
        assert "first_step_seconds" in meter.line(1)
        assert meter.line(3)["samples_per_second"] == pytest.approx(2 * 6)


def test_tokens_and_samples_are_those_of_the_batches():
    batch = {"segments": np.tile(SEGMENTS, (4, 1))}
    lines = World(lambda n: 0.0, lambda n: 0.5, batch=batch).lines(10, 5)
    assert lines[10]["samples_per_second"] == pytest.approx(2 * 12)
    assert lines[10]["tokens_per_second"] == pytest.approx(2 * 52)
    assert lines[10]["tokens_per_second_padded"] == pytest.approx(2 * 64)
    assert "mfu" not in lines[10] and "memory_peak_gib" not in lines[10]  # CPUs tell neither


WIDTH, IMAGE = 4, 32


def toy(state, batch):
    """A product for each place, attention over all, and a product for each image."""
    x = (state["table"][batch["tokens"]] @ state["kernel"])[:, :, None]
    mask = jnp.ones((len(x), 1, x.shape[1], x.shape[1]), bool)
    return attention_plain.attend(x, x, x, mask).sum() + (batch["image"] @ state["stem"]).sum()


def test_mfu_is_what_tokens_need_over_what_devices_can():
    state = {"table": jnp.zeros((9, WIDTH)), "kernel": jnp.zeros((WIDTH, WIDTH)), "stem": jnp.zeros((IMAGE, 3))}
    batch = {"tokens": SEGMENTS, "segments": SEGMENTS, "image": np.zeros((2, IMAGE), np.float32)}
    image, places, pairs = 2 * 2 * IMAGE * 3, 16 * 2 * WIDTH**2, 2 * 2 * 8**2 * (2 * WIDTH)
    found = model_flops.needs(toy, state, batch, lambda kind: {"float32": 1e3}[kind])
    assert (found.whole, found.fixed, found.token) == (image + places + pairs / 2, image, 2 * WIDTH**2)
    assert found.pair == 2 * WIDTH and found.peak == 1e3

    counts = speed.Counts(*(10 * np.array(speed.count(batch))))  # ten steps in four seconds
    shares = found.shares(10, counts, 4.0)
    real = image + 13 * 2 * WIDTH**2 + (3**2 + 2**2 + 8**2) * 2 * WIDTH
    assert shares == pytest.approx({"mfu": 10 * real / 4e3, "mfu_padded": 10 * found.whole / 4e3})

    lines = World(lambda n: 0.0, lambda n: 0.4, batch={"segments": np.tile(SEGMENTS, (4, 1))}).lines(
        11, 10, needs=lambda *_: found
    )
    four = image + 4 * (real - image)
    assert lines[11]["mfu"] == pytest.approx(four / 0.4 / 1e3) and "mfu" not in lines[1]


def test_products_of_each_dtype_have_their_own_peak():
    def step(state, batch):
        return state @ state, batch["x"] @ batch["x"]

    batch = {"x": jnp.zeros((8, 8), jnp.bfloat16)}
    found = model_flops.needs(step, jnp.zeros((8, 8)), batch, {"float32": 1.0, "bfloat16": 3.0}.get)
    assert found.whole == 4 * 8**3 and found.peak == pytest.approx(2 / (1 + 1 / 3))
    assert found.shares(1, speed.Counts(8), 4.0) == pytest.approx({"mfu": found.whole / 4 / 1.5})


@dataclasses.dataclass(frozen=True)
class Task:
    planner: trained.Planner


def test_what_remat_computes_again_is_not_needed(load_config):
    text = prompts.train_tokenizer(("push it",), 6)
    layout = layouts.Clean(text, num_image_tokens=7, code_length=2, by_word=True)
    model = load_config("pretrain_vlm", "tiny").to_dict()["model"]

    def flops(plain, **options):
        planner = trained.Planner.of({**model, "vocabs": dict(text=32, latent=8), **options}, layout, None, 64)
        planner = measuring.plain_vlm(Task(planner)).planner if plain else planner
        variables = jax.eval_shape(planner.init_fn(), jax.random.key(0))
        batch = {name: jnp.asarray(x) for name, x in planner.example().items()}

        def loss(params):
            image, words = batch["image"][:, None], batch["text"][:, None]
            return planner.model.apply({"params": params}, trained.tokens_of(batch), image, words).sum()

        return work.of(jax.grad(loss), variables["params"]).needed

    wanted = flops(plain=False, remat="none")
    assert flops(plain=False, remat="full") > 1.1 * wanted
    assert flops(plain=True, remat="full", attention="xla") == wanted == flops(plain=True, remat="dots")


@pytest.mark.parametrize("steps", ["15:10", "a:b", "10", "0:3", "-1:2", "1:2:3", " 1:2"])
def test_a_range_that_is_none_is_named(steps):
    with pytest.raises(errors.UserError, match=f"profile.steps={steps!r} is no range"):
        tracing.parse(steps, 100)


def test_ranges_of_steps():
    assert tracing.parse("", 10) == range(0) and tracing.parse("10:10", 10) == range(10, 11)
    with pytest.raises(errors.UserError, match="past the end of the run: num_steps is 10"):
        tracing.parse("10:11", 10)


def test_a_repeated_batch_is_the_first_and_its_state_is_nobodys():
    class Counted:
        taken = 0

        def __next__(self):
            self.taken += 1
            return {"x": np.full((2, 3), self.taken, np.float32)}

        def get_state(self):
            return {"batches": self.taken}

        def set_state(self, state):
            self.taken = state["batches"]

    inner = Counted()
    stream = synthetic.Repeated(inner)
    batches = [next(stream)["x"] for _ in range(3)]
    assert all(np.all(x == 1) for x in batches) and inner.taken == 0  # it reads no further, and nothing ahead
    again = synthetic.Repeated(Counted())
    again.set_state(json.loads(json.dumps(stream.get_state())))
    assert np.all(next(again)["x"] == 1) and again.get_state() == {"synthetic": 4}
    with pytest.raises(errors.UserError, match="this run was not synthetic"):
        again.set_state({"batches": 3})


def test_the_console_line_is_short(tmp_path, capsys):
    values = {"loss": 0.51234567, "learning_rate": 1e-3, "steps_per_second": 2.3456, "samples_per_second": 600.47}
    values |= {"tokens_per_second": 230_580.2, "tokens_per_second_padded": 250_000.0}
    values |= {"mfu": 0.4321, "mfu_padded": 0.47}
    values |= {"data_wait": 0.034, "host_wait": 0.001, "memory_peak_gib": 61.234}
    writer = metrics.Writer(tmp_path, "vlm")
    writer.begin(0, 100)
    writer.write(50, values)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "[vlm] step 50/100  loss 0.5123  2.35 steps/s  600 samples/s  230,580 tokens/s  MFU 43.2%  "
        "data wait 3%  host wait 0%  61.2 GiB  ETA 0:21"
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["mfu_padded"] == 0.47
