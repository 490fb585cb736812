/* solve.h - for tests of the quantization methods: an opened device, and one
 * small linear to solve.  Include after cmocka.h. */
#ifndef TESTS_UNIT_SOLVE_H
#define TESTS_UNIT_SOLVE_H

#include "../../libfmt/base/err.h"
#include "../../quant/method.h"

#include <string.h>

struct device {
	const struct be_api *api;
	struct be *be;
	struct rt_dev d;
};

static inline void device_open(struct device *v, const struct be_api *api)
{
	struct be_open how = { .threads = 2, .device = -1 };
	struct err err;

	v->api = api;
	if (api->open(&how, &v->be, &err))
		fail_msg("%s: %s", api->name, err.msg);
	v->d = (struct rt_dev){ api, v->be };
}

static inline int ref_open(void **state)
{
	static struct device v;

	device_open(&v, &be_ref);
	*state = &v;
	return 0;
}

static inline int cpu_open(void **state)
{
	static struct device v;

	device_open(&v, &be_cpu);
	*state = &v;
	return 0;
}

static inline int device_close(void **state)
{
	struct device *v = *state;

	v->api->close(v->be);
	return 0;
}

/* Numbers in -1..1, the same on every machine. */
static inline float draw(uint64_t *s)
{
	*s = *s * 6364136223846793005u + 1442695040888963407u;
	return (float)((double)(*s >> 40) * 0x1p-23 - 1.0);
}

#define OUT 24
#define IN 100

struct problem {
	float w[OUT * IN];
	struct gq_params p;
	struct gq_hess hess;
	struct gq_task t;
	struct gq_report report;
	struct ql ql;
	struct err err;
};

/* Correlated inputs with falling strength from column to column; column 3 is
 * dead. */
static inline void problem_open(struct problem *b, const struct device *v,
			 struct gq_params p)
{
	float x[160 * IN];
	struct be_mat m;
	uint64_t s = 5;

	memset(b, 0, sizeof(*b));
	b->p = p;
	for (int i = 0; i < OUT * IN; i++)
		b->w[i] = draw(&s);
	for (int r = 0; r < 160; r++) {
		float common = draw(&s);

		for (int k = 0; k < IN; k++)
			x[r * IN + k] = k == 3 ? 0.0f :
				(draw(&s) + common) *
				(float)(1 + (k * 37) % IN);
	}
	assert_int_equal(be_mat_new(v->api, v->be, 160, IN, DT_F32, &m,
				    &b->err), 0);
	assert_int_equal(v->api->put(v->be, m.p, x, sizeof(x), &b->err), 0);
	assert_int_equal(gq_hess_init(&b->hess, &v->d, IN, &b->err), 0);
	assert_int_equal(gq_hess_add(&b->hess, &v->d, &m, 0.01, &b->err), 0);
	be_mat_free(v->api, v->be, &m);
	b->t = (struct gq_task){ .dev = &v->d, .w = b->w, .out = OUT,
				 .in = IN, .hess = &b->hess, .params = &b->p };
}

static inline void problem_solve(struct problem *b, const struct gq_method *m)
{
	if (!b->hess.u.p &&
	    gq_hess_prepare(&b->hess, b->t.dev, &b->p, &b->err))
		fail_msg("%s", b->err.msg);
	if (m->solve(&b->t, &b->ql, &b->report, &b->err))
		fail_msg("%s", b->err.msg);
	if (ql_check(&b->ql, &b->err))
		fail_msg("%s", b->err.msg);
}

static inline void problem_close(struct problem *b)
{
	ql_release(&b->ql);
	gq_hess_release(&b->hess, b->t.dev);
}

static inline struct gq_params params(void)
{
	return (struct gq_params){ .bits = 4, .sym = 1, .group_size = 32,
				   .damp = 0.01, .damp_step = 0.01,
				   .block = 48, .scale_type = DT_F16 };
}

/* tr((W - Q) H (W - Q)^T) for h [IN][IN] */
static inline double problem_error(const struct problem *b, const double *h)
{
	float q[IN];
	double e[IN], sum = 0;

	for (int r = 0; r < OUT; r++) {
		ql_dequant_row(&b->ql, (uint32_t)r, q);
		for (int k = 0; k < IN; k++)
			e[k] = (double)q[k] - (double)b->w[r * IN + k];
		for (int j = 0; j < IN; j++)
			for (int k = 0; k < IN; k++)
				sum += e[j] * h[j * IN + k] * e[k];
	}
	return sum;
}

#define ON(open, test) \
	{ #test " (" #open ")", test, open, device_close, NULL }
#define BOTH(test) ON(ref_open, test), ON(cpu_open, test)

#endif
