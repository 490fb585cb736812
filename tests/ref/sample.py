#!/usr/bin/env python3
"""Expected tokens of tests/unit/test_sample.c.

A second sampler, by sorting the whole vocabulary: SplitMix64 seeds
xoshiro256**, one number per draw.  The logits come from the same linear
congruence as in the test.  Prints one line of tokens per case.
"""
from math import exp

M = (1 << 64) - 1
VOCAB = 97


def splitmix(seed):
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & M
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        yield z ^ (z >> 31)


def rotl(x, k):
    return ((x << k) | (x >> (64 - k))) & M


def uniform(seed):
    mix = splitmix(seed)
    a, b, c, d = (next(mix) for _ in range(4))
    while True:
        r = (rotl((b * 5) & M, 7) * 9) & M
        t = (b << 17) & M
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= t
        d = rotl(d, 45)
        yield (r >> 11) / (1 << 53)


def logits():
    """Multiples of 1/16 in [-4, 4), exact in any float."""
    x = 12345
    while True:
        row = []
        for _ in range(VOCAB):
            x = (x * 1103515245 + 12345) % (1 << 31)
            row.append((x >> 16) % 128 / 16 - 4)
        yield row


def run(n, seed, temp, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0):
    draw, rows, out = uniform(seed), logits(), []
    for _ in range(n):
        row = next(rows)
        for i in set(out[-64:]):
            row[i] = row[i] / penalty if row[i] > 0 else row[i] * penalty
        order = sorted(range(VOCAB), key=lambda i: (-row[i], i))
        best = row[order[0]]
        if temp == 0:
            out.append(order[0])
            continue
        order = order[:top_k or VOCAB]
        weight = [exp(row[i] / temp - best / temp) for i in order]
        total, kept, n_kept = sum(weight), 0.0, 0
        while n_kept < len(order) and (top_p >= 1 or kept < top_p * total):
            if weight[n_kept] < min_p:
                break
            kept += weight[n_kept]
            n_kept += 1
        target, acc = next(draw) * kept, 0.0
        for i, w in zip(order[:n_kept], weight):
            acc += w
            if acc > target:
                break
        out.append(i)
    return out


if __name__ == "__main__":
    for args in (dict(seed=0, temp=0), dict(seed=0, temp=1),
                 dict(seed=7, temp=0.7, top_k=5),
                 dict(seed=7, temp=1.5, top_p=0.8),
                 dict(seed=7, temp=1.5, min_p=0.1),
                 dict(seed=1 << 60, temp=1.2, top_k=40, top_p=0.9,
                      min_p=0.05, penalty=1.3),
                 dict(seed=0, temp=0, penalty=4)):
        print(args)
        print("{ %s }," % ", ".join(str(i) for i in run(100, **args)))
    print("first number of xoshiro256** with seed 0: %.17g"
          % next(uniform(0)))
