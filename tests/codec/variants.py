"""Random codecs over all axes, valid by construction and small enough to run hundreds of them.

``python tests/codec/variants.py 200`` runs 200 round trips; the test suite runs the first few.
"""

from __future__ import annotations

import sys
import time
from random import Random
from typing import Any

import torch

from tcm_lab.codec import Codec, VariantConfig, build

Tree = dict[str, Any]
_WINDOWS = (2, 3, 4, 8)
_HEADS = (2, 4)


def random_config(seed: int) -> VariantConfig:
    """Draw a codec: transforms of any depth and block, any slices, any entropy model."""
    rng, entropies = Random(seed), Random(f"entropy model {seed}")
    m, n = rng.choice((8, 16, 24)), rng.choice((4, 8, 12))
    entropy_model = _entropy_model(rng, m)
    hyper_output = 2 * m if entropy_model["paths"] == "shared" else m
    if entropies.random() < 0.5:
        draw = entropies.choice((_dictionary_model, _hierarchical_model, _multi_context_model))
        entropy_model = draw(entropies, m)
        hyper_output = m if draw is _dictionary_model else 2 * m
    halvings, hyper_halvings = rng.randint(1, 4), rng.randint(0, 2)
    linear = Random(f"linear {seed}")  # separate, so that all other draws stay as they were
    return VariantConfig.parse(
        {
            "name": f"random-{seed}",
            "shortcut": linear.choice(("none", "none", "patch", "staged", "wavelet")),
            "latent_channels": m,
            "hyper_channels": n,
            "rate_levels": rng.choice((0, 0, 2, 3)),
            "g_a": _transform(rng, 3, m, halvings),
            "g_s": _transform(rng, m, 3, halvings),
            "h_a": _transform(rng, m, n, hyper_halvings),
            "h_s": _transform(rng, n, hyper_output, hyper_halvings),
            "entropy_model": {**entropy_model, "normalised": linear.random() < 0.4},
        }
    )


def _transform(rng: Random, c_in: int, c_out: int, halvings: int) -> Tree:
    factors = [2] * halvings + [1] * rng.randint(0 if halvings else 1, 1)
    rng.shuffle(factors)
    stages = []
    for i, factor in enumerate(factors):
        last = i == len(factors) - 1
        width = c_out if last else rng.choice((8, 12, 16))
        if factor == 1 and rng.random() < 0.5 and (not last or c_in == c_out):
            stage, width = {"resample": "none"}, c_in
        else:
            stage = {"resample": _resampler(rng, factor)}
        if not last:
            stage["width"] = width
        stage["depth"] = rng.choice((0, 1, 1, 2))
        if stage["depth"]:
            stage["block"] = random_block(rng, width)
        stage["attention"] = _attention(rng, [width]) if rng.random() < 0.25 else "none"
        stages.append(stage)
        c_in = width
    return {"stages": stages}


def _resampler(rng: Random, factor: int) -> Tree:
    conv = {
        "type": "conv",
        "stride": factor,
        "kernel": rng.choice((1, 3, 5)),
        "upsample": rng.choice(("subpixel", "transposed")),
        "activation": rng.choice(("none", "relu", "leaky-relu", "gelu", "gdn")),
    }
    if factor == 1:
        return conv
    bottlenecks = {
        "type": "bottlenecks",
        "kernel": rng.choice((3, 5)),
        "blocks": rng.choice((1, 2)),
    }
    return rng.choice((conv, {"type": "residual"}, {"type": "patch"}, bottlenecks))


