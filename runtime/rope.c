/* Rotary position embedding: the frequencies of every scaling rule, and the
 * tables of cosines and sines made from them.
 *
 * With d = head_dim, i = 0 .. d/2 - 1 and f_i = theta^(-2i/d):
 *
 *	plain    f_i
 *	linear   f_i / factor
 *	dynamic  theta' = theta * (factor * L / M - (factor - 1))^(d/(d-2)) in
 *	         the place of theta, once the length L exceeds the M trained
 *	llama3   wavelengths above M/low_freq: f_i / factor; below
 *	         M/high_freq: f_i; between them a blend of the two
 *	yarn     a ramp over i from f_i (fast) to f_i / factor (slow); cosines
 *	         and sines times the attention factor, so q.k gets its square
 *
 * Source of the formulas: transformers, modeling_rope_utils; yarn: B. Peng et
 * al., "YaRN", 2023 (arXiv:2309.00071). */
#include "block.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/mem.h"

#include <math.h>
#include <stdlib.h>

static const double two_pi = 6.283185307179586476925286766559;

static double plain(double theta, uint32_t i, uint32_t d)
{
	return pow(theta, -2.0 * i / d);
}

static double dynamic_theta(const struct llama_config *c, uint32_t positions)
{
	double d = c->head_dim, f = c->rope.factor;

	if (positions <= c->max_pos || c->head_dim <= 2)
		return c->rope.theta;
	return c->rope.theta *
	       pow(f * positions / c->max_pos - (f - 1), d / (d - 2));
}

static double llama3(const struct llama_config *c, double f)
{
	double m = c->rope.original_max_pos, wave = two_pi / f;
	double low = c->rope.low_freq, high = c->rope.high_freq, s;

	if (wave > m / low)
		return f / c->rope.factor;
	if (wave < m / high)
		return f;
	s = (m / wave - low) / (high - low);
	return (1 - s) * f / c->rope.factor + s * f;
}

/* The index i, not a whole number, whose frequency turns `rotations` times
 * within the trained length. */
static double yarn_index(const struct llama_config *c, double rotations)
{
	return c->head_dim *
	       log(c->rope.original_max_pos / (rotations * two_pi)) /
	       (2 * log(c->rope.theta));
}

static double yarn(const struct llama_config *c, double f, uint32_t i)
{
	double low = yarn_index(c, c->rope.beta_fast);
	double high = yarn_index(c, c->rope.beta_slow), ramp;

	if (c->rope.truncate) {
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0);
	high = fmin(high, c->head_dim - 1.0);
	if (!(high > low) && !(high < low))
		high += 0.001; /* a ramp without width would be 0/0 */
	ramp = fmin(fmax((i - low) / (high - low), 0), 1);
	return f / c->rope.factor * ramp + f * (1 - ramp);
}

static double yarn_mscale(double factor, double mscale)
{
	return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

double rt_rope_factor(const struct llama_config *c)
{
	double f = c->rope.factor;

	if (c->rope.kind != LLAMA_ROPE_YARN)
		return 1;
	if (c->rope.attention_factor > 0)
		return c->rope.attention_factor;
	if (c->rope.mscale > 0 && c->rope.mscale_all_dim > 0)
		return yarn_mscale(f, c->rope.mscale) /
		       yarn_mscale(f, c->rope.mscale_all_dim);
	return yarn_mscale(f, 1);
}

double rt_rope_freq(const struct llama_config *c, uint32_t positions,
		    uint32_t i)
{
	double f = plain(c->rope.theta, i, c->head_dim);

	switch (c->rope.kind) {
	case LLAMA_ROPE_LINEAR:
		return f / c->rope.factor;
	case LLAMA_ROPE_DYNAMIC:
		return plain(dynamic_theta(c, positions), i, c->head_dim);
	case LLAMA_ROPE_LLAMA3:
		return llama3(c, f);
	case LLAMA_ROPE_YARN:
		return yarn(c, f, i);
	case LLAMA_ROPE_PLAIN:
	default:
		return f;
	}
}

/* Rows at a time that pass through host memory. */
#define ROWS 256

/* Fill rows first .. first + n of both tables; host is [2][ROWS][half]. */
static int fill(const struct rt_rope *r, const struct rt_dev *d,
		const double *freq, double factor, uint32_t first, uint32_t n,
		float *host, struct err *err)
{
	uint32_t half = r->cos.cols;
	struct be_mat c = be_rows(&r->cos, first, n);
	struct be_mat s = be_rows(&r->sin, first, n);
	float *hc = host, *hs = host + (size_t)ROWS * half;
	size_t bytes = (size_t)n * half * sizeof(float);

	for (uint32_t p = 0; p < n; p++) {
		for (uint32_t i = 0; i < half; i++) {
			double a = (first + p) * freq[i];

			hc[(size_t)p * half + i] = (float)(cos(a) * factor);
			hs[(size_t)p * half + i] = (float)(sin(a) * factor);
		}
	}
	if (d->api->put(d->be, c.p, hc, bytes, err) ||
	    d->api->put(d->be, s.p, hs, bytes, err))
		return -1;
	return 0;
}

int rt_rope_init(struct rt_rope *r, const struct rt_dev *d,
		 const struct llama_config *c, uint32_t positions,
		 struct err *err)
{
	uint32_t half = c->head_dim / 2;
	double *freq = NULL;
	float *host = NULL;
	void *mem = NULL;
	const struct mem_part part[] = {
		{ (void **)&freq, half, sizeof(*freq) },
		{ (void **)&host, 2 * (size_t)ROWS * half, sizeof(*host) },
	};
	int ret = -1;

	*r = (struct rt_rope){ 0 };
	if (c->head_dim % 2 || !half) {
		err_set(err, ERR_UNSUP,
			"rotary embedding of an odd head_dim %u", c->head_dim);
		goto out;
	}
	mem = mem_block(part, 2, err);
	if (!mem ||
	    be_mat_new(d->api, d->be, positions, half, DT_F32, &r->cos, err) ||
	    be_mat_new(d->api, d->be, positions, half, DT_F32, &r->sin, err))
		goto out;
	for (uint32_t i = 0; i < half; i++)
		freq[i] = rt_rope_freq(c, positions, i);
	for (uint32_t p = 0; p < positions; p += ROWS) {
		uint32_t n = positions - p < ROWS ? positions - p : ROWS;

		if (fill(r, d, freq, rt_rope_factor(c), p, n, host, err))
			goto out;
	}
	ret = 0;
out:
	free(mem);
	if (ret)
		rt_rope_release(r, d);
	return ret;
}

void rt_rope_release(struct rt_rope *r, const struct rt_dev *d)
{
	be_mat_free(d->api, d->be, &r->cos);
	be_mat_free(d->api, d->be, &r->sin);
}
