"""export_lapa: what it refuses; the test of docs/import-official.md shows what it writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def export(run, out):
    command = [sys.executable, "experiments/export_lapa.py", f"--run={run}", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    line = done.stderr.strip().splitlines()[-1]  # Orbax warns of fewer devices than had trained
    return done.returncode, line


def test_a_run_with_parts_that_the_official_model_has_not_is_refused(tiny_run, tmp_path):
    code, line = export(tiny_run("pretrain_vlm"), tmp_path / "out")
    assert code == 2 and line.startswith("error: parameter stem/") and "no place in the official model" in line
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").write_text("mine")
    code, line = export(tmp_path / "nowhere", tmp_path / "out")
    assert code == 2 and f"error: {tmp_path / 'out'} exists" in line
    assert (tmp_path / "out").read_text() == "mine"
