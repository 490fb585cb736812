#!/usr/bin/env python3
"""Write runtime/tok_nfc_data.c (canonical decompositions into two characters)
and runtime/tok_nfc_data2.c (those into one, and combining classes).

Run from the repository root with Python 3.6, whose tables are those of Unicode
9.0, as in the normalizer of the tokenizers library.
Source of the data: the Unicode Character Database (unicode.org/Public/9.0.0).
"""
import unicodedata as new

assert new.unidata_version == "9.0.0"
HEAD = "/* Written by tests/ref/nfc_tables.py; do not edit. */\n"


def table(f, kind, name, rows, item):
    f.write(f"const {kind} {name}[] = {{\n")
    line = "\t"
    for row in rows:
        text = item(row) + ", "
        if len(line) + 7 + len(text) > 80:
            f.write(line.rstrip() + "\n")
            line = "\t"
        line += text
    f.write(line.rstrip() + "\n};\n")
    f.write(f"const size_t {name}_n = {len(rows)};\n\n")


def decomposition(c):
    d = new.decomposition(chr(c))
    return [int(x, 16) for x in d.split()] if d and d[0] != "<" else []


def write_nfc():
    pairs, single, classes = [], [], []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or 0xAC00 <= c < 0xD7A4:
            continue
        d = decomposition(c)
        if len(d) == 2:
            keep = new.normalize("NFC", chr(c)) == chr(c)
            pairs.append((c, d[0] | (0 if keep else 1 << 31), d[1]))
        elif len(d) == 1:
            single.append((c, d[0]))
        k = new.combining(chr(c))
        if not k:
            continue
        if classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
            classes[-1][1] = c
        else:
            classes.append([c, c, k])
    order = sorted((a, b, i) for i, (c, a, b) in enumerate(pairs)
                   if not a >> 31)
    runs = []
    for i, (c, d) in enumerate(single):
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c, i])
    with open("runtime/tok_nfc_data.c", "w") as f:
        f.write(HEAD + '#include "tok_impl.h"\n\n')
        f.write("/* character, its first part, its second; the top bit of the "
                "first part:\n * decomposes, but is never composed */\n")
        table(f, "uint32_t", "tok_nfc_pair", pairs,
              lambda r: "0x%x, 0x%x, 0x%x" % r)
        f.write("/* the pairs that compose, by first part, then second */\n")
        table(f, "uint16_t", "tok_nfc_order", order, lambda r: "%d" % r[2])
    with open("runtime/tok_nfc_data2.c", "w") as f:
        f.write(HEAD + '#include "tok_impl.h"\n\n')
        f.write("/* runs of characters with one other in their place: from, "
                "to, and where\n * its place in tok_nfc_to is */\n")
        table(f, "struct tok_new", "tok_nfc_run", runs,
              lambda r: "{ 0x%x, 0x%x, %d }" % tuple(r))
        table(f, "uint32_t", "tok_nfc_to", single, lambda r: "0x%x" % r[1])
        f.write("/* from, to, canonical combining class */\n")
        table(f, "struct tok_new", "tok_nfc_class", classes,
              lambda r: "{ 0x%x, 0x%x, %d }" % tuple(r))


write_nfc()
