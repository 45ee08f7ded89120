"""Wrapped, prefixed, renamed, truncated and foreign checkpoints.

``python tests/fuzz/fuzz_checkpoints.py 2000`` tries 2,000 files; the tests try the first few.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import sys
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from limits import at_most
from safetensors.torch import save
from torch import Tensor

import tcm_lab
from tcm_lab.codec import export_state, save_checkpoint
from tcm_lab.errors import LabError

#: The paper's architecture, narrow.
_NARROW = {
    "?_?.width": 16, "?_?.head_dim": 4, "?_?.window_size": 4, "latent_channels": 40,
    "hyper_channels": 12, "entropy_model.scale_table": "compressai",
    "entropy_model.hidden": [12, 8], "entropy_model.attention.squeeze": 16,
    "entropy_model.attention.head_dim": 4, "entropy_model.attention.window_size": 4,
}  # fmt: skip
_HOLDERS = ("state_dict", "model", "net", "model_state_dict", "module", "network", "codec")
_PREFIXES = (
    "module.",
    "model.",
    "net.",
    "_orig_mod.",
    "module._orig_mod.",
    "net.module.",
    "codec.",
)
_FOREIGN = (
    b"", b"\0" * 64, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    b"<!DOCTYPE html>\n<html><body>404</body></html>", b"\n  <html lang=en>sign in</html>", b"{}",
    b'{"error": "not found"}', b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x04N.", b"%PDF-1.7",
    b"\x1f\x8b\x08\x00", b"Not Found", b"\x93NUMPY\x01\x00",
)  # fmt: skip


def same_weights(state: dict[str, Tensor], rng: Random) -> Any:
    """Wrap, prefix and extend a state dict without changing its weights."""
    tree: Any = OrderedDict(state)
    for _ in range(rng.choice((0, 1, 1, 2))):
        prefix = rng.choice(_PREFIXES)
        tree = {f"{prefix}{name}": value for name, value in tree.items()}
    if rng.random() < 0.3:  # left behind by thop
        parts = {name.rpartition(".")[0] for name in tree}
        tree |= {f"{part}.total_ops": torch.zeros(1) for part in rng.sample(sorted(parts), 3)}
        tree["total_params"] = torch.zeros(1)
    for _ in range(rng.choice((0, 1, 1, 2))):
        extras = {
            "epoch": 3,
            "loss": torch.tensor(0.5),
            "optimizer": {"state": {}},
            "lr": [1e-4],
        }
        tree = {**(extras if rng.random() < 0.7 else {}), rng.choice(_HOLDERS): tree}
    return tree


def other_weights(state: dict[str, Tensor], rng: Random) -> Any:
    """Remove, rename, reshape or add entries, so that the codec is incomplete."""
    tree: Any = dict(state)
    for _ in range(rng.choice((1, 1, 3))):
        name, kind = rng.choice(list(tree)), rng.randrange(7)
        if kind == 0:
            del tree[name]
        elif kind == 1:
            tree[f"{name}_old"] = tree.pop(name)
        elif kind == 2:
            tree[name] = torch.zeros(rng.choice(((), (0,), (1,), (3, 3), (2**10,))))
        elif kind == 3:
            tree[rng.choice(("extra", "g_a.9.weight", "discriminator.0.weight", ""))] = torch.zeros(
                2
            )
        elif kind == 4:
            tree[name] = rng.choice((None, 1.0, "x", [1.0], np.zeros(3).tolist()))
        elif kind == 5:
            tree = {n: v for n, v in tree.items() if not str(n).startswith(name.partition(".")[0])}
        else:
            tree[3] = tree.pop(name)
        if not tree:
            break
    return tree


def torch_file(tree: Any, rng: Random) -> bytes:
    """Return a tree as saved by torch, in either of its formats."""
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return file.getvalue()


def spoilt_bytes(data: bytes, rng: Random) -> bytes:
    """Truncate or change bytes, most of them near the beginning."""
    spoilt = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(spoilt[: rng.randrange(len(spoilt))])
    if kind == 1:
        for _ in range(rng.randint(1, 8)):
            spoilt[rng.randrange(min(len(spoilt), 4000))] = rng.randrange(256)
    elif kind == 2:
        spoilt[:8] = rng.choice((0, 1, 8, 2**20, 2**40, 2**63)).to_bytes(8, "little")
    else:
        at = rng.randrange(len(spoilt))
        spoilt[at:at] = rng.randbytes(rng.choice((1, 100)))
    return bytes(spoilt)


def odd_metadata(ours: bytes, rng: Random) -> bytes:
    """Change the metadata that describes the codec in one of our files."""
    length = int.from_bytes(ours[:8], "little")
    head = json.loads(ours[8 : 8 + length])
    meta = head.setdefault("__metadata__", {})
    key = rng.choice(("config", "config", "extra", "imports", "format", "tcm_lab"))
    config = json.loads(meta["config"])
    config[rng.choice(list(config))] = rng.choice((None, 8, 48, "x", [], {}, -1, 1e9))
    meta[key] = rng.choice((json.dumps(config), "", "{", "[]", "null", "3", "{}", "[1]", '"x"'))
    if rng.random() < 0.2:
        del meta[key]
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + ours[8 + length :]


def fuzz(count: int, seed: int = 0) -> tuple[int, Counter[str]]:
    """Return the number of checkpoints that load, and of refusals by message, out of ``count``.

    A wrapped checkpoint must load with the same weights. Any checkpoint that loads must give a
    codec with the weights of the file. Any other exception is a defect.
    """
    rng, loaded, refused = Random(seed), 0, Counter[str]()
    codec = tcm_lab.build("tcm-small", _NARROW).eval()
    state, wanted = export_state(codec), dict(codec.named_parameters())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "weights")
        save_checkpoint(codec, path)
        ours = path.read_bytes()
        for number in range(count):
            kind = rng.choice(("same", "same", "other", "bytes", "ours", "metadata", "foreign"))
            match kind:
                case "same":
                    data = torch_file(same_weights(state, rng), rng)
                case "other":
                    data = torch_file(other_weights(state, rng), rng)
                case "bytes":
                    data = spoilt_bytes(torch_file(state, rng), rng)
                case "ours":
                    data = spoilt_bytes(ours, rng)
                case "metadata":
                    data = odd_metadata(ours, rng)
                case _:
                    data = _foreign(rng)
            path.write_bytes(data)
            try:
                with at_most(20, f"{kind} {number}"):
                    got = tcm_lab.load_checkpoint(path)
            except LabError as refusal:
                message = str(refusal)
                assert kind != "same", f"{number}: {message}"
                assert str(path) in message, f"{kind} {number} names no file: {message}"
                message = re.sub(r"[^ ]*\d[^ ]*|'[^']*'", "#", message.partition(": ")[2])
                refused[message[:60]] += 1
            except Exception as error:  # a defect: name the file
                error.add_note(f"{kind} {number}")
                raise
            else:
                loaded += 1
                if kind in ("same", "other"):
                    there = dict(got.named_parameters())
                    assert there.keys() == wanted.keys()
                    equal = all(torch.equal(there[name], wanted[name]) for name in wanted)
                    assert equal, f"{kind} {number}: other weights"
    return loaded, refused


def _foreign(rng: Random) -> bytes:
    file, kind = io.BytesIO(), rng.randrange(6)
    if kind == 0:
        torch.save(rng.choice(([1, 2], torch.zeros(3), "text", 3, None, {}, {"a": {"b": 1}})), file)
    elif kind == 1:
        np.savez(file, weights=np.zeros(3))
    elif kind == 2:
        return pickle.dumps(
            {"state_dict": rng.choice(([1], {"a": 1}, None))}, rng.choice((0, 2, 4))
        )
    elif kind == 3:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme.txt", "nothing")
    elif kind == 4:
        return save({"weight": torch.zeros(2, 3)}, rng.choice((None, {"format": "pt"})))
    else:
        return rng.choice(_FOREIGN) + rng.choice((b"", rng.randbytes(200)))
    return file.getvalue()


if __name__ == "__main__":
    loaded, refused = fuzz(int(sys.argv[1]))
    print(f"{loaded} loaded, {sum(refused.values())} refused by {len(refused)} messages:")
    for message, times in refused.most_common(40):
        print(f"{times:6d}  {message}")
