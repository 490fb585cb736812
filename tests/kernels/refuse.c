/* refuse.c - what a backend must refuse, and how devices are chosen. */
#include "kit.h"

#include <string.h>

static void refused(struct kit *k, int ret, int code)
{
	if (ret == 0)
		kit_fail(k, "was not refused");
	else if (k->err.code != code)
		kit_fail(k, "code %d, expected %d: %s", k->err.code, code,
			 k->err.msg);
}

/* The five views are [4][4] but for one dimension that does not fit. */
static void refuse_shapes(struct kit *k)
{
	struct arr a = arr_mat(k, 4, 4, 0, DT_F32);
	struct arr b = arr_mat(k, 4, 4, 0, DT_F32);
	struct arr n = arr_mat(k, 4, 3, 0, DT_F32);
	struct arr d = arr_mat(k, 4, 4, 0, DT_F64);
	struct be_gemm g = { &a.dev, &n.dev, &b.dev, 1, 0, 1 };
	struct be_cache kv = { b.dev, n.dev, n.dev, n.dev };
	struct be_mat half = be_cols(&b.dev, 0, 2);
	struct be_store r = { .q = &a.dev, .k = &a.dev, .v = &a.dev, .to = &kv,
			      .cos = &n.dev, .sin = &n.dev, .head_dim = 4 };
	struct be_attend t = { .q = &a.dev, .kv = &kv, .out = &a.dev,
			       .heads = 2, .kv_heads = 2, .head_dim = 2,
			       .scale = 1 };
	struct arr at = arr_raw(k, 4, sizeof(struct be_at));
	struct be_factor f = { &d.dev, &n.dev, 0 };
	float f1 = 0;
	struct be_grid grid = { .w = &a.dev, .scale = &f1, .zero = &f1,
				.step = 1, .bits = 9, .round_scale = DT_F32 };
	struct be_sweep s = { .w = &a.dev, .u = &n.dev, .err = &b.dev,
			      .code_ld = 4, .bits = 4 };
	struct be_refine x = { .w = &a.dev, .diff = &b.dev, .grad = &b.dev,
			       .h = &n.dev, .code_ld = 4, .bits = 4 };
	const struct be_api *api = k->api;
	struct be_mat tall = b.dev;

	k->what = "shapes that do not fit";
	kit_case(k, "gemm");
	refused(k, api->gemm(k->be, &g, &k->err), ERR_UNSUP);
	kit_case(k, "attend");
	refused(k, api->attend(k->be, &t, &k->err), ERR_UNSUP);
	kv.v = b.dev;
	t.first = 1;
	kit_case(k, "attend beyond the cache");
	refused(k, api->attend(k->be, &t, &k->err), ERR_UNSUP);
	kit_case(k, "store");
	refused(k, api->store(k->be, &r, &k->err), ERR_UNSUP);
	r.cos = r.sin = &half;
	r.first = 1;
	kit_case(k, "store beyond the cache");
	refused(k, api->store(k->be, &r, &k->err), ERR_UNSUP);
	r.at = t.at = at.dev.p;
	r.seen = t.seen = 5;
	kit_case(k, "store, with places beyond the cache");
	refused(k, api->store(k->be, &r, &k->err), ERR_UNSUP);
	kit_case(k, "attend, with places beyond the cache");
	refused(k, api->attend(k->be, &t, &k->err), ERR_UNSUP);
	t.at = NULL;
	kv.k.type = kv.v.type = DT_I8;
	t.first = 0;
	kit_case(k, "attend without scales");
	refused(k, api->attend(k->be, &t, &k->err), ERR_UNSUP);
	kit_case(k, "rmsnorm");
	refused(k, api->rmsnorm(k->be, &a.dev, &n.dev, 0, &b.dev, &k->err),
		ERR_UNSUP);
	kit_case(k, "swiglu");
	refused(k, api->swiglu(k->be, &a.dev, &n.dev, &b.dev, &k->err),
		ERR_UNSUP);
	kit_case(k, "add");
	refused(k, api->add(k->be, &a.dev, &n.dev, &k->err), ERR_UNSUP);
	kit_case(k, "syrk");
	refused(k, api->syrk(k->be, &n.dev, 1, &d.dev, &k->err), ERR_UNSUP);
	kit_case(k, "syrk into f32");
	refused(k, api->syrk(k->be, &a.dev, 1, &b.dev, &k->err), ERR_UNSUP);
	kit_case(k, "factor");
	refused(k, api->factor(k->be, &f, &k->err), ERR_UNSUP);
	kit_case(k, "grid of 9 bits");
	refused(k, api->grid(k->be, &grid, &k->err), ERR_UNSUP);
	kit_case(k, "sweep");
	refused(k, api->sweep(k->be, &s, &k->err), ERR_UNSUP);
	kit_case(k, "refine");
	refused(k, api->refine(k->be, &x, &k->err), ERR_UNSUP);
	kit_case(k, "add of rows narrower than their columns");
	tall.ld = 3;
	refused(k, api->add(k->be, &a.dev, &tall, &k->err), ERR_UNSUP);
	arr_same(&a, "a");
	arr_same(&b, "b");
	arr_free(&a);
	arr_free(&b);
	arr_free(&n);
	arr_free(&d);
	arr_free(&at);
}

