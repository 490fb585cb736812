#!/usr/bin/env python3
"""Expected numbers of tests/unit/test_rope.c.

The frequencies of the rotary embedding under every scaling rule, worked out
in double precision from the formulas of transformers' modeling_rope_utils,
by plain Python and apart from the C code.  Prints C initialisers:
frequencies at a few indices, the factor on cosines and sines, and with it the
cosine and sine of position 1000 at the index in the middle.
"""
from math import ceil, cos, floor, log, pi, sin


def plain(d, theta, **_):
    return [1.0 / theta ** (k / d) for k in range(0, d, 2)], 1.0


def linear(d, theta, factor, **_):
    return [f / factor for f in plain(d, theta)[0]], 1.0


def dynamic(d, theta, factor, max_pos, length, **_):
    length = max(length, max_pos)
    stretch = (factor * length / max_pos) - (factor - 1)
    return plain(d, theta * stretch ** (d / (d - 2)))[0], 1.0


def llama3(d, theta, factor, low, high, orig, **_):
    out = []
    for f in plain(d, theta)[0]:
        wavelen = 2 * pi / f
        if wavelen < orig / high:
            out.append(f)
        elif wavelen > orig / low:
            out.append(f / factor)
        else:
            smooth = (orig / wavelen - low) / (high - low)
            out.append((1 - smooth) * f / factor + smooth * f)
    return out, 1.0


def yarn(d, theta, factor, orig, fast=32, slow=1, truncate=True, att=None,
         mscale=None, mscale_all=None, **_):
    def index(turns):
        return d * log(orig / (turns * 2 * pi)) / (2 * log(theta))

    def scale(m=1):
        return 0.1 * m * log(factor) + 1 if factor > 1 else 1.0

    lo, hi = index(fast), index(slow)
    if truncate:
        lo, hi = floor(lo), ceil(hi)
    lo, hi = max(lo, 0), min(hi, d - 1)
    if lo == hi:
        hi += 0.001
    out = []
    for i, f in enumerate(plain(d, theta)[0]):
        ramp = min(max((i - lo) / (hi - lo), 0), 1)
        keep = 1 - ramp
        out.append(f / factor * (1 - keep) + f * keep)
    if att is None:
        if mscale and mscale_all:
            att = scale(mscale) / scale(mscale_all)
        else:
            att = scale()
    return out, att


CASES = [
    ("plain", plain, dict(d=128, theta=10000.0)),
    ("plain, head of 80", plain, dict(d=80, theta=1e6)),
    ("linear", linear, dict(d=128, theta=10000.0, factor=4.0)),
    ("dynamic, short", dynamic, dict(d=128, theta=10000.0, factor=2.0,
                                     max_pos=2048, length=2048)),
    ("dynamic, long", dynamic, dict(d=128, theta=10000.0, factor=2.0,
                                    max_pos=2048, length=6000)),
    ("llama3", llama3, dict(d=128, theta=500000.0, factor=8.0, low=1.0,
                            high=4.0, orig=8192)),
    ("llama3 of the 1B", llama3, dict(d=64, theta=500000.0, factor=32.0,
                                      low=1.0, high=4.0, orig=8192)),
    ("yarn", yarn, dict(d=128, theta=1e6, factor=4.0, orig=32768)),
    ("yarn, exact ramp", yarn, dict(d=64, theta=150000.0, factor=32.0,
                                    orig=4096, truncate=False)),
    ("yarn, given factor", yarn, dict(d=128, theta=10000.0, factor=16.0,
                                      orig=4096, att=1.25, fast=24,
                                      slow=2)),
    ("yarn, two mscales", yarn, dict(d=64, theta=10000.0, factor=40.0,
                                     orig=4096, mscale=1.0,
                                     mscale_all=0.707)),
    ("yarn, no width", yarn, dict(d=8, theta=10.0, factor=2.0, orig=16,
                                  fast=10, slow=2.8)),
]

if __name__ == "__main__":
    for name, rule, args in CASES:
        freq, att = rule(**args)
        n = len(freq)
        at = [0, n // 4, n * 2 // 5, n // 2, n * 3 // 5, n * 3 // 4, n - 1]
        print("/* %s */" % name)
        print("{ %s }," % ", ".join("%.17g" % freq[i] for i in at))
        print("%.17g, %.9f, %.9f" % (att, cos(1000 * freq[n // 2]) * att,
                                     sin(1000 * freq[n // 2]) * att))
