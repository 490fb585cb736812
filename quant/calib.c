#include "calib.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/half.h"
#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/container/st.h"
#include "../runtime/tok.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Text and .ids files are read whole: a larger one is refused. */
#define CALIB_BYTES (UINT64_C(4) << 30)

/* Ids as they are gathered, from one file after the other. */
struct ids {
	uint32_t *p; /* [n], room for cap */
	size_t n, cap;
};

/* Where each document gives one window. */
struct documents {
	uint32_t seqlen;
	bool drawn;      /* from anywhere in it */
	uint64_t state;  /* of the generator */
	size_t all, used;
};

struct source {
	const char *file;
	const struct tok *tok;
	uint32_t vocab;
	struct documents *docs; /* NULL: documents are joined */
};

static int ids_add(struct ids *ids, const uint32_t *p, size_t n,
		   struct err *err)
{
	void *q = ids->p;

	if (n > SIZE_MAX - ids->n)
		return err_set(err, ERR_RESOURCE, "too many ids");
	if (mem_grow(&q, &ids->cap, ids->n + n, sizeof(*p), err))
		return -1;
	ids->p = q;
	if (n)
		memcpy(ids->p + ids->n, p, n * sizeof(*p));
	ids->n += n;
	return 0;
}

/* One id as a file has it. */
static int ids_add_raw(struct ids *ids, int64_t id, const struct source *s,
		       struct err *err)
{
	uint32_t v = (uint32_t)id;

	if (id < 0 || id >= (int64_t)s->vocab)
		return err_set(err, ERR_INPUT,
			       "id %lld at position %zu is not in the "
			       "vocabulary of %u",
			       (long long)id, ids->n, s->vocab);
	return ids_add(ids, &v, 1, err);
}

/* Sebastiano Vigna's SplitMix64, public domain, prng.di.unimi.it. */
static uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Evenly from 0..n-1: numbers of the last, incomplete round are drawn anew. */
static uint64_t random_below(uint64_t *state, uint64_t n)
{
	uint64_t limit = UINT64_MAX - UINT64_MAX % n, v;

	do
		v = random_next(state);
	while (v >= limit);
	return v % n;
}

/* The ids of one document: all of them, or one window where there is one. */
static int add_document(struct ids *ids, const uint32_t *p, size_t n,
			const struct source *s, struct err *err)
{
	struct documents *d = s->docs;

	if (!d)
		return ids_add(ids, p, n, err);
	d->all++;
	if (n < d->seqlen)
		return 0;
	d->used++;
	if (d->drawn)
		p += random_below(&d->state, n - d->seqlen + 1);
	return ids_add(ids, p, d->seqlen, err);
}

static int add_text(struct ids *ids, const char *text, size_t len,
		    const struct source *s, struct err *err)
{
	uint32_t *p = NULL;
	size_t n = 0;
	int ret = -1;

	if (!s->tok)
		return err_set(err, ERR_INPUT,
			       "text needs a tokenizer; the model has none");
	if (tok_encode(s->tok, text, len, TOK_BOS, &p, &n, err))
		return -1;
	for (size_t i = 0; i < n; i++)
		if (p[i] >= s->vocab) {
			err_set(err, ERR_INPUT,
				"the tokenizer gives id %u, the model's "
				"vocabulary has %u",
				p[i], s->vocab);
			goto out;
		}
	ret = add_document(ids, p, n, s, err);
out:
	free(p);
	return ret;
}

static int add_json(struct ids *ids, const char *line, size_t len,
		    const struct source *s, struct err *err)
{
	struct cJSON *j = NULL;
	const char *text;
	int ret = -1;

	if (json_parse(line, len, 0, &j, err))
		return -1;
	text = json_text(json_find(j, "text"));
	if (!text)
		err_set(err, ERR_INPUT, "no field \"text\" that is a string");
	else
		ret = add_text(ids, text, strlen(text), s, err);
	json_free(j);
	return ret;
}

static int is_blank(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != ' ' && p[i] != '\t' && p[i] != '\r')
			return 0;
	return 1;
}

