"""As libero/libero/benchmark/__init__.py."""

import os
import pickle
from typing import NamedTuple

import numpy as np

from libero.libero import get_libero_path


class Task(NamedTuple):
    name: str
    language: str
    problem: str
    problem_folder: str
    bddl_file: str
    init_states_file: str


class Benchmark:
    def __init__(self, task_order_index=0):
        names = ("pick_up_the_bowl", "open_the_drawer", "push_the_plate")
        self.tasks = [
            Task(name, name.replace("_", " "), "Libero", self.name, f"{name}.bddl", f"{name}.pruned_init")
            for name in names
        ]
        self.n_tasks = len(self.tasks)

    def get_task_names(self):
        return [task.name for task in self.tasks]

    def get_task(self, i):
        return self.tasks[i]

    def get_task_bddl_file_path(self, i):
        return os.path.join(get_libero_path("bddl_files"), self.tasks[i].problem_folder, self.tasks[i].bddl_file)

    def get_task_init_states(self, i):
        if os.environ.get("FAKE_TORCH_IS_STRICT"):
            raise pickle.UnpicklingError("Weights only load failed")
        places = np.random.RandomState(i).uniform(-0.2, 0.2, (5, 2))
        return np.concatenate([places, np.full((5, 1), 0.08)], axis=1)  # the block hangs 8 cm above the table


def _suite(suite):
    return type(suite.upper(), (Benchmark,), {"name": suite})


SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_90", "libero_10")
BENCHMARK_MAPPING = {suite: _suite(suite) for suite in SUITES}


def get_benchmark_dict(help=False):
    return BENCHMARK_MAPPING
