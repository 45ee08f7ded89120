"""Encode photographs with one arithmetic and decode them with others, portably and ordinarily.

``python tests/portable/kodak.py FOLDER MODEL… --images 24 --out results.jsonl`` writes one line per
file and prints a table; with only ``--table results.jsonl…`` it prints the table of earlier runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from arithmetics import ARITHMETICS, noise
from portable_codecs import fill
from torch import Tensor, nn

import tcm_lab
from tcm_lab.codec import PortableReference, export_state
from tcm_lab.codec.portable import MARGIN, Agreement, read_list
from tcm_lab.errors import LabError

ROOT = Path(__file__).parents[2]
NANO = "tcm-nano"  # the trained codec of the package
HOME = "one-thread"
OTHERS = ("two-threads", "without-onednn", "channels-first", "another-kernel")


def _published() -> Any:
    """Return a codec in the published layout with N = 64 and the weights of the golden vectors."""
    sys.path.insert(0, str(ROOT / "tests" / "codec"))
    from golden import weights_by_name

    config = tcm_lab.load_config("tcm-small").override({"entropy_model.scale_table": "compressai"})
    state = export_state(tcm_lab.build(config, device="meta"))
    return tcm_lab.load_checkpoint(
        weights_by_name({name: tuple(value.shape) for name, value in state.items()})
    )


def _filled(name: str, gain: float) -> Any:
    """Return a model with reproducible weights whose y and z spread over several symbols."""
    model = tcm_lab.build(name)
    fill(model)
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in ("g_a", "h_a"):
            last = [m for m in module.modules() if isinstance(m, nn.Conv2d)][-1]
            with torch.no_grad():
                last.weight.mul_(gain)
    return model


MODELS: Mapping[str, Callable[[], Any]] = {
    "tcm-nano": lambda: tcm_lab.load_checkpoint(NANO),
    "tcm-small": lambda: _filled("tcm-small", 8),
    "published-64": _published,
    "compressai/mbt2018-mean": lambda: _filled("compressai/mbt2018-mean", 8),
    "compressai/elic2022-official": lambda: _filled("compressai/elic2022-official", 8),
}


class Ours:
    """One of our codecs, whose decoder stops at ŷ and compares checksums."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec
        levels = codec.config.rate_levels
        self.rates: list[float | None] = [*map(float, range(levels))] if levels else [None]

    def encode(self, x: Tensor, rate: float | None) -> tuple[Any, Any]:
        """Return the ordinary and portable streams with their checksums."""
        codec = self.codec
        levels = codec._rate(rate, x)
        y = codec._analyse(x, levels)
        z = codec._hyper_latent(y, codec._steps_per_unit(levels), levels)
        self._shape = z.shape[-2:]
        return codec._encode(y, z, levels), codec._encode_portably(y, z, levels)

    def decodes(self, coded: Any, rate: float | None) -> bool:
        """Say whether the decoder finds the encoder's symbols."""
        strings, checksum = coded
        decode = self.codec._decode if len(strings) == 2 else self.codec._decode_portably
        levels = self.codec._rate(rate, torch.zeros(1))
        return bool(decode(strings, self._shape, levels)[1] == checksum)


class Reference:
    """A CompressAI model whose synthesis transform only passes on ŷ."""

    def __init__(self, model: Any) -> None:
        self.codec = model.eval()
        model.update()
        self.rates: list[float | None] = [None]
        self._portable = PortableReference(model)
        self._analysis = model.g_a.forward
        vars(model.g_s)["forward"] = lambda y: 0.5 + y / 1e4
        self._expected = torch.zeros(0)

    def encode(self, x: Tensor, rate: float | None) -> tuple[Any, Any]:
        """Return the ordinary and portable streams."""
        y = self._analysis(x)
        vars(self.codec.g_a)["forward"] = lambda _: y
        ordinary = self.codec.compress(x)
        self._expected = self.codec.decompress(**ordinary)["x_hat"]
        return (ordinary["strings"], ordinary), (
            (coded := self._portable.compress(x))["strings"],
            coded,
        )

    def decodes(self, coded: Any, rate: float | None) -> bool:
        """Say whether the decoder finds the encoder's symbols."""
        if "checksum" in coded[1]:
            try:
                self._portable.decompress(**coded[1])
            except LabError:
                return False
            return True
        return torch.equal(self.codec.decompress(**coded[1])["x_hat"], self._expected)


@contextmanager
def watched(seen: list[Tensor], against: list[Tensor] | None = None) -> Iterator[None]:
    """Collect all values before agreement, or their distances from values collected earlier."""
    agree = Agreement.__call__

    def watching(self: Agreement, values: Tensor) -> Tensor:
        if against is None:
            seen.append(values.clone())
        else:
            seen.append((values - against[len(seen)]).abs().max() / MARGIN)
        return agree(self, values)

    Agreement.__call__ = watching  # type: ignore[method-assign]  # to look on
    try:
        yield
    finally:
        Agreement.__call__ = agree  # type: ignore[method-assign]  # to look on


