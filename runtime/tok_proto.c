/* The file of a SentencePiece model: protobuf, read without a schema compiler.
 *
 * Source: sentencepiece_model.proto (field numbers and defaults) and the
 * protobuf encoding guide.  Fields that are not needed here are skipped, known
 * ones must have their wire type; the last value of a field counts. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct proto {
	const uint8_t *p, *end;
};

struct field {
	uint64_t number;
	unsigned wire;
	uint64_t value;   /* varint, 32 or 64 bits */
	const uint8_t *p; /* bytes */
	size_t len;
};

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

/* 1: a field, 0: the end, -1: broken. */
static int next(struct proto *m, struct field *f, struct err *err)
{
	uint64_t tag;

	if (m->p == m->end)
		return 0;
	if (varint(m, &tag, err))
		return -1;
	f->number = tag >> 3;
	f->wire = (unsigned)(tag & 7);
	switch (f->wire) {
	case WIRE_VARINT:
		return varint(m, &f->value, err) ? -1 : 1;
	case WIRE_64:
		return fixed(m, 8, &f->value, err) ? -1 : 1;
	case WIRE_32:
		return fixed(m, 4, &f->value, err) ? -1 : 1;
	case WIRE_BYTES:
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

static int is(const struct field *f, enum wire wire, struct err *err)
{
	if (f->wire == (unsigned)wire)
		return 0;
	return err_set(err, ERR_INPUT,
		       "field %llu has wire type %u, expected %d",
		       (unsigned long long)f->number, f->wire, (int)wire);
}

static int flag(const struct field *f, bool *out, struct err *err)
{
	if (is(f, WIRE_VARINT, err))
		return -1;
	*out = f->value != 0;
	return 0;
}

static int text(const struct field *f, char **out, struct err *err)
{
	char *s;

	if (is(f, WIRE_BYTES, err))
		return -1;
	if (memchr(f->p, 0, f->len) ||
	    !tok_utf8_valid((const char *)f->p, f->len))
		return err_set(err, ERR_INPUT, "field %llu is not text",
			       (unsigned long long)f->number);
	s = mem_text((const char *)f->p, f->len, err);
	if (!s)
		return -1;
	free(*out);
	*out = s;
	return 0;
}

/* ---- the messages ---- */

static int read_piece(struct tok *t, struct proto m, uint32_t id,
		      struct err *err)
{
	struct tok_spm *s = t->spm;
	struct field f, name = { 0 };
	uint64_t type = TOK_NORMAL;
	float score = 0;
	int more;

	while ((more = next(&m, &f, err)) > 0) {
		if (f.number == 1) {
			name = f;
		} else if (f.number == 2) {
			if (is(&f, WIRE_32, err))
				return -1;
			score = half_from_bits((uint32_t)f.value);
		} else if (f.number == 3) {
			if (is(&f, WIRE_VARINT, err))
				return -1;
			type = f.value;
		}
	}
	if (more < 0)
		return -1;
	if (!name.number || is(&name, WIRE_BYTES, err) || name.len == 0)
		return err_set(err, ERR_INPUT, "it has no text");
	if (!tok_utf8_valid((const char *)name.p, name.len))
		return err_set(err, ERR_INPUT, "it is not UTF-8");
	if (type < TOK_NORMAL || type > TOK_BYTE)
		return err_set(err, ERR_INPUT, "it is of unknown type %llu",
			       (unsigned long long)type);
	if (isnan(score))
		return err_set(err, ERR_INPUT, "its score is not a number");
	s->type[id] = (uint8_t)type;
	s->score[id] = score;
	return tok_dict_put(&t->dict, id, (const char *)name.p, name.len, err);
}

static int read_trainer(struct tok_spm *s, struct proto m, uint64_t *type,
			struct err *err)
{
	struct field f;
	int more, ret = 0;

	while (!ret && (more = next(&m, &f, err)) != 0) {
		if (more < 0)
			return -1;
		switch (f.number) {
		case 3:
			ret = is(&f, WIRE_VARINT, err);
			*type = f.value;
			break;
		case 24:
			ret = flag(&f, &s->suffix, err);
			break;
		case 35:
			ret = flag(&f, &s->byte_fallback, err);
			break;
		case 44:
			ret = text(&f, &s->unk_surface, err);
			break;
		case 46:
			ret = text(&f, &s->bos_piece, err);
			break;
		case 47:
			ret = text(&f, &s->eos_piece, err);
			break;
		}
	}
	return ret;
}

static int read_norm(struct tok_spm_norm *n, struct proto m, struct err *err)
{
	struct field f;
	int more, ret = 0;

	while (!ret && (more = next(&m, &f, err)) != 0) {
		if (more < 0)
			return -1;
		switch (f.number) {
		case 2:
			ret = is(&f, WIRE_BYTES, err);
			if (!ret && f.len)
				ret = tok_charsmap_init(&n->map, f.p, f.len,
							err);
			break;
		case 3:
			ret = flag(&f, &n->dummy_prefix, err);
			break;
		case 4:
			ret = flag(&f, &n->squeeze, err);
			break;
		case 5:
			ret = flag(&f, &n->escape, err);
			break;
		}
	}
	return ret;
}

static int count_pieces(struct proto m, uint32_t *out, struct err *err)
{
	struct field f;
	uint32_t n = 0;
	int more;

	while ((more = next(&m, &f, err)) > 0)
		if (f.number == 1 && ++n >= TOK_ID_MAX)
			return err_set(err, ERR_INPUT, "more than %u pieces",
				       TOK_ID_MAX);
	*out = n;
	return more;
}

static int read_field(struct tok *t, const struct field *f, uint32_t *id,
		      uint64_t *type, struct err *err)
{
	struct proto sub = { f->p, f->p + f->len };
	struct tok_spm *s = t->spm;

	if (f->number < 1 || f->number > 5 || f->number == 4)
		return 0; /* 4: the trainer's samples */
	if (is(f, WIRE_BYTES, err))
		return -1;
	switch (f->number) {
	case 1:
		if (read_piece(t, sub, *id, err))
			return err_ctx(err, "piece %u", *id);
		++*id;
		return 0;
	case 2:
		return read_trainer(s, sub, type, err);
	case 3:
		return read_norm(&s->norm, sub, err);
	default:
		return read_norm(&s->denorm, sub, err);
	}
}

int tok_proto_read(struct tok *t, const char *data, size_t len,
		   struct err *err)
{
	struct tok_spm *s = t->spm;
	struct proto m = { (const uint8_t *)data,
			   (const uint8_t *)data + len };
	struct field f = { 0 };
	uint64_t type = 1; /* unigram, the default of the format */
	uint32_t id = 0;
	int more;

	if (count_pieces(m, &s->pieces, err))
		return -1;
	s->type = mem_alloc(s->pieces, 1, err);
	s->score = mem_alloc(s->pieces, sizeof(*s->score), err);
	if (!s->type || !s->score)
		return -1;
	s->norm.dummy_prefix = s->norm.squeeze = s->norm.escape = true;
	s->denorm = s->norm;
	while ((more = next(&m, &f, err)) > 0)
		if (read_field(t, &f, &id, &type, err))
			return -1;
	if (more < 0)
		return -1;
	if (s->pieces == 0)
		return err_set(err, ERR_INPUT,
			       "not a SentencePiece model: it has no pieces");
	if (type != 2)
		return err_set(err, ERR_UNSUP,
			       "SentencePiece model type %s is not supported, "
			       "only BPE is",
			       type == 1   ? "UNIGRAM"
			       : type == 3 ? "WORD"
			       : type == 4 ? "CHAR"
					   : "(unknown)");
	return 0;
}
