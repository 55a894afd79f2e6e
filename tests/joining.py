"""One process of several that does next to nothing: python tests/joining.py ARGUMENTS_OF_JOIN AFTERWARDS (JSON)."""

import json
import os
import signal
import sys
import time

import jax

from lapa_jax import endings, errors, hosts


def fails():
    """One process fails while the other computes, and has no reason to look up."""
    if hosts.number() == 1:
        raise RuntimeError("the disk of this host is on fire")
    time.sleep(3600)


def dies():
    """One process is gone without a word."""
    if hosts.number() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def one_first():
    """Process 0 is slower, and yet first."""
    with hosts.main_first("x"):
        time.sleep(0 if hosts.number() else 1)
        print("inside", time.time())


def main():
    arguments, afterwards = map(json.loads, sys.argv[1:])
    hosts.join(**arguments)
    endings.watch()
    hosts.agree({"config.seed": afterwards.get("seed", 0), "config.own": hosts.number()}, unlike=("config.own",))
    theirs = f"{jax.process_index()} of {jax.process_count()}"
    print(f"process {hosts.number()} of {hosts.count()} joined; jax: {theirs}")
    {"fails": fails, "dies": dies, "one first": one_first, "ends": lambda: None}[afterwards.get("then", "ends")]()


with errors.in_one_line(), endings.together():
    main()
