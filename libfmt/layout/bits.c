#include "bits.h"

#include "../base/half.h"

#include <assert.h>
#include <string.h>

/* Everything is done in units: 32 fields in b words for streams and planes,
 * one word for padded fields.  A unit is decoded in registers, eight fields at
 * a time, so that no loop of this file knows a width or a straddling field. */
#define UNIT_FIELDS 32
#define UNIT_WORDS 8

const struct bits_rule bits_stream = { BITS_STREAM, NULL };

struct unit {
	uint32_t b, fields, words;
	enum bits_kind kind;
	const uint8_t *order;
};

static struct unit unit_of(const struct bits_rule *r, uint32_t b)
{
	struct unit u = { b, UNIT_FIELDS, b, r->kind, r->order };

	/* Where the width divides the word, all three kinds are one. */
	if (32 % b == 0)
		u.kind = BITS_STREAM;
	if (u.kind == BITS_PADDED) {
		u.fields = 32 / b;
		u.words = 1;
	}
	assert(b >= 1 && b <= 8 && (32 % b == 0 || !u.order));
	return u;
}

/* Words that the first n <= fields of a unit take: a stream ends with its last
 * field, planes and padded words are whole. */
static uint32_t unit_words(const struct unit *u, uint32_t n)
{
	return u->kind == BITS_STREAM ? (n * u->b + 31) / 32 : u->words;
}

uint64_t bits_words(const struct bits_rule *r, uint32_t b, uint64_t n)
{
	struct unit u = unit_of(r, b);
	uint32_t rest = (uint32_t)(n % u.fields);

	return n / u.fields * u.words + (rest ? unit_words(&u, rest) : 0);
}

/* The low `b` bits of every lane of `lane` bits. */
static uint64_t lanes(uint32_t b, uint32_t lane)
{
	uint64_t m = ((uint64_t)1 << b) - 1;

	for (; lane < 64; lane *= 2)
		m |= m << lane;
	return m;
}

/* Eight b-bit fields, in the low 8b bits (above them is anything), to one byte
 * each: halve three times, 4b bits to 32-bit lanes, 2b to 16, b to 8. */
static uint64_t spread(uint64_t x, uint32_t b)
{
	uint64_t m4 = lanes(4 * b, 64), m2 = lanes(2 * b, 32);
	uint64_t m1 = lanes(b, 16);

	x = (x & m4) | (x << (32 - 4 * b) & m4 << 32);
	x = (x & m2) | (x << (16 - 2 * b) & m2 << 16);
	return (x & m1) | (x << (8 - b) & m1 << 8);
}

/* The inverse of spread. */
static uint64_t gather(uint64_t x, uint32_t b)
{
	uint64_t m4 = lanes(4 * b, 64), m2 = lanes(2 * b, 32);
	uint64_t m1 = lanes(b, 16);

	x = (x & m1) | (x >> (8 - b) & m1 << b);
	x = (x & m2) | (x >> (16 - 2 * b) & m2 << 2 * b);
	return (x & m4) | (x >> (32 - 4 * b) & m4 << 4 * b);
}

/* 32 fields of a stream, of which every eight are b bytes. */
static void stream_get(const uint32_t *w, uint32_t b, uint64_t out[4])
{
	uint8_t bytes[4 * UNIT_WORDS + 8] = { 0 };

	for (uint32_t i = 0; i < b; i++)
		half_put32(bytes + 4 * i, w[i]);
	for (uint32_t j = 0; j < 4; j++)
		out[j] = spread(half_le64(bytes + b * j), b);
}

static void stream_put(const uint64_t in[4], uint32_t b, uint32_t *w)
{
	uint8_t bytes[4 * UNIT_WORDS + 8];

	for (uint32_t j = 0; j < 4; j++) /* each covers what the last spilled */
		half_put64(bytes + b * j, gather(in[j], b));
	for (uint32_t i = 0; i < b; i++)
		w[i] = half_le32(bytes + 4 * i);
}

/* A plane of width p holds the next p bits of all 32 fields as a stream of p
 * words: 3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1, low plane first.
 * Source: gptq-formats(5) "Planes". */
