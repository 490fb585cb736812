"""Read a folder that gptq-quantize wrote as other programs read it.

usage: read.py QUANTIZED DENSE ORIGINAL GPTQ_RUN

QUANTIZED is opened with safetensors through its index (or single file), every
quantized linear is dequantized here, by the formulas of the format alone, and
compared bit for bit with DENSE, the same folder decoded by gptq-repack.  All
other tensors must equal ORIGINAL's.  transformers must read the config.  The
tokenizer must load and agree with gptq-run --tokenize.
"""
import json
import os
import re
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig
from transformers.utils.quantization_config import GPTQConfig

FUSED = {"self_attn.qkv_proj": ["self_attn.q_proj", "self_attn.k_proj",
                                "self_attn.v_proj"],
         "mlp.gate_up_proj": ["mlp.gate_proj", "mlp.up_proj"]}


def load(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return load_file(os.path.join(folder, "model.safetensors"))
    names = json.load(open(index))["weight_map"]
    out = {}
    for shard in sorted(set(names.values())):
        part = load_file(os.path.join(folder, shard))
        for name in part:
            assert names[name] == shard, (name, names[name], shard)
        out.update(part)
    assert set(out) == set(names)
    return out


def fields(words, bits, count):
    """Fields of little-endian streams that run along the last axis."""
    raw = np.ascontiguousarray(words.view(np.uint32))
    stream = np.unpackbits(raw.view(np.uint8), axis=-1, bitorder="little")
    used = stream[..., : count * bits].reshape(*words.shape[:-1], count, bits)
    return (used.astype(np.int64) << np.arange(bits)).sum(-1)


def dequantize(t, module, bits, plus_one):
    scales = t[module + ".scales"].astype(np.float32)
    g_idx = t[module + ".g_idx"]
    rows, outs = g_idx.shape[0], scales.shape[1]
    codes = fields(t[module + ".qweight"].T, bits, rows)
    zeros = fields(t[module + ".qzeros"], bits, outs) + plus_one
    diff = (codes.T - zeros[g_idx]).astype(np.float32)
    return (scales[g_idx] * diff).T


def marlin_order():
    """Where the 1024 codes of 4 tiles of 16 x 16 stand (IST-DASLab/marlin,
    2024: what the threads of an mma fragment hold, 0 2 4 6 1 3 5 7)."""
    order = []
    for thread in range(32):
        one = [16 * row + thread // 4 + 8 * half
               for half in range(2)
               for row in (2 * (thread % 4), 2 * (thread % 4) + 1,
                           2 * (thread % 4 + 4), 2 * (thread % 4 + 4) + 1)]
        for tile in range(4):
            order += [p + 256 * tile for p in one]
    return np.array(order).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()


def dequantize_marlin(t, module):
    words, scales = t[module + ".B"], t[module + ".s"].astype(np.float32)
    rows, outs = words.shape[0] * 16, scales.shape[1]
    fields_ = fields(words, 4, outs * 16).reshape(-1, 1024)
    codes = np.empty_like(fields_)
    codes[:, marlin_order()] = fields_
    codes = codes.reshape(rows // 16, outs // 16, 16, 16)
    codes = codes.transpose(0, 2, 1, 3).reshape(rows, outs)
    if scales.shape[0] > 1:
        order = [i + 8 * j for i in range(8) for j in range(8)]
    else:
        order = [2 * i + j for i in range(4)
                 for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    plain = np.empty_like(scales).reshape(-1, len(order))
    plain[:, order] = scales.reshape(-1, len(order))
    plain = plain.reshape(scales.shape)
    group = rows // scales.shape[0]
    return (np.repeat(plain, group, 0) * (codes - 8).astype(np.float32)).T


def override(q, module):
    """The settings of a module as vLLM and GPTQModel look them up; None: it
    stays dense."""
    out = {k: q[k] for k in ("bits", "group_size", "desc_act", "sym")}
    for pattern, values in q.get("dynamic", {}).items():
        if pattern.startswith("-:"):
            if re.match(pattern[2:], module):
                return None
        elif re.match(pattern.removeprefix("+:"), module):
            return {**out, **values}
    return out


def check_dynamic(q, t, module):
    """The config says of a module what its tensors are."""
    s = override(q, module)
    assert (s is not None) == (module + ".qweight" in t), module
    if s is None:
        return
    g_idx = t[module + ".g_idx"]
    assert t[module + ".qweight"].shape[0] == g_idx.size * s["bits"] // 32
    size = g_idx.size if s["group_size"] == -1 else s["group_size"]
    assert t[module + ".scales"].shape[0] == -(-g_idx.size // size), module
    trivial = np.array_equal(g_idx, np.arange(g_idx.size) // size)
    assert s["desc_act"] or trivial, module


def check_config(folder, q, layers, t):
    c = AutoConfig.from_pretrained(folder).quantization_config
    c = GPTQConfig.from_dict(dict(c)).to_dict()
    for key in ("bits", "group_size", "desc_act", "sym", "checkpoint_format"):
        assert c[key] == q[key], key
    if q["checkpoint_format"] == "marlin":
        return
    for layer in range(layers):
        for fused, parts in FUSED.items():
            names = ["model.layers.%d.%s" % (layer, p)
                     for p in [fused] + parts]
            for n in names[1:]:
                check_dynamic(q, t, n)
                assert override(q, n) == override(q, names[0]), names[0]
        for p in ("self_attn.o_proj", "mlp.down_proj"):
            check_dynamic(q, t, "model.layers.%d.%s" % (layer, p))


def main():
    quantized, dense, original, gptq_run = sys.argv[1:]
    config = json.load(open(os.path.join(quantized, "config.json")))
    q = config["quantization_config"]
    assert q == json.load(open(os.path.join(quantized, "quantize_config.json")))
    assert q["quant_method"] == "gptq" and q["bits"] in (2, 3, 4, 8)
    marlin = q["checkpoint_format"] == "marlin"
    plus_one = {"gptq": 1}.get(q["checkpoint_format"], 0)
    t, d, o = load(quantized), load(dense), load(original)
    check_config(quantized, q, config["num_hidden_layers"], t)
    modules = sorted(n.rsplit(".", 1)[0] for n in t
                     if n.endswith((".qweight", ".B")))
    assert modules and ("lm_head" in modules) == q["lm_head"]
    for m in modules:
        w = dequantize_marlin(t, m) if marlin else \
            dequantize(t, m, override(q, m)["bits"], plus_one)
        got = d[m + ".weight"]
        assert got.dtype == np.float32 and got.shape == w.shape
        assert np.array_equal(got, w), m
        rel = np.linalg.norm(w - o[m + ".weight"]) / np.linalg.norm(w)
        assert rel < 1.0, (m, rel)
    for name in t:
        if name.rsplit(".", 1)[0] not in modules:
            assert np.array_equal(t[name], o[name]), name
    tok = Tokenizer.from_file(os.path.join(quantized, "tokenizer.json"))
    text = "The quick brown fox, 1234 \u00e9\u4e2d\n  jumps."
    ids = subprocess.run(
        [gptq_run, quantized, "--tokenize"], input=text.encode(),
        stdout=subprocess.PIPE, check=True).stdout.split()
    assert [int(i) for i in ids] == tok.encode(text).ids


main()
