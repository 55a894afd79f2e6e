"""Trainings as jobs of real processes: their number changes nothing, and no end of one loses anything."""

import json
import re
import signal

import jobs
import numpy as np
import pytest

from lapa_jax import checkpoints
from lapa_jax.data import latents, rlds

STEPS = 20
LONG = {"num_steps": STEPS, "log_every": 1, "checkpoint.every": 6}
CLOSE = 1e-5


@pytest.fixture(scope="module")
def stages(tiny_run, tabletop_dataset):
    """name of a program -> its flags."""
    data = {"data.directory": tabletop_dataset} | LONG
    own = {
        "train_laq": dict,
        "pretrain_vlm": lambda: {"data.latents": tiny_run("label_latents")},
        "finetune": lambda: {"vlm": tiny_run("pretrain_vlm")},
    }
    return lambda name: data | own[name]()


@pytest.fixture(scope="module")
def straight(stages, tmp_path_factory):
    """(program, number of processes) -> workdir of a run without a stop."""
    done = {}

    def get(name, count=1):
        if (name, count) not in done:
            workdir = tmp_path_factory.mktemp("straight") / name
            jobs.run(name, workdir, stages(name), count=count)
            done[name, count] = workdir
        return done[name, count]

    return get


def curve(workdir):
    found = jobs.rows(workdir, "loss", "grad_norm")
    assert list(found) == list(range(1, STEPS + 1))  # each step once
    return found


def assert_close(workdir, other):
    ours, theirs = curve(workdir), curve(other)
    assert len(set(theirs.values())) == STEPS  # else a run that stands still would pass
    for step, (loss, norm) in theirs.items():
        assert abs(ours[step][0] - loss) <= CLOSE and abs(ours[step][1] - norm) <= 100 * CLOSE, step


def steps_saved(workdir):
    """Whatever is in the folder of checkpoints, killed saves too."""
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_sigterm_saves_and_any_number_of_processes_goes_on(stages, straight, tmp_path):
    flags, workdir, saved = stages("train_laq"), tmp_path / "run", 0
    for count in (2, 1):
        with jobs.Job("train_laq", workdir, flags, count=count, fault="slow") as job:
            job.wait_for(f"step {saved + 2}/")
            job.kill(count - 1, signal.SIGTERM)  # one is told, all have to save
            job.succeed()
        before, saved = saved, max(map(int, steps_saved(workdir)))
        assert before + 2 <= saved < STEPS and f"SIGTERM: step {saved} is saved" in job.said()
        assert checkpoints.load_json(workdir, "loader")["batches"] == saved
        assert count == 1 or not re.search(r"SIGTERM: step|\[laq\]", job.said(1))  # process 0 reports for all
    assert not (workdir / "summary.json").exists()
    jobs.run("train_laq", workdir, flags)
    assert_close(workdir, straight("train_laq"))
    assert (workdir / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", ["train_laq", "pretrain_vlm", "finetune"])
def test_the_number_of_processes_does_not_change_the_curve(name, count, straight):
    workdir = straight(name, count)
    assert_close(workdir, straight(name))
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (workdir, straight(name)))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, float | int):
            assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


@pytest.mark.slow
def test_what_is_compiled_already_does_no_harm(stages, straight, tmp_path):
    """A program from the cache in one process and a new one in the other run collectives in different orders."""
    straight("pretrain_vlm", 2)
    jobs.run("pretrain_vlm", tmp_path / "again", stages("pretrain_vlm"), count=2)
    assert curve(tmp_path / "again") == curve(straight("pretrain_vlm", 2))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [dict(data=2, fsdp=1, tensor=2), dict(data=1, fsdp=2, tensor=2), dict(tensor=4)])
def test_processes_that_share_a_matrix_read_the_same_rows(axes, stages, straight, tmp_path):
    axes = {f"mesh.{axis}": size for axis, size in ({"fsdp": 1} | axes).items()}
    jobs.run("pretrain_vlm", tmp_path / "run", stages("pretrain_vlm") | axes, count=4)
    assert_close(tmp_path / "run", straight("pretrain_vlm"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_sigkill_in_the_middle_of_a_save(killed, stages, straight, tmp_path):
    flags, workdir = stages("train_laq"), tmp_path / "run"
    with jobs.Job("train_laq", workdir, flags, count=2, fault="stuck 12") as job:
        job.wait_for("stuck at")
        job.kill(killed)
        statuses = job.statuses()
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] not in (0, None)
    left = job.said(1 - killed)
    assert "did another process end? see its output" in left or "another task died" in left
    tmp, whole = steps_saved(workdir)
    assert whole == "6" and tmp.startswith("12.") and checkpoints.resolve(workdir).name == "6"
    jobs.run("train_laq", workdir, flags, count=2)
    assert curve(workdir) == curve(straight("train_laq", 2))  # bit by bit
    assert steps_saved(workdir) == ["18", "20"]


@pytest.mark.slow
def test_four_go_on_as_two_and_as_one(stages, straight, tmp_path):
    flags, workdir = stages("pretrain_vlm"), tmp_path / "run"
    for count, step in ((4, 4), (2, 10)):
        with jobs.Job("pretrain_vlm", workdir, flags, count=count, fault="slow") as job:
            job.wait_for(f"step {step}/")
            job.kill(count - 1, signal.SIGTERM)
            job.succeed()
        assert step <= int(checkpoints.resolve(workdir).name) < STEPS
    jobs.run("pretrain_vlm", workdir, flags)
    assert_close(workdir, straight("pretrain_vlm"))


@pytest.mark.slow
def test_an_error_in_one_process_of_a_training_ends_it(stages, tmp_path):
    with jobs.Job("train_laq", tmp_path / "run", stages("train_laq"), count=2, fault="raise 7") as job:
        assert job.statuses() == [1, 1]
    for number in range(2):
        assert "process 1 of 2 failed and ends them all: RuntimeError: the disk of this host" in job.said(number)
    assert steps_saved(tmp_path / "run") == ["6"]


@pytest.mark.slow
def test_two_processes_label_and_encode_what_one_does(tiny_run, tabletop_dataset, tmp_path):
    laq, tokenizer = tiny_run("train_laq"), tiny_run("train_tokenizer")
    jobs.run("label_latents", tmp_path / "latents", {"laq": laq, "write_rlds": True}, count=2)
    for split in ("train", "val"):
        video = rlds.open_episodes(tabletop_dataset, split)
        found = [
            latents.open_latents(root / split, video) for root in (tmp_path / "latents", tiny_run("label_latents"))
        ]
        for episode in range(len(video)):
            np.testing.assert_array_equal(*(one.codes(episode) for one in found))
        assert (tmp_path / "latents" / split / "summary.json").exists()
    flags = {"encoder": tokenizer, "data.directory": tabletop_dataset}
    for count in (1, 2):
        jobs.run("encode_frames", tmp_path / f"ids{count}", flags, count=count)
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / f"ids{count}").rglob("*") if "frames" in p.name}
        for count in (1, 2)
    )
    assert one and one == two


@pytest.mark.slow
def test_programs_of_one_process_say_so(tiny_run, tmp_path):
    flags = {"laq": tiny_run("train_laq"), "distributed.enabled": True}
    with jobs.Job("evaluate_laq", tmp_path / "run", flags) as job:
        assert job.statuses() == [2]
    assert "this program is of one process" in job.said() and "Traceback" not in job.said()
