"""Train with a tracker, get interrupted, resume, and print what the tracker's library reads back.

Runs in a separate process, because trackers have global state and their libraries issue warnings.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stand_in import RandomCrops, TinyCodec

from tcm_lab.training import Recipe, open_trackers, train

Curves = dict[str, dict[int, float]]
RECIPE = Recipe(steps=40, batch=1, crop=16, lambdas=(0.01,), checkpoint_every=10)


def read_mlflow(root: Path) -> Curves:
    from mlflow import MlflowClient

    client, (run,) = MlflowClient(), (root / "run" / "mlflow.run").read_text().split()
    names = client.get_run(run).data.metrics
    assert client.get_run(run).data.params["steps"] == "40"
    return {n: {m.step: m.value for m in client.get_metric_history(run, n)} for n in names}


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, which W&B writes after seven bytes."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record or its last piece
            yield whole
            whole = b""


def read_wandb(root: Path) -> Curves:
    from wandb.proto import wandb_internal_pb2

    curves: Curves = {}
    for file in sorted((root / "run" / "wandb").rglob("run-*.wandb")):
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            for name in row:
                if not name.startswith("_"):
                    curves.setdefault(name, {})[row["_step"]] = row[name]
    return curves


def read_trackio(root: Path) -> Curves:
    curves: Curves = {}
    with sqlite3.connect(root / "trackio" / "tcm-lab.db") as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            curves.setdefault(name, {})[step] = value
    return curves


if __name__ == "__main__":
    tracker, root = sys.argv[1], Path(sys.argv[2])
    for stop in ((25, signal.SIGINT), None):
        with suppress(KeyboardInterrupt):
            train(
                TinyCodec(), RECIPE, RandomCrops(signal_at=stop), directory=root / "run",
                resume=True, accelerator="cpu", trackers=open_trackers([tracker]),
            )  # fmt: skip
    print(json.dumps(globals()[f"read_{tracker}"](root)))
