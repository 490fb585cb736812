/* The check of the kernels: every one that runs here on linears of the model,
 * against float64.
 *
 * One linear of each kind is tried, as a kernel is chosen by the kind and not
 * by the values: shape, bits, groups, act-order.  A kernel gets its name from
 * the device, so that a device with kernels of its own for few and for many
 * rows shows each. */
#include "verify.h"

#include "../libfmt/base/mem.h"
#include "../runtime/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Right kernels differ from float64 by the rounding of what they compute with:
 * f32 by some 1e-7, activations in f16 (11 bits) by 3e-4. */
#define LIMIT 1e-3
#define KERNELS_MAX 64
#define TARGETS 8 /* the last one has no device */

struct target {
	const char *device, *kernel; /* as be_select takes them */
};

/* Two linears that no kernel tells apart. */
static bool alike(const struct survey_layer *a, const struct survey_layer *b)
{
	const struct ql_spec *x = &a->spec, *y = &b->spec;

	return !a->format == !b->format && x->in == y->in &&
	       x->out == y->out && x->bits == y->bits &&
	       x->groups == y->groups && x->group_size == y->group_size &&
	       x->act_order == y->act_order && x->zero_kind == y->zero_kind;
}

/* Is linear i the first of its kind? */
static bool first_of_kind(const struct survey *s, uint32_t i)
{
	if (s->layer[i].broken)
		return false;
	for (uint32_t k = 0; k < i; k++)
		if (!s->layer[k].broken && alike(&s->layer[k], &s->layer[i]))
			return false;
	return true;
}

static int note(struct verify *v, const struct rt_trial_result *r,
		uint32_t layer, struct err *err)
{
	struct verify_kernel *k = v->kernel, *end = k + v->kernels;

	while (k < end && strcmp(k->name, r->kernel))
		k++;
	if (k == end) {
		if (v->kernels == KERNELS_MAX)
			return err_set(err, ERR_UNSUP,
				       "more than %d kernels", KERNELS_MAX);
		*k = (struct verify_kernel){ .last = UINT32_MAX };
		memcpy(k->name, r->kernel, sizeof(k->name));
		v->kernels++;
	}
	/* NaN is the worst */
	if (!(r->rel_error <= k->rel_error))
		k->rel_error = r->rel_error;
	k->layers += k->last != layer;
	k->last = layer;
	return 0;
}

static int try_device(struct verify *v, const struct rt_dev *d,
		      const struct rt_trial *t, uint32_t layer,
		      struct err *err)
{
	struct rt_trial_result r;

	for (uint32_t i = 0; rt_trial_rows(i); i++)
		if (rt_trial_run(t, d, rt_trial_rows(i), &r, err) ||
		    note(v, &r, layer, err))
			return -1;
	return 0;
}

/* Open a device for as long as one linear is tried on it. */
static int try_target(struct verify *v, const struct target *to,
		      const struct rt_trial *t, uint32_t layer,
		      struct err *err)
{
	struct rt_dev d;
	int ret = -1;

	if (be_select(to->device, v->call->threads, to->kernel, &d.api, &d.be,
		      NULL, err))
		return -1;
	ret = try_device(v, &d, t, layer, err);
	call_device_close(&d);
	return ret;
}

static int try_layer(struct verify *v, const struct target *to, uint32_t i,
		     struct err *err)
{
	const struct survey_layer *l = &v->survey.layer[i];
	struct rt_trial *t = NULL;
	int ret;

	ret = rt_trial_open(v->model, l->module->name, l->spec.in,
			    l->spec.out, v->call->threads, &t, err);
	for (; !ret && to->device; to++)
		ret = try_target(v, to, t, i, err);
	rt_trial_close(t);
	return ret;
}

/* What --device means here: the CPU's kernels come one by one, and with "auto"
 * a GPU that cannot be opened is left out. */
static void list_targets(const struct verify *v, struct target t[TARGETS])
{
	const char *device = v->call->opt->common.device;
	bool all = !strcmp(device, "auto"), cpu = !strcmp(device, "cpu");
	const char *name;
	struct rt_dev d;
	struct err why;
	uint32_t n = 0;

	memset(t, 0, TARGETS * sizeof(*t));
	if (!all && !cpu) {
		t[0].device = device;
		return;
	}
	if (all && !be_select("cuda", 1, NULL, &d.api, &d.be, NULL,
				     &why)) {
		t[n++].device = "cuda";
		call_device_close(&d);
	} else if (all) {
		ui_detail(v->call->ui, "kernels: %s", why.msg);
	}
	for (uint32_t k = 0; n < TARGETS - 1 && (name = be_cpu_kernel(k)); k++)
		t[n++] = (struct target){ "cpu", name };
}

static void judge(const struct verify *v, struct verify_check *c,
		  uint32_t kinds)
{
	const struct verify_kernel *worst = NULL;

	for (uint32_t i = 0; i < v->kernels; i++)
		if (!worst || !(v->kernel[i].rel_error <= worst->rel_error))
			worst = &v->kernel[i];
	if (!worst)
		verify_say(c, false, "there is no linear layer to try");
	else if (!(worst->rel_error <= LIMIT))
		verify_say(c, false, "%s: relative error %.3g, expected at "
			   "most %g", worst->name, worst->rel_error, LIMIT);
	else
		verify_say(c, true, "%u kernel%s on %u kind%s of linears, "
			   "relative error at most %.1e (%s)", v->kernels,
			   ui_plural(v->kernels), kinds, ui_plural(kinds),
			   worst->rel_error, worst->name);
}

int verify_kernels(struct verify *v, struct verify_check *c, struct err *err)
{
	struct target to[TARGETS];
	uint32_t kinds = 0;

	list_targets(v, to);
	v->kernel = mem_alloc(KERNELS_MAX, sizeof(*v->kernel), err);
	if (!v->kernel)
		return -1;
	for (uint32_t i = 0; i < v->survey.count; i++) {
		if (first_of_kind(&v->survey, i)) {
			if (try_layer(v, to, i, err))
				return -1;
			kinds++;
		}
		if (prog_step(&v->call->ui->progress, "kernels", i + 1,
			      v->survey.count, err))
			return -1;
	}
	judge(v, c, kinds);
	return 0;
}
