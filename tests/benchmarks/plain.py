"""A plain implementation of the same codec, as a baseline for speed.

Same modules, same weights, same results, written in the straightforward way: channels-first memory,
windows cut by reshaping, relative index and shift mask rebuilt in every forward pass, attention as
separate products, likelihoods slice by slice, distributions looked up by a scan of the scale table,
and symbols collected in Python lists.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from tcm_lab.blocks import WindowAttention
from tcm_lab.blocks.swin import SwinLayer
from tcm_lab.blocks.tcm import TcmBlock
from tcm_lab.codec import Codec, Coder  # before CompressAI, which it makes importable

from compressai.ans import BufferedRansEncoder, RansDecoder  # isort: skip


class PlainWindowAttention(nn.Module):
    """`WindowAttention` on whole windows, step by step."""

    def __init__(self, ours: WindowAttention) -> None:
        super().__init__()
        self.heads, self.window_size, self.shift = ours.heads, ours.window_size, ours.shift
        self.qkv, self.proj = ours.qkv, ours.proj
        self.table = ours.relative_position_bias

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, c = x.shape
        w = self.window_size
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        rows, columns = height // w, width // w
        windows = x.reshape(b, rows, w, columns, w, c).transpose(2, 3).reshape(b, -1, w * w, c)
        q, k, v = (
            self.qkv(windows)
            .reshape(b, -1, w * w, 3, self.heads, c // self.heads)
            .permute(3, 4, 0, 1, 2, 5)
        )
        scores = torch.einsum("hbnqd,hbnkd->hbnqk", q, k) * (c // self.heads) ** -0.5
        scores = scores + self._bias()[:, None, None]
        if self.shift:
            mask = self._mask(rows, columns, x.device)
            scores = scores.masked_fill(mask, float("-inf"))
        out = torch.einsum("hbnqk,hbnkd->hbnqd", scores.softmax(-1), v)
        out = self.proj(out.permute(1, 2, 3, 0, 4).reshape(b, -1, w * w, c))
        out = out.reshape(b, rows, columns, w, w, c).transpose(2, 3).reshape(b, height, width, c)
        return torch.roll(out, (self.shift, self.shift), (1, 2)) if self.shift else out

    def _bias(self) -> Tensor:
        axis = torch.arange(self.window_size, device=self.table.device)
        places = torch.cartesian_prod(axis, axis)
        offset = places[:, None] - places[None, :] + self.window_size - 1
        return self.table[:, offset[..., 0], offset[..., 1]]

    def _mask(self, rows: int, columns: int, device: torch.device) -> Tensor:
        w, s = self.window_size, self.window_size - self.shift
        mask = torch.zeros(rows, columns, w, w, w, w, dtype=torch.bool, device=device)
        mask[-1, :, :s, :, s:, :] = True
        mask[-1, :, s:, :, :s, :] = True
        mask[:, -1, :, :s, :, s:] = True
        mask[:, -1, :, s:, :, :s] = True
        return mask.reshape(rows * columns, w * w, w * w)


class PlainSwinLayer(nn.Module):
    """`SwinLayer` on whole maps, one addition at a time."""

    def __init__(self, ours: SwinLayer) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = ours.norm1, ours.norm2, ours.mlp
        self.attention = PlainWindowAttention(ours.attention)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


class PlainTcmBlock(nn.Module):
    """`TcmBlock` with both branches; every addition allocates a new map."""

    def __init__(self, ours: TcmBlock) -> None:
        super().__init__()
        assert ours.conv is not None
        assert ours.swin is not None
        self.widths, self.mix_in, self.mix_out = ours.widths, ours.mix_in, ours.mix_out
        self.residual, self.swin = ours.conv.block, PlainSwinLayer(ours.swin)

    def forward(self, x: Tensor) -> Tensor:
        local, distant = self.mix_in(x).split(self.widths, 1)
        local = self.residual(local) + local
        return x + self.mix_out(torch.cat((local, self.swin(distant)), 1))


PLAIN = {TcmBlock: PlainTcmBlock, SwinLayer: PlainSwinLayer}


class PlainCodec(nn.Module):
    """The codec in the style of published code, without rate levels, checkerboard or padding."""

    def __init__(self, ours: Codec) -> None:
        super().__init__()
        codec = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
        for module in list(codec.modules()):
            for name, child in module.named_children():
                if type(child) in PLAIN:
                    setattr(module, name, PLAIN[type(child)](child))
        codec.update(force=True)
        self.codec = codec

    def forward(self, x: Tensor) -> dict[str, Any]:
        codec = self.codec
        y = codec.g_a(x)
        z = codec.h_a(y)
        _, z_likelihoods = codec.entropy_bottleneck(z)
        features = codec.h_s(self._rounded_z(z))
        decoded: list[Tensor] = []
        likelihoods: list[Tensor] = []
        for y_slice, networks in zip(y.split(codec.slice_widths, 1), codec.slices, strict=True):

            def code(places: Any, mean: Tensor, scale: Tensor, y: Tensor = y_slice) -> Tensor:
                likelihoods.append(codec.gaussian_conditional(y, scale, mean)[1])
                offset = y - mean
                return offset + (offset.round() - offset).detach() + mean

            decoded.append(networks(features, decoded, Coder(code)))
        x_hat = codec.g_s(torch.cat(decoded, 1))
        return {"x_hat": x_hat, "likelihoods": {"y": torch.cat(likelihoods, 1), "z": z_likelihoods}}

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, object]:
        codec, conditional = self.codec, self.codec.gaussian_conditional
        y = codec.g_a(x)
        z = codec.h_a(y)
        z_strings = codec.entropy_bottleneck.compress(z)
        features = codec.h_s(codec.entropy_bottleneck.decompress(z_strings, z.shape[-2:]))
        symbols: list[int] = []
        indexes: list[int] = []
        decoded: list[Tensor] = []
        for y_slice, networks in zip(y.split(codec.slice_widths, 1), codec.slices, strict=True):

            def code(places: Any, mean: Tensor, scale: Tensor, y: Tensor = y_slice) -> Tensor:
                index = conditional.build_indexes(scale)
                quantised = conditional.quantize(y, "symbols", mean)
                symbols.extend(quantised.reshape(-1).tolist())
                indexes.extend(index.reshape(-1).tolist())
                return quantised + mean

            decoded.append(networks(features, decoded, Coder(code)))
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(symbols, indexes, *self._tables())
        return {"strings": [[encoder.flush()], z_strings], "shape": z.shape[-2:]}

    @torch.no_grad()
    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
        codec, conditional = self.codec, self.codec.gaussian_conditional
        features = codec.h_s(codec.entropy_bottleneck.decompress(strings[1], shape))
        decoder = RansDecoder()
        decoder.set_stream(strings[0][0])
        tables = self._tables()

        def code(places: Any, mean: Tensor, scale: Tensor) -> Tensor:
            index = conditional.build_indexes(scale)
            values = decoder.decode_stream(index.reshape(-1).tolist(), *tables)
            found = torch.tensor(values, dtype=torch.float32, device=mean.device)
            return found.reshape(mean.shape) + mean

        decoded: list[Tensor] = []
        for networks in codec.slices:
            decoded.append(networks(features, decoded, Coder(code)))
        return codec.g_s(torch.cat(decoded, 1)).clamp(0, 1)

    def _rounded_z(self, z: Tensor) -> Tensor:
        medians = self.codec.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1).detach()
        offset = z - medians
        return offset + (offset.round() - offset).detach() + medians

    def _tables(self) -> tuple[object, object, object]:
        conditional = self.codec.gaussian_conditional
        return (
            conditional.quantized_cdf.tolist(),
            conditional.cdf_length.reshape(-1).int().tolist(),
            conditional.offset.reshape(-1).int().tolist(),
        )


class PlainTraining:
    """A training step in the style of published code: two backward passes, two optimisers."""

    def __init__(self, ours: Codec, weight: float) -> None:
        self.model = PlainCodec(ours).train()
        self.weight = weight
        named = list(self.model.codec.named_parameters())
        self.main = [p for name, p in named if not name.endswith("quantiles")]
        self.optimizer = torch.optim.Adam(self.main, lr=1e-4)
        aux = [p for name, p in named if name.endswith("quantiles")]
        self.aux_optimizer = torch.optim.Adam(aux, lr=1e-3)

    def step(self, x: Tensor) -> float:
        self.optimizer.zero_grad()
        self.aux_optimizer.zero_grad()
        out = self.model(x)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        bpp = sum(
            torch.log(part).sum() / (-math.log(2) * pixels) for part in out["likelihoods"].values()
        )
        loss = self.weight * 255**2 * nn.functional.mse_loss(out["x_hat"], x) + bpp
        loss.backward()
        nn.utils.clip_grad_norm_(self.main, 1.0)
        self.optimizer.step()
        aux_loss = self.model.codec.aux_loss()
        aux_loss.backward()
        self.aux_optimizer.step()
        return loss.item()
