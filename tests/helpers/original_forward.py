"""InternVL's published preprocessing and forward pass in plain torch, on the original weights.

After github.com/OpenGVLab/InternVL: modeling_intern_vit.py, modeling_internvl_chat.py, modeling_internlm2.py and
``dynamic_preprocess`` of the model cards. One prompt at a time, no cache, no padding.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file


def state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder in float64."""
    out = {}
    for path in folder.glob("*.safetensors"):
        out |= {name: tensor.double() for name, tensor in load_file(path).items()}
    return out


def tiles(image: Image.Image, side: int, low: int, high: int) -> torch.Tensor:
    """(tiles, 3, side, side): closest aspect ratio, bicubic, row by row, thumbnail last."""
    width, height = image.size
    grids = [(i, j) for i in range(1, high + 1) for j in range(1, high + 1) if low <= i * j <= high]
    best, found = float("inf"), (1, 1)
    for cols, rows in sorted(grids, key=lambda g: g[0] * g[1]):
        gap = abs(width / height - cols / rows)
        if gap < best:
            best, found = gap, (cols, rows)
        elif gap == best and width * height > 0.5 * side * side * cols * rows:
            found = (cols, rows)
    cols, rows = found
    big = image.resize((side * cols, side * rows), Image.Resampling.BICUBIC)
    parts = [big.crop((c * side, r * side, (c + 1) * side, (r + 1) * side)) for r in range(rows) for c in range(cols)]
    if len(parts) > 1:
        parts.append(image.resize((side, side), Image.Resampling.BICUBIC))
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in parts]).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None]