/* 1 when the name ends so, a compression suffix set aside. */
static int has_suffix(const char *file, const char *suffix)
{
	size_t n = strlen(file), m = strlen(suffix);

	if (n > 4 && strcasecmp(file + n - 4, ".zst") == 0)
		n -= 4;
	else if (n > 3 && strcasecmp(file + n - 3, ".gz") == 0)
		n -= 3;
	return n > m && strncasecmp(file + n - m, suffix, m) == 0;
}

static int is_json(const char *file)
{
	return has_suffix(file, ".jsonl") || has_suffix(file, ".json");
}

/* A whole file of one array, which many data sets are. */
static bool starts_array(const char *p, size_t n)
{
	size_t at = 0;

	while (at < n && strchr(" \t\r\n", p[at]) && p[at])
		at++;
	return at < n && p[at] == '[';
}

static int add_lines(struct ids *ids, const char *data, size_t len,
		     const struct source *s, struct err *err)
{
	int (*add)(struct ids *, const char *, size_t, const struct source *,
		   struct err *) = is_json(s->file) ? add_json : add_text;
	size_t at = 0, line = 1;

	if (is_json(s->file) && starts_array(data, len))
		return err_set(err, ERR_INPUT, "one JSON array, where an "
			       "object on each line is expected "
			       "(jq -c '.[]' makes that)");
	while (at < len) {
		const char *nl = memchr(data + at, '\n', len - at);
		size_t n = nl ? (size_t)(nl - data) - at : len - at;

		if (!is_blank(data + at, n) &&
		    add(ids, data + at, n, s, err))
			return err_ctx(err, "line %zu", line);
		at += n + 1;
		line++;
	}
	return 0;
}

static int add_int32(struct ids *ids, const char *data, size_t len,
		     const struct source *s, struct err *err)
{
	if (len % 4)
		return err_set(err, ERR_INPUT,
			       "%zu bytes are no whole number of 32-bit ids",
			       len);
	for (size_t i = 0; i < len; i += 4)
		if (ids_add_raw(ids, (int32_t)half_le32(data + i), s, err))
			return -1;
	return 0;
}

/* The one tensor of whole numbers in a file. */
static const struct tensor *id_tensor(const struct st_file *f,
				      struct err *err)
{
	const struct tensor *found = NULL;

	for (uint32_t i = 0; i < f->count; i++) {
		const struct tensor *t = &f->tensor[i];

		if (t->type != DT_I32 && t->type != DT_I64)
			continue;
		if (found) {
			err_set(err, ERR_INPUT,
				"both %s and %s could be the ids", found->name,
				t->name);
			return NULL;
		}
		found = t;
	}
	if (!found)
		err_set(err, ERR_INPUT, "no I32 or I64 tensor of ids");
	return found;
}

static int add_tensor(struct ids *ids, const struct source *s,
		      struct err *err)
{
	const struct tensor *t;
	struct src *src = NULL;
	struct st_file f = { 0 };
	uint64_t n;
	int ret = -1;

	if (io_open(s->file, &src, err))
		return -1;
	if (st_open(src, 0, &f, err))
		goto out;
	t = id_tensor(&f, err);
	if (!t || tensor_count(t, &n))
		goto out;
	for (uint64_t i = 0; i < n; i++) {
		const char *p = t->data;
		int64_t id = t->type == DT_I32 ?
			(int32_t)half_le32(p + i * 4) :
			(int64_t)half_le64(p + i * 8);

		if (ids_add_raw(ids, id, s, err))
			goto out;
	}
	ret = 0;
out:
	st_close(&f);
	io_close(src);
	return ret ? err_ctx(err, "%s", s->file) : 0;
}

static int add_file(struct ids *ids, const struct source *s, struct err *err)
{
	char *data = NULL;
	size_t len = 0;
	int ret;

	bool tensors = has_suffix(s->file, ".safetensors");

	if (s->docs && (tensors || has_suffix(s->file, ".ids")))
		return err_set(err, ERR_USAGE, "%s: ids have no lines to take "
			       "samples from", s->file);
	if (tensors)
		return add_tensor(ids, s, err);
	if (io_read_file(s->file, CALIB_BYTES, &data, &len, err))
		return -1; /* names the file itself */
	if (has_suffix(s->file, ".ids"))
		ret = add_int32(ids, data, len, s, err);
	else if (s->docs || is_json(s->file))
		ret = add_lines(ids, data, len, s, err);
	else
		ret = add_text(ids, data, len, s, err);
	free(data);
	return ret ? err_ctx(err, "%s", s->file) : 0;
}

