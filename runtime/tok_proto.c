/* The file of a SentencePiece model: protobuf, read without a schema compiler.
 *
 * Source: sentencepiece_model.proto (field numbers and defaults).  Fields that
 * are not needed here are skipped, known ones must have their wire type; the
 * last value of a field counts. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/base/proto.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int is(const struct proto_field *f, enum proto_wire wire,
	      struct err *err)
{
	if (f->wire == (unsigned)wire)
		return 0;
	return err_set(err, ERR_INPUT,
		       "field %llu has wire type %u, expected %d",
		       (unsigned long long)f->number, f->wire, (int)wire);
}

static int flag(const struct proto_field *f, bool *out, struct err *err)
{
	if (is(f, PROTO_VARINT, err))
		return -1;
	*out = f->value != 0;
	return 0;
}

static int text(const struct proto_field *f, char **out, struct err *err)
{
	char *s;

	if (is(f, PROTO_BYTES, err))
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
	struct proto_field f, name = { 0 };
	uint64_t type = TOK_NORMAL;
	float score = 0;
	int more;

	while ((more = proto_next(&m, &f, err)) > 0) {
		if (f.number == 1) {
			name = f;
		} else if (f.number == 2) {
			if (is(&f, PROTO_32, err))
				return -1;
			score = half_from_bits((uint32_t)f.value);
		} else if (f.number == 3) {
			if (is(&f, PROTO_VARINT, err))
				return -1;
			type = f.value;
		}
	}
	if (more < 0)
		return -1;
	if (!name.number || is(&name, PROTO_BYTES, err) || name.len == 0)
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
	struct proto_field f;
	int more, ret = 0;

	while (!ret && (more = proto_next(&m, &f, err)) != 0) {
		if (more < 0)
			return -1;
		switch (f.number) {
		case 3:
			ret = is(&f, PROTO_VARINT, err);
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
	struct proto_field f;
	int more, ret = 0;

	while (!ret && (more = proto_next(&m, &f, err)) != 0) {
		if (more < 0)
			return -1;
		switch (f.number) {
		case 2:
			ret = is(&f, PROTO_BYTES, err);
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
	struct proto_field f;
	uint32_t n = 0;
	int more;

	while ((more = proto_next(&m, &f, err)) > 0)
		if (f.number == 1 && ++n >= TOK_ID_MAX)
			return err_set(err, ERR_INPUT, "more than %u pieces",
				       TOK_ID_MAX);
	*out = n;
	return more;
}

static int read_field(struct tok *t, const struct proto_field *f, uint32_t *id,
		      uint64_t *type, struct err *err)
{
	struct proto sub = { f->p, f->p + f->len };
	struct tok_spm *s = t->spm;

	if (f->number < 1 || f->number > 5 || f->number == 4)
		return 0; /* 4: the trainer's samples */
	if (is(f, PROTO_BYTES, err))
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
	struct proto_field f = { 0 };
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
	while ((more = proto_next(&m, &f, err)) > 0)
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
