#include "digest.h"

#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct run {
	const struct digest_job *job;
	struct digest *out;
};

/* ---- one tensor ---- */

#define BLOCK 16384 /* values at a time */

/* One bit pattern for what is equal. */
static uint32_t canonical(float x)
{
	uint32_t u = half_bits(x);

	if (!(u << 1))
		return 0;
	return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u;
}

static int hash_values(struct values *v, char hex[HASH_HEX], struct err *err)
{
	struct hash *h = hash_new(err);
	float *x = mem_alloc(BLOCK, sizeof(*x), err);
	uint8_t *bytes = mem_alloc(BLOCK, 4, err);
	int ret = -1;

	if (!h || !x || !bytes)
		goto out;
	for (uint64_t i = 0; i < v->count; i += BLOCK) {
		size_t n = v->count - i < BLOCK ? (size_t)(v->count - i) :
						  BLOCK;

		values_load(v, i, n, x);
		for (size_t k = 0; k < n; k++)
			half_put32(bytes + 4 * k, canonical(x[k]));
		hash_add(h, bytes, 4 * n);
	}
	hash_end(h, hex);
	ret = 0;
out:
	hash_free(h);
	free(x);
	free(bytes);
	return ret;
}

#define PIECE ((uint64_t)16 << 20) /* bytes */

/* Piece by piece, so that little of a large tensor is in memory. */
static int hash_tensor(const struct model *m, const struct tensor *t,
		       char hex[HASH_HEX], struct err *err)
{
	struct hash *h = hash_new(err);

	if (!h)
		return -1;
	for (uint64_t i = 0; i < t->size; i += PIECE) {
		uint64_t n = t->size - i < PIECE ? t->size - i : PIECE;

		hash_add(h, (const char *)t->data + i, (size_t)n);
		model_forget(m, t, i, n);
	}
	hash_end(h, hex);
	hash_free(h);
	return 0;
}

/* f32 holds all values of these. */
static bool widens(const struct tensor *t)
{
	return t->type == DT_F16 || t->type == DT_BF16 || t->type == DT_F32;
}

static const struct tensor *tensor_of(const struct run *r, uint32_t i)
{
	return r->job->what == DIGEST_BYTES ? &r->job->model->tensor[i] :
					      r->out->list.ref[i].tensor;
}

static int do_item(void *ctx, uint32_t i, struct err *err)
{
	const struct run *r = ctx;
	const struct tensor *t = tensor_of(r, i);
	struct values v;
	int ret;

	if (t && !t->data && t->size)
		return err_set(err, ERR_UNSUP, "%s: only its header was read",
			       t->name);
	if (t && (r->job->what == DIGEST_BYTES || !widens(t)))
		return hash_tensor(r->job->model, t, r->out->hash[i], err);
	if (values_open(r->job->model, &r->out->list.ref[i], &v, err))
		return -1;
	ret = hash_values(&v, r->out->hash[i], err);
	values_close(r->job->model, &r->out->list.ref[i], &v);
	return ret;
}

static uint64_t item_cost(void *ctx, uint32_t i)
{
	const struct run *r = ctx;
	const struct tensor *t = tensor_of(r, i);
	const struct survey_layer *l = t ? NULL : r->out->list.ref[i].layer;

	return t ? t->size : (uint64_t)l->spec.out * l->spec.in;
}

/* ---- the model ---- */

/* Type and shape as the line of tensor i has them. */
static void describe(const struct run *r, uint32_t i, char out[160])
{
	const struct tensor *t = tensor_of(r, i);
	bool wide = !t || (r->job->what == DIGEST_WEIGHTS && widens(t));
	char shape[96];

	if (t)
		tensor_shape_text(t, shape);
	else
		snprintf(shape, sizeof(shape), "[%u, %u]",
			 r->out->list.ref[i].layer->spec.out,
			 r->out->list.ref[i].layer->spec.in);
	snprintf(out, 160, "%s\t%s",
		 wide ? "F32" : tensor_dtype_name(t->type), shape);
}

static int hash_model(const struct run *r, struct err *err)
{
	struct hash *h = hash_new(err);
	char about[160], line[256];
	int n;

	if (!h)
		return -1;
	for (uint32_t i = 0; i < r->out->count; i++) {
		describe(r, i, about);
		n = snprintf(line, sizeof(line), "\t%s\t%s\n", about,
			     r->out->hash[i]);
		hash_add(h, r->out->name[i], strlen(r->out->name[i]));
		hash_add(h, line, (size_t)n);
	}
	hash_end(h, r->out->model);
	hash_free(h);
	return 0;
}

int digest_model(const struct digest_job *job, struct digest *out,
		 struct err *err)
{
	struct run r = { .job = job, .out = out };
	struct pool pool = { .threads = job->threads, .fn = do_item,
		.cost = item_cost, .ctx = &r, .what = "hash",
		.progress = job->progress };
	int ret = -1;

	memset(out, 0, sizeof(*out));
	out->what = job->what;
	if (job->what == DIGEST_WEIGHTS &&
	    values_list_init(job->model, job->survey, &out->list, err))
		goto out;
	out->count = job->what == DIGEST_BYTES ? job->model->tensor_count :
						 out->list.count;
	out->name = mem_alloc(out->count, sizeof(*out->name), err);
	out->hash = mem_alloc(out->count, sizeof(*out->hash), err);
	if (!out->name || !out->hash)
		goto out;
	for (uint32_t i = 0; i < out->count; i++)
		out->name[i] = job->what == DIGEST_BYTES ?
			job->model->tensor[i].name : out->list.ref[i].name;
	pool.count = out->count;
	if (pool_run(&pool, err) || hash_model(&r, err))
		goto out;
	ret = 0;
out:
	if (ret)
		digest_release(out);
	return ret;
}

void digest_release(struct digest *d)
{
	values_list_release(&d->list);
	free(d->name);
	free(d->hash);
	memset(d, 0, sizeof(*d));
}
