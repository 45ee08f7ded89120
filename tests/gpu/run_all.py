"""Run everything that needs a GPU in a few minutes: tests, coding times, training, a study.

``python tests/gpu/run_all.py FOLDER`` takes at most twelve minutes, and less if there is less to
do; ``--device cpu --minutes 2`` checks the script itself. Every step is a separate process that
writes results as soon as it has them, so a step that fails or times out does not affect the others.

It writes to FOLDER:
    tests.log        the output of pytest
    times.jsonl      one timing record per line, including those of the plain baseline
    training.jsonl   crops per second by model, precision, and number of parallel training runs
    records.jsonl    finished training runs of the study
    steps.json       for every step: seconds, exit status, the end of its output

``python studies/gpu/make.py FOLDER`` makes tables from times.jsonl and training.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "benchmarks"))

#: Share of the time limit per step; unused time goes to later steps.
SHARES = {"tests": 0.35, "times": 0.3, "training": 0.15, "study": 1.0}
SIZES = {"cuda": ((512, 768), (2048, 1365)), "cpu": ((128, 128),)}
MODELS = {
    "cuda": ("tcm-small", "tcm-large", "dcae", "hpcm-base", "tcm-medium", "mlicpp", "tcm-nano",
             "compressai/bmshj2018-hyperprior", "compressai/mbt2018-mean"),
    "cpu": ("tcm-nano",),
}  # fmt: skip
#: Conditions for timing; only `COMPILED` models are compiled, since that takes minutes.
CONDITIONS: tuple[dict[str, Any], ...] = (
    {}, {"precision": "tf32"}, {"precision": "bfloat16"},
    {"compile": True, "compile_backend": "cudagraphs"}, {"compile": True},
)  # fmt: skip
COMPILED = ("tcm-small", "tcm-large")
SLOW = ("auxt", "dcae", "hpcm", "mlicpp", "streams", "finite", "compiled")  # tests slow on a CPU
TESTS = {"cuda": "gpu", "cpu": f"gpu and not ({' or '.join(SLOW)})"}
SIDE_BY_SIDE = (1, 4, 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda", choices=SIZES)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--space", type=Path, help="space of the study that uses the time left")
    parser.add_argument("--data", type=Path, help="training images of the study")
    parser.add_argument("--eval-data", type=Path, help="evaluation images of the study")
    parser.add_argument("--step", choices=SHARES, help="run only this step, in this process")
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.step:
        STEPS[asked.step](asked)
        return 0
    return run_steps(asked)


def run_steps(asked: argparse.Namespace) -> int:
    """Run every step within its time limit, and return the number of failed steps."""
    begun, results = time.monotonic(), dict[str, Any]()
    whole_s = 60 * asked.minutes
    for step, share in SHARES.items():
        left_s = whole_s - (time.monotonic() - begun)
        limit_s = min(left_s, share * whole_s)
        command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--step", step]
        step_begun = time.monotonic()
        status, printed = run_limited(
            [*command, "--until", str(time.time() + 0.9 * limit_s)], asked.device, limit_s
        )
        seconds = round(time.monotonic() - step_begun, 1)
        results[step] = {"seconds": seconds, "status": status, "printed": printed[-3000:]}
        (asked.folder / "steps.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"{step}: {seconds} s, status {status}", flush=True)
    return sum(each["status"] != 0 for each in results.values())


def run_limited(command: Sequence[str], device: str, limit_s: float) -> tuple[int, str]:
    """Run a command; interrupt it at the time limit, and kill it a little later."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TCM_LAB_TEST_DEVICE": device,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    with suppress(subprocess.TimeoutExpired):
        printed, _ = process.communicate(timeout=limit_s)
        return process.returncode, printed
    for kind in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            printed, _ = process.communicate(timeout=20)
            break
    return process.returncode, printed


def run_tests(asked: argparse.Namespace) -> None:
    """Run the tests in this folder, and those of portable files across devices."""
    with (asked.folder / "tests.log").open("w") as log:
        files = (
            HERE / "test_gpu_timing.py",
            HERE / "test_gpu_training.py",
            HERE.parent / "portable" / "test_streams.py",
            HERE / "test_gpu_codec.py",  # last, since some of its tests compile for minutes
        )
        chosen = [*map(str, files), "-k", TESTS[asked.device]]
        words = ["-q", "-o", "filterwarnings=default", "--durations=10", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *chosen], cwd=ROOT, stdout=log,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    print((asked.folder / "tests.log").read_text()[-2000:])
    sys.exit(done.returncode)


