#!/usr/bin/env python3
"""Expected logits of tests/unit/test_llm_shapes.c.

A Llama in plain Python and double precision, written from the formulas and
apart from the C code.  Weights are not stored anywhere: each tensor is a
linear congruence seeded by the FNV-1a hash of its name, in multiples of
1/256 that every float type holds exactly.  Prints, for each model, the logits
at the places that the test looks at.
"""
from math import cos, exp, sin, sqrt

import rope

TOKENS = 12


def tensor(name, n, shift=0.0):
    x = 2166136261
    for c in name.encode():
        x = (x ^ c) * 16777619 % (1 << 32)
    out = []
    for _ in range(n):
        x = (x * 1664525 + 1013904223) % (1 << 32)
        out.append(((x >> 16) % 128 - 64) / 256 + shift)
    return out


def matrix(name, rows, cols):
    flat = tensor(name, rows * cols)
    return [flat[r * cols:(r + 1) * cols] for r in range(rows)]


def linear(module, x, out, bias):
    w = matrix(module + ".weight", out, len(x[0]))
    b = tensor(module + ".bias", out) if bias else [0.0] * out
    return [[sum(p * q for p, q in zip(row, wr)) + c
             for wr, c in zip(w, b)] for row in x]


def rmsnorm(name, x, eps):
    w = tensor(name, len(x[0]), 1.0)
    return [[v * g / sqrt(sum(u * u for u in row) / len(row) + eps)
             for v, g in zip(row, w)] for row in x]


def heads_of(x, n):
    """[token][n * d] to [token][n][d]."""
    d = len(x[0]) // n
    return [[row[h * d:(h + 1) * d] for h in range(n)] for row in x]


def turn(vec, pos, freq, factor):
    half = len(vec) // 2
    out = [0.0] * len(vec)
    for i in range(half):
        c, s = cos(pos * freq[i]) * factor, sin(pos * freq[i]) * factor
        out[i] = vec[i] * c - vec[i + half] * s
        out[i + half] = vec[i + half] * c + vec[i] * s
    return out


def attention(m, name, x):
    n = len(x)
    q = heads_of(linear(name + "q_proj", x, m["heads"] * m["dim"], m["qkv"]),
                 m["heads"])
    k = heads_of(linear(name + "k_proj", x, m["kv"] * m["dim"], m["qkv"]),
                 m["kv"])
    v = heads_of(linear(name + "v_proj", x, m["kv"] * m["dim"], m["qkv"]),
                 m["kv"])
    if m["qk_norm"]:
        q = [rmsnorm(name + "q_norm.weight", t, m["eps"]) for t in q]
        k = [rmsnorm(name + "k_norm.weight", t, m["eps"]) for t in k]
    freq, factor = m["rope"]
    q = [[turn(h, t, freq, factor) for h in q[t]] for t in range(n)]
    k = [[turn(h, t, freq, factor) for h in k[t]] for t in range(n)]
    out = []
    for t in range(n):
        row = []
        for h in range(m["heads"]):
            g = h * m["kv"] // m["heads"]
            s = [sum(a * b for a, b in zip(q[t][h], k[j][g])) /
                 sqrt(m["dim"]) for j in range(t + 1)]
            top = max(s)
            w = [exp(a - top) for a in s]
            row += [sum(w[j] * v[j][g][i] for j in range(t + 1)) / sum(w)
                    for i in range(m["dim"])]
        out.append(row)
    return linear(name + "o_proj", out, m["hidden"], m["o"])


def mlp(m, name, x):
    gate = linear(name + "gate_proj", x, m["inter"], m["mlp"])
    up = linear(name + "up_proj", x, m["inter"], m["mlp"])
    y = [[g / (1 + exp(-g)) * u for g, u in zip(a, b)]
         for a, b in zip(gate, up)]
    return linear(name + "down_proj", y, m["hidden"], m["mlp"])


def add(x, y):
    return [[a + b for a, b in zip(r, s)] for r, s in zip(x, y)]


def forward(m):
    ids = [(i * i * 7 + 3) % m["vocab"] for i in range(TOKENS)]
    embed = matrix("model.embed_tokens.weight", m["vocab"], m["hidden"])
    x = [embed[i] for i in ids]
    for layer in range(m["layers"]):
        p = "model.layers.%d." % layer
        x = add(x, attention(m, p + "self_attn.", rmsnorm(
            p + "input_layernorm.weight", x, m["eps"])))
        x = add(x, mlp(m, p + "mlp.", rmsnorm(
            p + "post_attention_layernorm.weight", x, m["eps"])))
    x = rmsnorm("model.norm.weight", x, m["eps"])
    if m["tied"]:
        return [[sum(a * b for a, b in zip(r, e)) for e in embed] for r in x]
    return linear("lm_head", x, m["vocab"], False)


def model(name, hidden, inter, heads, kv, dim, vocab, rule, qkv=False,
          o=False, mlp=False, qk_norm=False, tied=False):
    return dict(name=name, hidden=hidden, inter=inter, heads=heads, kv=kv,
                dim=dim, vocab=vocab, rope=rule, qkv=qkv, o=o, mlp=mlp,
                qk_norm=qk_norm, tied=tied, layers=2, eps=1e-5)


MODELS = [
    model("llama", 48, 56, 6, 2, 8, 61,
          rope.llama3(d=8, theta=500.0, factor=8.0, low=1.0, high=4.0,
                      orig=32), qkv=True, o=True, mlp=True),
    model("mistral", 32, 72, 2, 1, 80, 53, rope.linear(
        d=80, theta=10000.0, factor=2.0)),
    model("qwen2", 40, 52, 4, 1, 10, 67,
          rope.yarn(d=10, theta=10000.0, factor=4.0, orig=16), qkv=True,
          tied=True),
    model("qwen3", 36, 44, 3, 3, 20, 59, rope.plain(d=20, theta=1e6),
          qk_norm=True),
    model("dynamic", 48, 40, 4, 4, 12, 51,
          rope.dynamic(d=12, theta=10000.0, factor=2.0, max_pos=8,
                       length=12)),
]

if __name__ == "__main__":
    for m in MODELS:
        logits = forward(m)
        last = m["vocab"] - 1
        at = [(0, 0), (0, last), (1, 7), (5, 0), (5, 31), (11, 0), (11, 13),
              (11, last)]
        print("%s: { %s }," % (m["name"], ", ".join(
            "%.9f" % logits[t][v] for t, v in at)))
