"""Runs on disk: what decided them, how they went, what came out (see `Run`)."""

from cmssf_lib.runs.card import RunCard
from cmssf_lib.runs.files import read_tensors, write_tensors
from cmssf_lib.runs.run import Run, all_runs
from cmssf_lib.runs.setup import METHODS, build, environment, preset_of, records, run_config

__all__ = [
    "METHODS",
    "Run",
    "RunCard",
    "all_runs",
    "build",
    "environment",
    "preset_of",
    "read_tensors",
    "records",
    "run_config",
    "write_tensors",
]