def time_coding(asked: argparse.Namespace) -> None:
    """Time the plain baseline and our codec alternately, then all models and conditions."""
    import torch
    from plain import PlainCodec

    import tcm_lab
    from tcm_lab.complexity import compare_timing, measure_timing

    class Plain(torch.nn.Module):
        """The plain baseline with the interface of a codec."""

        def __init__(self, ours: Any) -> None:
            super().__init__()
            self.plain = PlainCodec(ours)

        def forward(self, x: torch.Tensor) -> Any:
            return self.plain(x)

        def compress(self, x: torch.Tensor) -> Any:
            return self.plain.compress(x)

        def decompress(self, strings: Any, shape: Any) -> Any:
            return {"x_hat": self.plain.decompress(strings, shape)}

    def write(**fields: Any) -> None:
        with (asked.folder / "times.jsonl").open("a") as file:
            file.write(json.dumps(fields) + "\n")

    (asked.folder / "times.jsonl").unlink(missing_ok=True)
    few = {"device": asked.device, "repeats": 10 if asked.device == "cuda" else 2, "warm_up": 2}
    models = MODELS[asked.device]
    for name in COMPILED if asked.device == "cuda" else COMPILED[:1]:
        ours = tcm_lab.build(name, {"entropy_model.scale_table": "compressai"}).eval()
        try:
            compared = compare_timing([Plain(ours).eval(), ours], SIZES[asked.device][0], **few)
        except Exception as error:  # the other models are still timed
            write(baseline=name, error=repr(error)[:500])
        else:
            write(baseline=name, comparison=compared.model_dump(mode="json"))
    for size, condition in ways_of_timing(asked.device):
        for name in COMPILED if condition.get("compile") else models:
            if time.time() > asked.until:
                print("no time left at", size, condition, name)
                return
            try:
                record = measure_timing(name, size, **few, **condition)
            except Exception as error:  # the other conditions are still timed
                write(model=name, size=size, condition=condition, error=repr(error)[:500])
            else:
                write(record=record.model_dump(mode="json"))


def ways_of_timing(device: str) -> list[tuple[tuple[int, int], dict[str, Any]]]:
    """Return sizes and conditions; those that compile for minutes come last."""
    conditions = CONDITIONS if device == "cuda" else ({}, {"precision": "bfloat16"})
    ways = [(size, condition) for size in SIZES[device] for condition in conditions]
    return sorted(ways, key=lambda way: way[1].get("compile", False))


def pace_training(asked: argparse.Namespace) -> None:
    """Measure crops per second for one training run and for several in parallel."""
    (asked.folder / "training.jsonl").unlink(missing_ok=True)
    on_gpu = asked.device == "cuda"
    ways = [("tcm-nano", "32-true", 1), ("tcm-nano", "bf16-mixed", 2)]
    if on_gpu:
        ways = [
            ("tcm-nano", precision, count)
            for precision in ("32-true", "bf16-mixed")
            for count in SIDE_BY_SIDE
        ]
        ways += [("tcm-small", "32-true", 1), ("tcm-small", "bf16-mixed", 1)]
    shape = {"batch": 8, "crop": 256} if on_gpu else {"batch": 1, "crop": 64}
    for model, precision, count in ways:
        if time.time() > asked.until:
            print("no time left at", model, precision, count)
            return
        words = [model, precision, asked.device, json.dumps(shape)]
        command = [sys.executable, "-c", PACE, *words]
        processes = [
            subprocess.Popen(command, text=True, stdout=subprocess.PIPE) for _ in range(count)
        ]
        printed = [process.communicate()[0].split() for process in processes]
        each = [float(words[-1]) for words in printed if words]  # failed processes print nothing
        with (asked.folder / "training.jsonl").open("a") as file:
            row = {"model": model, "precision": precision, "side_by_side": count, **shape}
            file.write(json.dumps({**row, "crops_per_s": sum(each), "each": each}) + "\n")


PACE = """
import json
import sys

import tcm_lab
from tcm_lab.data import open_images
from tcm_lab.training import get_recipe, measure_pace

model, precision, device, shape = sys.argv[1:]
recipe = get_recipe("scratch").spread(4).changed(precision=precision, **json.loads(shape))
images = open_images(None, "train")
pace = measure_pace(lambda: tcm_lab.build(model, {"rate_levels": 4}), recipe, images, device)
print(recipe.batch / pace.step_s)
"""


def run_study(asked: argparse.Namespace) -> None:
    """Train a study until the time is up, and store the records of finished runs."""
    if asked.space is None:
        print("no --space: nothing to train")
        return
    work = asked.folder.parent / f"{asked.folder.name}-study"
    given = {
        "--space": asked.space, "--data": asked.data, "--eval-data": asked.eval_data,
        "--out": work / "study", "--cache": work / "cache",
    }  # fmt: skip
    words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    process = subprocess.Popen([sys.executable, "-m", "tcm_lab", "study", "run", *words])
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(1.0, asked.until - time.time()))
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()
    with (asked.folder / "records.jsonl").open("w") as file:
        for path in sorted((work / "cache").glob("*.json")):
            file.write(json.dumps(json.loads(path.read_text())) + "\n")
    sys.exit(0 if process.returncode in (0, 130) else process.returncode)


STEPS = {"tests": run_tests, "times": time_coding, "training": pace_training, "study": run_study}

if __name__ == "__main__":
    sys.exit(main())
