"""Read a folder that gptq-quantize wrote as other programs read it.

usage: read.py QUANTIZED DENSE ORIGINAL GPTQ_RUN

QUANTIZED is opened with safetensors through its index (or single file), every
quantized linear is dequantized here, by the formulas of the format alone, and
compared bit for bit with DENSE, the same folder decoded by gptq-repack.  All
other tensors must equal ORIGINAL's.  The tokenizer must load and agree with
gptq-run --tokenize.
"""
import json
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer


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


def main():
    quantized, dense, original, gptq_run = sys.argv[1:]
    config = json.load(open(os.path.join(quantized, "config.json")))
    q = config["quantization_config"]
    assert q == json.load(open(os.path.join(quantized, "quantize_config.json")))
    assert q["quant_method"] == "gptq" and q["bits"] in (2, 3, 4, 8)
    plus_one = {"gptq": 1, "gptq_v2": 0}[q["checkpoint_format"]]
    t, d, o = load(quantized), load(dense), load(original)
    modules = sorted(n[: -len(".qweight")] for n in t if n.endswith(".qweight"))
    assert len(modules) == 7 * config["num_hidden_layers"], len(modules)
    for m in modules:
        w = dequantize(t, m, q["bits"], plus_one)
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