@contextmanager
def rounding_at_its_bound(_: nn.Module) -> Iterator[None]:
    """Shift sums of n products by n·u·Σ|w·x|, the bound for any order, up or down at random."""
    conv, linear = F.conv2d, F.linear

    def off(out: Tensor, most: Tensor, weight: Tensor) -> Tensor:
        if out.dtype != torch.float64:
            return out
        signs = 2.0 * (torch.rand(out.shape) < 0.5) - 1
        return out + weight[0].numel() * 2.0**-53 * most * signs

    def conv2d(x: Tensor, weight: Tensor, bias: Any = None, *rest: Any) -> Tensor:
        most = conv(x.abs(), weight.abs(), None if bias is None else bias.abs(), *rest)
        return off(conv(x, weight, bias, *rest), most, weight)

    def linear_off(x: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
        most = linear(x.abs(), weight.abs(), None if bias is None else bias.abs())
        return off(linear(x, weight, bias), most, weight)

    F.conv2d, F.linear = conv2d, linear_off
    try:
        yield
    finally:
        F.conv2d, F.linear = conv, linear


@torch.no_grad()
def code(coder: Any, x: Tensor, rate: float | None, *, first: bool) -> dict[str, Any]:
    """Encode one image, decode it with every arithmetic, and return the results."""
    values: list[Tensor] = []
    with watched(values):
        ordinary, portable = coder.encode(x, rate)
    lengths = [sum(len(s[0]) for s in coded[0]) for coded in (ordinary, portable)]
    result: dict[str, Any] = {
        "rate": rate,
        "values": sum(v.numel() for v in values),
        "ordinary_bytes": lengths[0],
        "portable_bytes": lengths[1],
        "decision_bytes": len(portable[0][-1][0]),
        "decisions": len(read_list(portable[0][-1][0])),
        "ordinary": {},
        "portable": {},
        "off_in_margins": {},
    }
    others = {name: ARITHMETICS[name] for name in OTHERS}
    if first:
        others["rounding at its bound"] = rounding_at_its_bound
    for name, way in others.items():
        off: list[Tensor] = []
        with way(coder.codec), watched(off, values):
            result["portable"][name] = coder.decodes(portable, rate)
        result["off_in_margins"][name] = max(map(float, off))
        if name in OTHERS:
            with way(coder.codec):
                result["ordinary"][name] = coder.decodes(ordinary, rate)
    for margins in (0.9, 10):
        with noise(margins):
            result["portable"][f"noise {margins}"] = coder.decodes(portable, rate)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table, one row per model."""
    lines = [
        "| model | files | values each | decisions each | their bytes | rate | decode elsewhere | "
        "ordinary streams that don't | off, in margins | off at the bound | noise 0.9 | noise 10 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for model in dict.fromkeys(r["model"] for r in results):
        own = [r for r in results if r["model"] == model]
        total = {key: sum(r[key] for r in own) for key in own[0] if key.endswith("bytes")}
        real = [r["portable"][name] for r in own for name in OTHERS]
        fails = [not good for r in own for good in r["ordinary"].values()]
        off = [r["off_in_margins"][name] for r in own for name in OTHERS]
        bound = [
            r["off_in_margins"]["rounding at its bound"]
            for r in own
            if "rounding at its bound" in r["off_in_margins"]
        ]
        noisy = [[r["portable"][f"noise {m}"] for r in own] for m in (0.9, 10)]
        change = 100 * (total["portable_bytes"] / total["ordinary_bytes"] - 1)
        cells = (
            model,
            len(own),
            f"{own[0]['values']:,}",
            f"{sum(r['decisions'] for r in own) / len(own):.1f}",
            f"{100 * total['decision_bytes'] / total['portable_bytes']:.3f} %",
            f"{change:+.3f} %",
            f"{sum(real)} of {len(real)}",
            f"{sum(fails)} of {len(fails)}",
            f"{max(off):.1e}",
            f"{max(bound, default=0):.1e}",
            f"{sum(noisy[0])} decode",
            f"{len(own) - sum(noisy[1])} refused",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Code the images and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--skip", type=int, default=0, help="number of images already coded")
    parser.add_argument("--one-rate", action="store_true", help="cycle through the rates by image")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="*")
    args = parser.parse_args()
    results = [json.loads(line) for p in args.table or () for line in p.open()]
    coders = {}
    for name in args.models:
        model = MODELS[name]().eval()
        foreign = name.startswith("compressai/")
        coders[name] = Reference(model) if foreign else Ours(model)
    images = sorted(Path(args.folder).glob("*.png"))[: args.images] if args.models else []
    with args.out.open("a") if args.out else nullcontext(sys.stderr) as out:
        for i, path in list(enumerate(images))[args.skip :]:
            x = tcm_lab.data.open_images(path, "eval")[0].float().div(255)[None]
            for name, coder in coders.items():
                rates = coder.rates
                for rate in [rates[i % len(rates)]] if args.one_rate else rates:
                    with ARITHMETICS[HOME](coder.codec):
                        result = code(coder, x, rate, first=i == 0)
                    results.append({"model": name, "image": path.name, **result})
                    print(json.dumps(results[-1]), file=out, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