static void refuse_weights(struct kit *k)
{
	uint8_t code[4] = { 0 };
	float scale[2] = { 1, 1 }, zero[2] = { 0, 0 };
	uint32_t group[4] = { 0, 0, 1, 2 };
	struct ql ql = { { 1, 4, 2, 2, 4, 0, 0, QL_POINT, DT_F32, 0 },
			 code,
			 scale, zero, group, NULL, 0 };
	struct be_qw *w = NULL;

	k->what = "quantized weights";
	kit_case(k, "group of an input");
	refused(k, k->api->qw_new(k->be, &ql, &w, &k->err), ERR_INPUT);
	group[3] = 1;
	ql.spec.bits = 9;
	kit_case(k, "9 bits");
	refused(k, k->api->qw_new(k->be, &ql, &w, &k->err), ERR_UNSUP);
	ql.spec.bits = 4;
	ql.spec.groups = 0;
	kit_case(k, "no groups");
	refused(k, k->api->qw_new(k->be, &ql, &w, &k->err), ERR_UNSUP);
	if (w)
		kit_fail(k, "a refused weight was made");
	k->api->qw_free(k->be, NULL);
}

static void selecting(struct kit *k)
{
	const struct be_api *api = NULL;
	struct be *be = NULL;
	char why[256] = "";

	k->what = "be_select";
	kit_case(k, "nonsense");
	refused(k, be_select("gpu", 1, NULL, &api, &be, why, &k->err),
		ERR_USAGE);
	kit_case(k, "cpu with an unknown kernel");
	refused(k, be_select("cpu", 1, "sse9", &api, &be, why, &k->err),
		ERR_USAGE);
	kit_case(k, "ref with a kernel of the cpu");
	refused(k, be_select("ref", 1, "avx2", &api, &be, NULL, &k->err),
		ERR_USAGE);
	kit_case(k, "auto");
	if (be_select("auto", 0, NULL, &api, &be, why, &k->err))
		kit_fail(k, "%s", k->err.msg);
	else if (!why[0] || strncmp(why, "auto: ", 6))
		kit_fail(k, "does not say why: \"%s\"", why);
	if (api)
		api->close(be);
	be_cpu.close(NULL);
	be_ref.close(NULL);
	kit_case(k, "device names");
	if (!be_device_valid("cuda:3") || !be_device_valid("cuda") ||
	    be_device_valid("cuda:") || be_device_valid("cuda:x") ||
	    be_device_valid("cuda:1x") || be_device_valid("") ||
	    be_device_valid("CPU"))
		kit_fail(k, "be_device_valid is wrong");
}

static void views(struct kit *k)
{
	float f[12];
	struct be_mat m = { f, 3, 3, 4, DT_F32 }, v;

	k->what = "views";
	kit_case(k, "rows and columns");
	v = be_rows(&m, 1, 2);
	v = be_cols(&v, 2, 1);
	if (v.p != f + 6 || v.rows != 2 || v.cols != 1 || v.ld != 4)
		kit_fail(k, "a view is elsewhere");
	if (be_mat_new(k->api, k->be, 2, 2, DT_I32, &m, &k->err) == 0 || m.p)
		kit_fail(k, "a matrix of I32 was made");
	if (be_mat_new(k->api, k->be, 5, 7, DT_F16, &m, &k->err))
		kit_fail(k, "%s", k->err.msg);
	else if (m.ld != 7 || (uintptr_t)m.p % 64)
		kit_fail(k, "a new matrix is not aligned");
	be_mat_free(k->api, k->be, &m);
	be_mat_free(k->api, k->be, &m);
}

void kit_refusals(struct kit *k)
{
	refuse_shapes(k);
	refuse_weights(k);
	selecting(k);
	views(k);
}