static uint32_t plane(uint32_t left)
{
	return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static void planes_get(const uint32_t *w, uint32_t b, uint64_t out[4])
{
	uint32_t p;

	memset(out, 0, 4 * sizeof(*out));
	for (uint32_t done = 0; done < b; done += p) {
		uint64_t part[4];

		p = plane(b - done);
		stream_get(w + done, p, part);
		for (uint32_t j = 0; j < 4; j++)
			out[j] |= part[j] << done;
	}
}

static void planes_put(const uint64_t in[4], uint32_t b, uint32_t *w)
{
	uint32_t p;

	for (uint32_t done = 0; done < b; done += p) {
		uint64_t part[4];

		p = plane(b - done);
		for (uint32_t j = 0; j < 4; j++)
			part[j] = in[j] >> done & lanes(p, 8);
		stream_put(part, p, w + done);
	}
}

/* Reorder the fields of each word: position j <-> field order[j]. */
static void permute(const struct unit *u, uint8_t *f, int to_fields)
{
	uint32_t per = 32 / u->b;
	uint8_t old[UNIT_FIELDS];

	memcpy(old, f, sizeof(old));
	for (uint32_t i = 0; i < UNIT_FIELDS; i += per)
		for (uint32_t j = 0; j < per; j++)
			if (to_fields)
				f[i + u->order[j]] = old[i + j];
			else
				f[i + j] = old[i + u->order[j]];
}

/* One unit: w[u->words] to u->fields bytes. */
static void unit_get(const struct unit *u, const uint32_t *w, uint8_t *out)
{
	uint64_t x[4];

	if (u->kind == BITS_PADDED) {
		for (uint32_t t = 0; t < u->fields; t++)
			out[t] = (uint8_t)(w[0] >> t * u->b &
					   ((1u << u->b) - 1));
		return;
	}
	if (u->kind == BITS_PLANAR)
		planes_get(w, u->b, x);
	else
		stream_get(w, u->b, x);
	for (uint32_t j = 0; j < 4; j++)
		half_put64(out + 8 * j, x[j]);
	if (u->order)
		permute(u, out, 1);
}

/* The inverse, into a zeroed w. */
static void unit_put(const struct unit *u, const uint8_t *in, uint32_t *w)
{
	uint8_t f[UNIT_FIELDS];
	uint64_t x[4];

	if (u->kind == BITS_PADDED) {
		for (uint32_t t = 0; t < u->fields; t++)
			w[0] |= (in[t] & ((1u << u->b) - 1)) << t * u->b;
		return;
	}
	memcpy(f, in, sizeof(f));
	if (u->order)
		permute(u, f, 0);
	for (uint32_t j = 0; j < 4; j++)
		x[j] = half_le64(f + 8 * j);
	if (u->kind == BITS_PLANAR)
		planes_put(x, u->b, w);
	else
		stream_put(x, u->b, w);
}

static void load(const uint8_t *words, size_t stride, uint32_t count,
		 uint32_t *w)
{
	for (uint32_t i = 0; i < count; i++)
		w[i] = half_le32(words + 4 * stride * i);
}

static void store(const uint32_t *w, uint32_t count, uint8_t *words,
		  size_t stride)
{
	for (uint32_t i = 0; i < count; i++)
		half_put32(words + 4 * stride * i, w[i]);
}

/* The first n fields of a unit; a short one goes through a buffer. */
static void unit_unpack(const struct unit *u, const uint8_t *words,
			size_t stride, uint32_t n, uint8_t *out)
{
	uint32_t w[UNIT_WORDS] = { 0 };
	uint8_t f[UNIT_FIELDS];

	load(words, stride, unit_words(u, n), w);
	if (n == u->fields) {
		unit_get(u, w, out);
	} else {
		unit_get(u, w, f);
		memcpy(out, f, n);
	}
}

static void unit_pack(const struct unit *u, const uint8_t *in, uint32_t n,
		      uint8_t *words, size_t stride)
{
	uint32_t w[UNIT_WORDS] = { 0 };
	uint8_t f[UNIT_FIELDS] = { 0 };

	if (n == u->fields) {
		unit_put(u, in, w);
	} else {
		memcpy(f, in, n);
		unit_put(u, f, w);
	}
	store(w, unit_words(u, n), words, stride);
}

static uint32_t fields_at(const struct unit *u, uint64_t t, uint64_t n)
{
	return n - t < u->fields ? (uint32_t)(n - t) : u->fields;
}

void bits_unpack(const struct bits_rule *r, uint32_t b, const void *words,
		 size_t stride, uint64_t n, uint8_t *out, size_t out_step)
{
	struct unit u = unit_of(r, b);
	const uint8_t *w = words;
	uint8_t f[UNIT_FIELDS];

	for (uint64_t t = 0; t < n; t += u.fields) {
		uint32_t m = fields_at(&u, t, n);

		unit_unpack(&u, w, stride, m, f);
		for (uint32_t i = 0; i < m; i++)
			out[(t + i) * out_step] = f[i];
		w += 4 * stride * u.words;
	}
}

void bits_pack(const struct bits_rule *r, uint32_t b, const uint8_t *in,
	       size_t in_step, uint64_t n, void *words, size_t stride)
{
	struct unit u = unit_of(r, b);
	uint8_t *w = words;
	uint8_t f[UNIT_FIELDS];

	for (uint64_t t = 0; t < n; t += u.fields) {
		uint32_t m = fields_at(&u, t, n);

		for (uint32_t i = 0; i < m; i++)
			f[i] = in[(t + i) * in_step];
		unit_pack(&u, f, m, w, stride);
		w += 4 * stride * u.words;
	}
}

void bits_fill(const struct bits_rule *r, uint32_t b, uint8_t value, uint64_t n,
	       void *words)
{
	struct unit u = unit_of(r, b);
	const size_t bytes = 4 * (size_t)u.words;
	uint8_t f[UNIT_FIELDS], one[4 * UNIT_WORDS];
	uint8_t *w = words;

	memset(f, value, sizeof(f));
	unit_pack(&u, f, u.fields, one, 1);
	for (; n >= u.fields; n -= u.fields) {
		memcpy(w, one, bytes);
		w += bytes;
	}
	if (n)
		unit_pack(&u, f, (uint32_t)n, w, 1);
}