def random_block(rng: Random, width: int) -> Tree:
    """Draw a block that is valid for ``width`` channels."""
    heads = [d for d in _HEADS if width % d == 0]
    kinds: list[Tree] = [
        {"type": "residual"},
        {"type": "residual-bottleneck", "reduction": rng.choice((1, 2, 4))},
        {"type": "convnext", "kernel": rng.choice((3, 7)), "mlp_ratio": rng.choice((1.0, 2.5))},
        {"type": "large-kernel", "kernel": rng.choice((5, 13))},
        {"type": "partial-conv", "share": rng.choice((0.25, 0.5, 1.0))},
        {"type": "depthwise-conv"},
    ]
    if heads:
        d = rng.choice(heads)
        swin = {
            "window_size": rng.choice(_WINDOWS),
            "head_dim": d,
            "mlp_ratio": rng.choice((1.0, 4.0)),
            "alternate_shift": rng.random() < 0.8,
        }
        split = rng.randint(0, width // d) * d / width
        kinds += [
            {"type": "swin", **swin},
            {"type": "tcm", "split": split, **swin},
            {"type": "tcm", "split": split, **swin},
            {"type": "tcm-sequential", "split": split, **swin},
            {
                "type": "gated-stage",
                "layers": rng.choice((1, 2)),
                **{option: swin[option] for option in ("window_size", "head_dim", "mlp_ratio")},
            },
        ]
    return rng.choice(kinds)


def _attention(rng: Random, widths: list[int]) -> Tree:
    """Draw an attention module that is valid at each of ``widths``."""
    d, window = rng.choice(_HEADS), rng.choice(_WINDOWS)
    swatten = {"type": "swatten", "window_size": window, "head_dim": d, "mlp_ratio": 2.0}
    kinds: list[Tree] = [
        {"type": "none"},
        {"type": "residual-attention"},
        {**swatten, "squeeze": 2 * d},
        {**swatten, "squeeze": rng.choice((0.1, 0.5, 1.0))},
        {"type": "dictionary", "entries": 5, "width": 3 * d, "head_dim": d, "layers": 2},
    ]
    if all(width % d == 0 for width in widths):
        shift = rng.choice(("half", "none"))
        kinds += [
            {**swatten, "squeeze": "none"},
            {"type": "window-attention", "window_size": window, "head_dim": d, "shift": shift},
            {"type": "window-cross-attention", "window_size": window, "head_dim": d},
            {"type": "linear-attention", "head_dim": d, "kernel": 3},
            {"type": "overlapped-windows", "window_size": 3, "head_dim": d},
        ]
    return rng.choice(kinds)


def _entropy_model(rng: Random, m: int) -> Tree:
    paths = rng.choice(("apart", "shared"))
    if rng.random() < 0.1:
        return {
            "slices": 1, "support": 0, "hidden": "none", "lrp": "none", "paths": paths,
            "attention": "none", "checkerboard": False,
        }  # fmt: skip
    slices: int | list[int] = rng.choice([count for count in (1, 2, 4, 8) if m % count == 0])
    if rng.random() < 0.5:  # uneven: cut at one to three different positions
        cuts = sorted(rng.sample(range(1, m), rng.choice((1, 2, 3))))
        widths = [b - a for a, b in zip([0, *cuts], [*cuts, m], strict=True)]
        slices = widths if len(set(widths)) > 1 else len(widths)
    widths = slices if isinstance(slices, list) else [m // slices] * slices
    support = rng.randint(0, len(widths))
    start = 2 * m if paths == "shared" else m
    supports = [start + sum(widths[: min(i, support)]) for i in range(len(widths))]
    return {
        "slices": slices,
        "support": support,
        "attention": _attention(rng, supports),
        "hidden": rng.choice(([], [6], [10, 6])),
        "paths": paths,
        "lrp": rng.choice(("none", "before-attention", "after-attention")),
        "checkerboard": rng.random() < 0.3,
    }


def _dictionary_model(rng: Random, m: int) -> Tree:
    return {
        "type": "dictionary",
        "slices": rng.choice([count for count in (1, 2, 4) if m % count == 0]),
        "hidden": rng.choice(([], [6], [10, 6])),
        "entries": rng.choice((1, 7)),
        "width": 12,
        "head_dim": rng.choice((4, 6)),
        "layers": rng.choice((1, 2)),
        "mlp_ratio": rng.choice((1, 2)),
        "lrp": rng.random() < 0.7,
    }


def _hierarchical_model(rng: Random, m: int) -> Tree:
    return {
        "type": "hierarchical",
        "coarse": [rng.randint(0, 1), rng.randint(0, 1)],
        "fine": [rng.randint(0, 2), rng.randint(0, 1)],
        "block": random_block(rng, 3 * m),
        "window_size": [rng.choice(_WINDOWS) for _ in range(3)],
        "head_dim": rng.choice((4, 8)),
        "hyper_places": rng.choice(("own", "as-published")),
        "scale_table": rng.choice(("fine", "published")),
    }


def _multi_context_model(rng: Random, m: int) -> Tree:
    slices = rng.choice([count for count in (1, 2) if m % (4 * count) == 0])
    attention = {"head_dim": rng.choice(_HEADS), "inner": 6, "hidden": 5, "width": 4}

    def perhaps(context: Any) -> Any:
        return context if rng.random() < 0.7 else "none"

    return {
        "type": "multi-context",
        "slices": slices,
        "hidden": rng.choice(([], [6], [10, 6])),
        "channel": perhaps({"hidden": [6], "width": 4}),
        "inter": perhaps({**attention, "kernel": 3}),
        "intra": perhaps(attention),
        "local": perhaps({"window_size": rng.choice((3, 5)), "head_dim": 4, "width": 4}),
        "lrp": perhaps([6]),
    }


@torch.no_grad()
def round_trip(config: VariantConfig, seed: int) -> tuple[Codec, torch.Tensor, torch.Tensor]:
    """Return a codec with non-trivial symbols, and its forward and decoded images."""
    rng = Random(seed)
    codec = build(config, seed=seed).eval()
    for parameter in codec.g_a.stages[-1].resample.parameters():
        parameter.mul_(4)  # otherwise nearly every symbol is zero
    if codec.y_unit is not None:
        codec.y_unit.copy_(torch.linspace(0.3, 3, len(codec.y_unit)))
    size = (rng.randint(1, 70), rng.randint(1, 70))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rng.choice((1, 1, 2)), 3, *size, generator=generator)
    rate = rng.uniform(0, config.rate_levels - 1) if config.rate_levels else None
    forward = codec(x, rate)["x_hat"].clamp(0, 1)
    decoded = codec.decompress(**codec.compress(x, rate))["x_hat"]
    if seed % 3 == 0:
        codec.decompress(**codec.compress(x, rate, portable=True))  # compares the checksum
    return codec, forward, decoded


def main(count: int) -> None:
    """Run ``count`` round trips and print the largest error and the time."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    began, worst = time.perf_counter(), 0.0
    for seed in range(count):
        _, forward, decoded = round_trip(random_config(seed), seed)
        assert forward.shape == decoded.shape
        worst = max(worst, (forward - decoded).abs().max().item())
    print(f"{count} codecs, largest error {worst:.2g}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