def logits(folder: Path, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(N, vocabulary) of one prompt with its tiles, computed in float64."""
    cfg = json.loads((folder / "config.json").read_text())
    weights = state_dict(folder)
    visual = _project(cfg, weights, _vision(cfg, weights, pixels.double()))
    context = json.loads((folder / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
    text = {k.removeprefix("language_model."): v for k, v in weights.items() if k.startswith("language_model.")}
    internlm2 = cfg["llm_config"]["architectures"][0] == "InternLM2ForCausalLM"
    hidden = text["model.tok_embeddings.weight" if internlm2 else "model.embed_tokens.weight"][ids].clone()
    hidden[ids == context] = visual.reshape(-1, hidden.shape[-1])
    hidden = _decoder(cfg["llm_config"], text, hidden, internlm2)
    head = "output.weight" if internlm2 else "lm_head.weight"
    return hidden @ text[head if head in text else "model.embed_tokens.weight"].T


def _rms(x, weight, eps):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _vision(cfg, weights, pixels):
    vit = cfg["vision_config"]
    d, heads, eps = vit["hidden_size"], vit["num_attention_heads"], vit["layer_norm_eps"]
    w = {k.removeprefix("vision_model."): v for k, v in weights.items() if k.startswith("vision_model.")}
    patches = F.conv2d(pixels, w["embeddings.patch_embedding.weight"], w["embeddings.patch_embedding.bias"],
                       stride=vit["patch_size"]).flatten(2).transpose(1, 2)  # fmt: skip
    x = torch.cat([w["embeddings.class_embedding"].expand(len(pixels), 1, -1), patches], 1)
    x = x + w["embeddings.position_embedding"]
    states = [x]

    def norm(x, name):
        if vit["norm_type"] == "rms_norm":
            return _rms(x, w[f"{name}.weight"], eps)
        return F.layer_norm(x, (d,), w[f"{name}.weight"], w[f"{name}.bias"], eps)

    for i in range(vit["num_hidden_layers"]):
        p = f"encoder.layers.{i}"
        qkv = F.linear(norm(x, f"{p}.norm1"), w[f"{p}.attn.qkv.weight"], w.get(f"{p}.attn.qkv.bias"))
        q, k, v = qkv.reshape(*x.shape[:2], 3, d).unbind(2)
        if vit["qk_normalization"]:
            q, k = _rms(q, w[f"{p}.attn.q_norm.weight"], eps), _rms(k, w[f"{p}.attn.k_norm.weight"], eps)
        q, k, v = (t.reshape(*x.shape[:2], heads, d // heads).transpose(1, 2) for t in (q, k, v))
        mixed = ((q * (d // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(x.shape)
        x = x + F.linear(mixed, w[f"{p}.attn.proj.weight"], w[f"{p}.attn.proj.bias"]) * w[f"{p}.ls1"]
        inner = F.gelu(F.linear(norm(x, f"{p}.norm2"), w[f"{p}.mlp.fc1.weight"], w[f"{p}.mlp.fc1.bias"]))
        x = x + F.linear(inner, w[f"{p}.mlp.fc2.weight"], w[f"{p}.mlp.fc2.bias"]) * w[f"{p}.ls2"]
        states.append(x)
    return states[cfg["select_layer"]]


def _project(cfg, weights, x):
    """Pixel shuffle, version 2, and ``mlp1``."""
    scale, side = cfg["downsample_ratio"], math.isqrt(x.shape[1] - 1)
    x = x[:, 1:].reshape(len(x), side, side, -1)
    n, w, h, c = x.shape
    x = x.view(n, w, int(h * scale), int(c / scale)).permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(h * scale), int(w * scale), int(c / scale**2)).permute(0, 2, 1, 3).contiguous()
    x = x.reshape(n, -1, x.shape[-1])
    x = F.layer_norm(x, x.shape[-1:], weights["mlp1.0.weight"], weights["mlp1.0.bias"])
    x = F.gelu(F.linear(x, weights["mlp1.1.weight"], weights["mlp1.1.bias"]))
    return F.linear(x, weights["mlp1.3.weight"], weights["mlp1.3.bias"])


def _rotary(llm, dim, length):
    """cos, sin (length, dim); dynamic NTK scaling beyond the trained length."""
    base, limit, scaling = float(llm["rope_theta"]), llm["max_position_embeddings"], llm.get("rope_scaling") or {}
    if scaling.get("type") == "dynamic" and length > limit:
        base *= ((scaling["factor"] * length / limit) - (scaling["factor"] - 1)) ** (dim / (dim - 2))
    t = torch.arange(length).double()
    if scaling.get("type") == "linear":
        t = t / scaling["factor"]
    angles = torch.outer(t, 1.0 / base ** (torch.arange(0, dim, 2).double() / dim))
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def _rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def _decoder(llm, w, x, internlm2):
    heads, kv, eps = llm["num_attention_heads"], llm["num_key_value_heads"], llm["rms_norm_eps"]
    dim, n, groups = llm.get("head_dim") or llm["hidden_size"] // heads, len(x), heads // kv
    cos, sin = _rotary(llm, dim, n)
    later = torch.full((n, n), float("-inf")).triu(1)
    for i in range(llm["num_hidden_layers"]):
        p = f"model.layers.{i}"
        first, second = ("attention_norm", "ffn_norm") if internlm2 else ("input_layernorm", "post_attention_layernorm")
        y = _rms(x, w[f"{p}.{first}.weight"], eps)
        if internlm2:  # (h gs d): of each key head its queries, its key, its value
            qkv = F.linear(y, w[f"{p}.attention.wqkv.weight"], w.get(f"{p}.attention.wqkv.bias"))
            qkv = qkv.view(n, kv, groups + 2, dim)
            q, k, v = qkv[:, :, :groups].reshape(n, heads, dim), qkv[:, :, -2], qkv[:, :, -1]
        else:
            q, k, v = (F.linear(y, w[f"{p}.self_attn.{c}_proj.weight"], w.get(f"{p}.self_attn.{c}_proj.bias"))
                       .view(n, -1, dim) for c in "qkv")  # fmt: skip
            if f"{p}.self_attn.q_norm.weight" in w:
                q = _rms(q, w[f"{p}.self_attn.q_norm.weight"], eps)
                k = _rms(k, w[f"{p}.self_attn.k_norm.weight"], eps)
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        mixed = ((q @ k.transpose(1, 2)) / math.sqrt(dim) + later).softmax(-1) @ v
        out = "attention.wo" if internlm2 else "self_attn.o_proj"
        x = x + F.linear(mixed.transpose(0, 1).reshape(n, -1), w[f"{p}.{out}.weight"], w.get(f"{p}.{out}.bias"))
        y = _rms(x, w[f"{p}.{second}.weight"], eps)
        gate, up, down = ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2") if internlm2 else (
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
        x = x + (F.silu(y @ w[f"{p}.{gate}.weight"].T) * (y @ w[f"{p}.{up}.weight"].T)) @ w[f"{p}.{down}.weight"].T
    return _rms(x, w["model.norm.weight"], eps)
