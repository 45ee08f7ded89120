"""Write the cards of the package's trained codecs, and the table in this folder's README.

``python studies/models/make.py`` regenerates the cards and the table from the records next to the
weights. Given finished training runs (``make.py runs/nano --data KODAK``), it first adds each to
the package under the name of its preset: weights, in half precision if that costs nothing, and
records.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from jinja2 import Template
from safetensors.torch import load_file

import tcm_lab
from tcm_lab._utils.files import write_atomically
from tcm_lab._utils.trees import leaves
from tcm_lab.codec import VariantConfig, checkpoint_file, read_extra, trained_names
from tcm_lab.codec.names import PRESETS, WEIGHTS
from tcm_lab.data import open_images
from tcm_lab.errors import LabError
from tcm_lab.evaluation import Anchor, RdRecord, bd_rate, evaluate, evaluate_anchor, measured_curves
from tcm_lab.reporting import (
    WITHOUT_HEADERS,
    Column,
    Row,
    Table,
    Value,
    beside_table,
    read_records,
    records_json,
    render,
)
from tcm_lab.training import TrainingRecord

PAGE = Path(__file__).with_name("README.md")
DATA = Path(__file__).with_name("data.yaml")
NOTES = Path(__file__).with_name("notes.yaml")
TEMPLATE = Path(__file__).with_name("card.md.j2")
NIL_RATE_PERCENT, NIL_PSNR_DB = 0.05, 0.005
"""Largest changes of mean rate and PSNR through half precision; beyond them, float32 is kept unless
half precision is requested."""


def add(run: Path, kodak: Path | None, *, always_half: bool = False) -> Path:
    """Evaluate a finished training run, add it to the package, and return its folder there."""
    training = TrainingRecord.model_validate_json((run / "training.json").read_bytes())
    source = run / "model.safetensors"
    codec = tcm_lab.load_checkpoint(source)
    name = codec.config.name.split()[0]  # the rest lists the overrides
    extra: dict[str, Any] = {"recipe": training.recipe.model_dump(mode="json")}
    images = open_images(None, "eval")
    with tempfile.TemporaryDirectory() as made:
        weights = Path(made) / "model.safetensors"
        tcm_lab.save_checkpoint(codec, weights, extra, dtype=torch.float16)
        half = tcm_lab.load_checkpoint(weights)
        rd = evaluate(half, images, name=name, recipe=training.recipe)
        if any(value.dtype == torch.float32 for value in load_file(source).values()):
            whole = evaluate(codec, images, name=name, recipe=training.recipe)
            rate, psnr = rounding(whole, rd)
            print(f"{name}: float16 changes rates by up to {rate:.4f} %, PSNR by {psnr:.5f} dB")
            if not always_half and (rate > NIL_RATE_PERCENT or psnr > NIL_PSNR_DB):
                tcm_lab.save_checkpoint(codec, weights, extra)
                half, rd = codec, whole
            else:
                extra["rounding"] = {"rate_percent": rate, "psnr_db": psnr, "images": len(images)}
                tcm_lab.save_checkpoint(half, weights, extra, dtype=torch.float16)
        records = {"rd.json": [rd, *anchors(images)]}
        if kodak is not None:
            coded = open_images(kodak, "eval")
            ours = evaluate(half, coded, name=name, recipe=training.recipe)
            records["kodak.json"] = [ours, *anchors(coded)]
        folder = WEIGHTS / name
        folder.mkdir(exist_ok=True)
        for file, each in records.items():
            write_atomically(folder / file, records_json(each))
        for file in ("training.json", "log.csv"):
            if run.resolve() != folder.resolve():
                shutil.copyfile(run / file, folder / file)
        shutil.copyfile(weights, folder / weights.name)
    return folder


def anchors(images: Any) -> list[RdRecord]:
    """Return the records of JPEG and WebP on the same images."""
    return [evaluate_anchor(name, images) for name in get_args(Anchor)]


def rounding(whole: RdRecord, half: RdRecord) -> tuple[float, float]:
    """Return the largest change of a mean rate (in percent) and of a mean PSNR (in dB)."""
    pairs = list(zip(whole.points, half.points, strict=True))
    rate = max(abs(b.bpp / a.bpp - 1) for a, b in pairs)
    return 100 * rate, max(abs(b.psnr_db - a.psnr_db) for a, b in pairs)


def card(name: str) -> str:
    """Return the card of a trained codec, made from the metadata of its weights and its records."""
    weights, training = checkpoint_file(name), training_of(name)
    config = VariantConfig.parse(training.model)  # type: ignore[arg-type]  # of ours it is a tree
    sources = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    text = Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True).render(
        name=name,
        about=about(name),
        config=config,
        changes=list(changes(config)),
        cost=tcm_lab.measure_complexity(config, size=(512, 768)),
        megabytes=weights.stat().st_size / 1e6,
        precision=precision(name),
        rounding=read_extra(weights).get("rounding"),
        training=training,
        recipe=training.recipe,
        note=yaml.safe_load(NOTES.read_text(encoding="utf-8")).get(name),
        data=sources[training.data_fingerprint],
        curves=list(curves(name)),
    )
    return text.rstrip() + "\n"


def about(name: str) -> str:
    """Return the comment at the top of the preset."""
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    comment = re.match(r"(?:# .*\n)+", text)
    assert comment is not None, name
    return " ".join(line.removeprefix("# ") for line in comment[0].splitlines())


def changes(config: VariantConfig) -> Iterator[str]:
    """Yield each field in which a trained codec differs from its preset."""
    name = config.name.split()[0]
    preset = tcm_lab.load_config(name)
    ours, theirs = (dict(leaves(each.model_dump(mode="json"))) for each in (config, preset))
    for path in sorted({*ours, *theirs} - {"name"}):
        if ours.get(path) != theirs.get(path):
            yield f"{path}: {str(ours.get(path)).lower()}"


def precision(name: str) -> str:
    """Return the floating-point type of the stored weights."""
    kinds = {
        value.dtype
        for value in load_file(checkpoint_file(name)).values()
        if value.is_floating_point()
    }
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def curves(name: str) -> Iterator[dict[str, str]]:
    """Yield each measured curve as a table with JPEG and WebP, and the name of its file."""
    folder = checkpoint_file(name).parent
    titles = {"kodak.json": "the 24 Kodak images", "rd.json": "the package's photographs"}
    for file, title in titles.items():
        if (folder / file).exists():
            codec, *others = records_of(folder / file)
            table = beside_table(measured_curves([codec]), others)
            shown = table.model_copy(update={"title": f"On {title}"})
            yield {"table": render(shown, "markdown"), "file": file}


def records_of(path: Path) -> list[RdRecord]:
    """Return the records of the codec and of the anchors."""
    return [record for record in read_records(path) if isinstance(record, RdRecord)]


def training_of(name: str) -> TrainingRecord:
    """Return the training record of a codec."""
    path = checkpoint_file(name).with_name("training.json")
    return TrainingRecord.model_validate_json(path.read_bytes())


def family() -> Table:
    """Return the table of the page, with one row per trained codec."""
    columns = [
        Column(key="model", header="model"),
        Column(key="file", header="file", unit="MB", format=".1f"),
        Column(key="kmacs_per_px", header="cost", unit="kMAC/px", format=".2f"),
        Column(key="steps", header="steps", format=",d"),
        Column(key="loss", header="loss", group="last training crops", format=".3f"),
        Column(key="bpp", header="rate", unit="bpp", group="last training crops", format=".4f"),
        Column(key="psnr_db", header="PSNR", unit="dB", group="last training crops", format=".2f"),
        *(
            Column(key=file, header=what, group="BD-rate against JPEG", unit="%", format="+.1f")
            for file, what in (("kodak.json", "24 Kodak images"), ("rd.json", "3 of the package"))
        ),
    ]
    rows = []
    for name in trained_names():
        training, file = training_of(name), checkpoint_file(name)
        config = VariantConfig.parse(training.model)  # type: ignore[arg-type]  # of ours it is a tree
        values: dict[str, Value] = {
            "model": name,
            "file": file.stat().st_size / 1e6,
            "kmacs_per_px": tcm_lab.measure_complexity(config, size=(512, 768)).kmacs_per_px,
            "steps": training.steps,
            "loss": training.loss,
            "bpp": training.bpp,
            "psnr_db": training.psnr_db,
        }
        for measured in ("kodak.json", "rd.json"):
            codec, jpeg, *_ = records_of(file.with_name(measured))
            sides = [record.curve(counted="payload") for record in (jpeg, codec)]
            with suppress(LabError):  # curves that do not overlap
                values[measured] = bd_rate(*sides).percent
        rows.append(Row(values=values))
    note = "JPEG by Pillow, 4:2:0 and optimised Huffman tables."
    return Table(title="", columns=columns, rows=rows, footer=(f"{note} {WITHOUT_HEADERS}",))


def page() -> str:
    """Return this folder's README with an up-to-date table."""
    text = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- the table -->\n", "<!-- its end -->"
    before, rest = text.split(start)
    return f"{before}{start}\n{render(family(), 'markdown')}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Add the given runs, then write the cards and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished training runs")
    parser.add_argument("--data", type=Path, help="folder of the Kodak images")
    parser.add_argument("--half", action="store_true", help="store float16 whatever its effect")
    options = parser.parse_args()
    if not options.runs and (options.data or options.half):
        parser.error("--data and --half have no effect without a run")
    for run in options.runs:
        print(add(run, options.data, always_half=options.half))
    trained_names.cache_clear()
    for name in trained_names():
        write_atomically(checkpoint_file(name).with_name("README.md"), card(name))
    write_atomically(PAGE, page())


if __name__ == "__main__":
    main()
