#include "proto.h"

#include "err.h"
#include "half.h"

#include <string.h>

/* ---- reading ---- */

static int cut_off(struct err *err)
{
	return err_set(err, ERR_INPUT, "the file ends inside a field");
}

static int varint(struct proto *m, uint64_t *out, struct err *err)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (m->p == m->end)
			return cut_off(err);
		uint8_t c = *m->p++;

		v |= (uint64_t)(c & 0x7f) << shift;
		if (!(c & 0x80)) {
			*out = v;
			return 0;
		}
	}
	return err_set(err, ERR_INPUT, "a number of more than 64 bits");
}

static int fixed(struct proto *m, size_t n, uint64_t *out, struct err *err)
{
	if ((size_t)(m->end - m->p) < n)
		return cut_off(err);
	*out = n == 4 ? half_le32(m->p) : half_le64(m->p);
	m->p += n;
	return 0;
}

int proto_next(struct proto *m, struct proto_field *f, struct err *err)
{
	uint64_t tag;

	if (m->p == m->end)
		return 0;
	if (varint(m, &tag, err))
		return -1;
	f->number = tag >> 3;
	f->wire = (unsigned)(tag & 7);
	switch (f->wire) {
	case PROTO_VARINT:
		return varint(m, &f->value, err) ? -1 : 1;
	case PROTO_64:
		return fixed(m, 8, &f->value, err) ? -1 : 1;
	case PROTO_32:
		return fixed(m, 4, &f->value, err) ? -1 : 1;
	case PROTO_BYTES:
		if (varint(m, &f->value, err))
			return -1;
		if (f->value > (size_t)(m->end - m->p))
			return cut_off(err);
		f->p = m->p;
		f->len = (size_t)f->value;
		m->p += f->len;
		return 1;
	default:
		return err_set(err, ERR_INPUT,
			       "not a SentencePiece model: wire type %u",
			       f->wire);
	}
}

/* ---- writing ---- */

static size_t put_varint(uint8_t *at, uint64_t v)
{
	size_t n = 0;

	do {
		if (at)
			at[n] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
		n++;
		v >>= 7;
	} while (v);
	return n;
}

static size_t put_tag(uint8_t *at, unsigned number, enum proto_wire wire)
{
	return put_varint(at, (uint64_t)number << 3 | wire);
}

size_t proto_put_int(uint8_t *at, unsigned number, uint64_t v)
{
	size_t n = put_tag(at, number, PROTO_VARINT);

	return n + put_varint(at ? at + n : NULL, v);
}

size_t proto_put_f32(uint8_t *at, unsigned number, float v)
{
	size_t n = put_tag(at, number, PROTO_32);

	if (at)
		half_put32(at + n, half_bits(v));
	return n + 4;
}

size_t proto_put_bytes(uint8_t *at, unsigned number, const void *data,
		       size_t len)
{
	size_t n = put_tag(at, number, PROTO_BYTES);

	n += put_varint(at ? at + n : NULL, len);
	if (at && len)
		memcpy(at + n, data, len);
	return n + len;
}
