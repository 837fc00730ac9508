"""The papers' baselines at their default settings: a row each, full ranking and among 99 stored negatives.

Trained by the functions that the assets call, on the train split; the epoch is chosen on the validation split, the
figures are of the test split. With several seeds a figure is their mean and `spread` their standard deviation.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.common import main
from benchmarks.multi_interest import trained
from benchmarks.ranking import load, ranked
from recsys_dagster.models import MODEL_NAMES, load_model
from recsys_dagster.training.runtime import Runtime

OURS = ("larmi", "g2rec")
NAMES = tuple(name for name in MODEL_NAMES if name not in OURS)


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    data, tables = load(options.dataset)
    rows: dict[str, Any] = {}
    for name in options.only or NAMES:
        found = []
        for seed in range(1 if name == "popularity" else options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / name
                facts = trained(name, data, {}, Runtime(device=options.device, seed=seed), output)
                scorer = load_model(output, options.device)
                figures = ranked(scorer, data, tables.interactions, options.dataset, name)
            kept = {key: facts[key] for key in ("best_epoch", "validation_recall", "seconds") if key in facts}
            print(name, f"seed {seed}", figures, kept, flush=True)
            found.append(figures | kept)
        table = pd.DataFrame(found)
        rows[name] = {key: round(float(value), 4) for key, value in table.mean().items()}
        if len(table) > 1:
            rows[name]["spread"] = {key: round(float(value), 4) for key, value in table[list(figures)].std().items()}
    return {"dataset": options.dataset, "seeds": options.seeds, "models": rows}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample", help="name of a dataset")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int, default=1, help="models of each kind, from seeds 0, 1, ...")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU")


if __name__ == "__main__":
    main(run, arguments)