/* pick[i]: which of `windows` windows becomes sample i.  Seed 0: the first;
 * else the head of a shuffle. */
static int choose(const struct calib_how *how, size_t windows, size_t *pick,
		  struct err *err)
{
	uint64_t state = how->seed;
	size_t *all;

	if (how->seed == 0) {
		for (size_t i = 0; i < how->samples; i++)
			pick[i] = i;
		return 0;
	}
	all = mem_alloc(windows, sizeof(*all), err);
	if (!all)
		return -1;
	for (size_t i = 0; i < windows; i++)
		all[i] = i;
	for (size_t i = 0; i < how->samples; i++) {
		size_t j = i + (size_t)random_below(&state, windows - i);

		pick[i] = all[j];
		all[j] = all[i];
	}
	free(all);
	return 0;
}

static int too_few(const struct calib_how *how, const struct ids *ids,
		   const struct documents *d, struct err *err)
{
	if (how->per_line)
		return err_set(err, ERR_INPUT, "of %zu lines %zu have %u "
			       "tokens or more: %u samples are wanted", d->all,
			       d->used, how->seqlen, how->samples);
	return err_set(err, ERR_INPUT, "the calibration text has %zu tokens, "
		       "%zu windows of %u: %u are wanted", ids->n,
		       ids->n / how->seqlen, how->seqlen, how->samples);
}

static int cut(const struct calib_how *how, const struct ids *ids,
	       struct calib *out, struct err *err)
{
	size_t windows = ids->n / how->seqlen, count, *pick = NULL;
	size_t bytes = (size_t)how->seqlen * sizeof(*ids->p);
	int ret = -1;

	pick = mem_alloc(how->samples, sizeof(*pick), err);
	if (!pick || choose(how, windows, pick, err))
		goto out;
	if (mem_mul(how->samples, how->seqlen, &count)) {
		err_set(err, ERR_RESOURCE, "too many samples");
		goto out;
	}
	out->id = mem_alloc(count, sizeof(*out->id), err);
	if (!out->id)
		goto out;
	for (size_t i = 0; i < how->samples; i++)
		memcpy(out->id + i * how->seqlen,
		       ids->p + pick[i] * how->seqlen, bytes);
	out->samples = how->samples;
	out->seqlen = how->seqlen;
	ret = 0;
out:
	free(pick);
	return ret;
}

int gq_calib_load(const struct calib_how *how, struct calib *out,
		  struct err *err)
{
	struct documents docs = { .seqlen = how->seqlen,
				  .drawn = how->seed != 0,
				  .state = how->seed };
	struct ids ids = { 0 };
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (how->samples == 0 || how->seqlen == 0)
		return err_set(err, ERR_USAGE,
			       "%u samples of %u tokens are nothing to "
			       "calibrate with",
			       how->samples, how->seqlen);
	for (uint32_t i = 0; i < how->files; i++) {
		struct source s = { how->file[i], how->tok, how->vocab,
				    how->per_line ? &docs : NULL };

		if (add_file(&ids, &s, err))
			goto out;
	}
	if (ids.n / how->seqlen < how->samples) {
		too_few(how, &ids, &docs, err);
		goto out;
	}
	if (cut(how, &ids, out, err))
		goto out;
	ret = 0;
out:
	free(ids.p);
	return ret;
}

void gq_calib_release(struct calib *c)
{
	free(c->id);
	memset(c, 0, sizeof(*c));
}

int gq_calib_ids(const char *file, const struct tok *tok, uint32_t vocab,
		 uint32_t **ids, uint64_t *count, struct err *err)
{
	struct source s = { file, tok, vocab, NULL };
	struct ids all = { 0 };

	*ids = NULL;
	*count = 0;
	if (add_file(&all, &s, err)) {
		free(all.p);
		return -1;
	}
	*ids = all.p;
	*count = all.n;
	return 0;
}
