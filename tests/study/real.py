"""The smallest possible real studies, run in this process: their files, and their interruption."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image

from tcm_lab.study.context import Event, OnEvent
from tcm_lab.study.run import Display

REAL = """
name: real
base: tiny.yaml
axes:
  depth: {path: "g_s.stages.2.depth", choices: [0, 1]}
  slices: {path: entropy_model.slices, choices: [1, 2]}
mode: ablation
size: [64, 64]
budget:
  recipe: minute
  steps: 40
  rate_levels: 2
  changes: {crop: 64, linear_steps: 6, linear_batch: 1, checkpoint_every: 5, optimizer: adam}
"""
TINY = """
base: tcm-nano
name: tiny
override:
  g_*.depth: 0
  h_*.depth: 0
  g_s.stages.2.block: {type: residual}
  g_s.stages.2.depth: 1
  entropy_model.slices: 2
  entropy_model.support: 1
  entropy_model.attention: {type: none}
"""


def make_folder(folder: Path, base: str = TINY) -> Path:
    """Fill a folder with the base and a few small images for training and evaluation."""
    (folder / "tiny.yaml").write_text(base)
    rng = np.random.default_rng(0)
    for name in ("train", "eval"):
        (folder / name).mkdir()
        for index in range(2):
            pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((70, 66), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{index}.png")
    return folder


def interrupting(when: Callable[[Event], bool]) -> Display:
    """Return a display that raises KeyboardInterrupt at the first event that meets ``when``."""

    def display(todo: int, done: int) -> AbstractContextManager[OnEvent]:
        def on_event(event: Event) -> None:
            if when(event):
                raise KeyboardInterrupt

        return nullcontext(on_event)

    return display
