"""Measure how far the blocks of TCM and of its successors see, and draw it side by side.

``python studies/successors/receptive.py PHOTOGRAPHS KODAK`` trains each codec of `FORMS` on the
images in PHOTOGRAPHS, one after the other, with the recipe of the study. Then it measures the
receptive fields on the first images in KODAK, and writes figure and tables next to this file. After
Ctrl-C, the same command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tcm_lab import Codec, build, load_checkpoint, load_config
from tcm_lab.analysis import ErfMap, ErfMeasures, ErfOptions, erf_maps, mean_erf, measure_erf
from tcm_lab.data import CropSource, ImageSet, open_images
from tcm_lab.reporting import Table, erf_table, save_figure
from tcm_lab.reporting.plots import erf_plot
from tcm_lab.study.report import write_tables
from tcm_lab.training import Recipe, TrainingProgress, get_recipe, train

FOLDER = Path(__file__).parent
STEM = "receptive-fields"
#: Transforms of TCM's three forms and of its successors; the entropy model is TCM's throughout.
FORMS: Mapping[str, Mapping[str, Any]] = {
    "convolution": {"g_*.split": 0.0},
    "mixture (TCM)": {},
    "transformer": {"g_*.split": 1.0},
    "DCAE's transforms": {"?_?": "dcae-nano"},
    "MLIC++'s transforms": {"?_?": "mlicpp-nano"},
    "HPCM's transforms": {"?_?": "hpcm-nano"},
}
IMAGES, SIDE_PX, PROBES = 8, 256, 8  # as in notebook 04


def trained(form: str, recipe: Recipe, photographs: ImageSet, out: Path) -> Codec:
    """Return the trained codec of a form, from its folder in ``out`` if it was trained before."""
    folder = out / form.replace(" ", "-")
    if not (folder / "model.safetensors").exists():
        config = load_config("tcm-nano").override({"rate_levels": 4, **FORMS[form]})
        crops = CropSource(photographs, crop=recipe.crop, seed=recipe.seed)

        def on_progress(progress: TrainingProgress) -> None:
            print(f"\r{form}: {progress.text}", end="\033[K", flush=True)

        codec = build(config, seed=recipe.seed)
        train(codec, recipe, crops, directory=folder, resume=True, on_progress=on_progress)
        print()
    return load_checkpoint(folder / "model.safetensors")


def fields(codec: Codec, images: ImageSet) -> list[ErfMap]:
    """Return each image's receptive field of the blocks of g_a, before the shortcut is added."""
    layer = f"g_a.stages.{len(codec.g_a.stages) - 1}"
    return erf_maps(codec, images, ErfOptions(side=SIDE_PX, probes=PROBES, layer=layer))


def table(
    measures: Mapping[str, ErfMeasures], recipe: Recipe, photographs: ImageSet, images: ImageSet
) -> Table:
    """Return the measures of each form's fields, and the conditions."""
    found = erf_table(measures, title="What the blocks of the analysis transform see")
    conditions = (
        f"Each codec: tcm-nano with other transforms, trained once with recipe {recipe.name}, seed "
        f"{recipe.seed}: {recipe.steps} steps on images {photographs.fingerprint}. Fields of the "
        f"last stage of g_a, without the linear shortcut, at the centre of {SIDE_PX}x{SIDE_PX} "
        f"pixels of {', '.join(images.names)} (set {images.fingerprint})."
    )
    return found.model_copy(update={"footer": (*found.footer, conditions)})


def main() -> None:
    """Train what is not trained yet, and write the figure and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="folder of training images")
    parser.add_argument("kodak", type=Path, help="folder of the images for the fields")
    parser.add_argument("--out", type=Path, default=Path("runs/receptive"), help="trained codecs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    photographs = open_images(args.photographs, purpose="train")
    images = open_images(args.kodak, purpose="eval")[:IMAGES]
    recipe = get_recipe("study")
    maps = {form: fields(trained(form, recipe, photographs, args.out), images) for form in FORMS}
    measures = {form: measure_erf(each) for form, each in maps.items()}
    plot = erf_plot({form: mean_erf(each) for form, each in maps.items()}, squares=measures)
    found = {STEM: table(measures, recipe, photographs, images)}
    for path in (*write_tables(found, FOLDER), *save_figure(plot, FOLDER / STEM)):
        print(path)


if __name__ == "__main__":
    main()
