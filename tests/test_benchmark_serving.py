"""The benchmark of the policy server, for seconds, with a random policy."""

import json
import subprocess
import sys

import pytest
from benchmark_runs import ROOT

pytest.importorskip("starlette", reason="the server is not installed (extra [serve])")


def run(*flags):
    command = [sys.executable, str(ROOT / "benchmarks" / "serving.py"), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_server_and_policy_are_measured_in_turn(tmp_path):
    done = run("--minutes=0.05", "--rounds=2", "--clients=1,2", "--pixels=32", f"--json={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    rows = found["rows"]
    assert rows.keys() == {"direct", "websocket 1", "rest 1", "websocket 2", "rest 2", "unshared 2"}
    for row in rows.values():
        assert 0 < row["p50"] <= row["p95"] <= row["p99"] and row["actions_per_s"] > 0
    assert rows["direct"]["times_direct"] == 1 and rows["direct"]["over_direct_ms"] == 0
    assert found["sharing"]["gain"] > 0 and len(found["sharing"]["rounds"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("clients", ["one", "0", ""])
def test_flags_that_make_no_sense_are_named(clients):
    done = run(f"--clients={clients}")
    assert done.returncode == 2 and f"--clients={clients}: numbers" in done.stderr
