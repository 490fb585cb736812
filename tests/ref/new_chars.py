#!/usr/bin/env python3
"""Write runtime/tok_new_data.c: the characters that Unicode 15 to 16 added, for
regular expression libraries that do not know them yet.

Run from the repository root.  Needs the package unicodedata2 16.0.0.
Source of the data: the Unicode Character Database (unicode.org/Public/16.0.0).
"""
import unicodedata2 as new

assert new.unidata_version == "16.0.0"

# The age of a character is not in the package: DerivedAge.txt, 15.0 to 16.0.
AGES = """
0cf3 0ece 10efd-10eff 1123f-11241 11b00-11b09 11f00-11f10 11f12-11f3a
11f3e-11f59 1342f 13439-13455 1b132 1b155 1d2c0-1d2d3 1df25-1df2a 1e030-1e06d
1e08f 1e4d0-1e4f9 1f6dc 1f774-1f776 1f77b-1f77f 1f7d9 1fa75-1fa77 1fa87-1fa88
1faad-1faaf 1fabb-1fabd 1fabf 1face-1facf 1fada-1fadb 1fae8 1faf7-1faf8 2b739
31350-323af 2ffc-2fff 31ef 2ebf0-2ee5d 0897 1b4e-1b4f 1b7f 1c89-1c8a 2427-2429
31e4-31e5 a7cb-a7cd a7da-a7dc 105c0-105f3 10d40-10d65 10d69-10d85 10d8e-10d8f
10ec2-10ec4 10efc 11380-11389 1138b 1138e 11390-113b5 113b7-113c0 113c2 113c5
113c7-113ca 113cc-113d5 113d7-113d8 113e1-113e2 116d0-116e3 11bc0-11be1
11bf0-11bf9 11f5a 13460-143fa 16100-16139 16d40-16d79 18cff 1cc00-1ccf9
1cd00-1ceb3 1e5d0-1e5fa 1e5ff 1f8b2-1f8bb 1f8c0-1f8c1 1fa89 1fa8f 1fabe 1fac6
1fadc 1fadf 1fae9 1fbcb-1fbef
"""

# A character of the same kind and as many bytes that is old.
LIKE = {
    (3, "Lu"): 0xA640, (3, "Ll"): 0xA641, (3, "Mn"): 0x0900,
    (3, "Mc"): 0x0903, (3, "Po"): 0x0964, (3, "So"): 0x2400,
    (4, "Lu"): 0x10400, (4, "Ll"): 0x10428,
    (4, "Lo"): 0x10450, (4, "Mn"): 0x10A01, (4, "Mc"): 0x1D165,
    (4, "Nd"): 0x104A0, (4, "No"): 0x10107, (4, "Po"): 0x10100,
    (4, "Pd"): 0x10100, (4, "So"): 0x1D100, (4, "Sm"): 0x1D6C1,
    (4, "Cf"): 0xE0001,
    (4, "Lm"): 0x16B40,  # Unicode 7: no older one has four bytes
}
HAN = 0x20000


def like(c):
    if 0x2E80 <= c < 0x30000 and new.name(chr(c), "").startswith("CJK UNIFIED"):
        return HAN
    if c >= 0x30000:
        return HAN
    return LIKE[len(chr(c).encode()), new.category(chr(c))]


def new_chars():
    cps = set()
    for word in AGES.split():
        a, _, b = word.partition("-")
        cps.update(range(int(a, 16), int(b or a, 16) + 1))
    cps.add(0x1171E)  # was Mn, is Mc
    rows = []
    for c in sorted(cps):
        if new.category(chr(c)) == "Cn":
            continue
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == like(c):
            rows[-1][1] = c
        else:
            rows.append([c, c, like(c)])
    return rows


def main():
    with open("runtime/tok_new_data.c", "w") as f:
        f.write("/* Written by tests/ref/new_chars.py; do not edit. */\n")
        f.write('#include "tok_impl.h"\n\n')
        f.write("/* from, to, a character like them that is older */\n")
        rows = new_chars()
        f.write("const struct tok_new tok_new[] = {\n")
        for i in range(0, len(rows), 2):
            f.write("\t" + " ".join("{ 0x%x, 0x%x, 0x%x }," % tuple(r)
                                    for r in rows[i:i + 2]) + "\n")
        f.write("};\nconst size_t tok_new_n = %d;\n" % len(rows))


main()
