/* The conversion matrix: every layout to every other and back, over widths,
 * group sizes, zeros, act-order and ragged shapes.  What the matrix calls
 * exact comes back byte for byte; what it does not is refused by the plan.
 * The table of gptq-formats(5) "Exactness" stands here a second time: the
 * rules below are written from it, not from what the layouts say. */
#include "made.h"

enum zeros { SYM = 0, ABOVE, WITH_0, WITH_TOP, ZEROS };

struct variant {
	uint32_t in, out, gs; /* gs 0: one group */
	uint8_t bits;
	enum zeros zeros;
	bool act;
};

static const struct {
	uint32_t in, out;
	const char *what;
} shapes[] = {
	{ 256, 256, "whole" },
	{ 128, 64, "small" },
	{ 144, 64, "ragged groups of 32, inputs not of 32" },
	{ 160, 64, "one and a half groups of 128" },
	{ 128, 40, "outputs not of 32" },
	{ 128, 36, "outputs not of 8" },
};

static const struct qfmt *const all[] = { &qf_gptq, &qf_gptq_v2, &qf_gptq_p,
	&qf_marlin, &qf_awq, &qf_ct };
#define COUNT (sizeof(all) / sizeof(all[0]))

/* ---- the table ---- */

static uint32_t group(const struct variant *v)
{
	return v->gs && v->gs < v->in ? v->gs : v->in;
}

static bool widths(const struct qfmt *f, uint32_t bits)
{
	if (f == &qf_marlin || f == &qf_awq)
		return bits == 4;
	return f == &qf_gptq_p || f == &qf_ct || bits == 2 || bits == 3 ||
	       bits == 4 || bits == 8;
}

/* Groups of one size over all inputs. */
static bool even(const struct variant *v)
{
	return v->in % group(v) == 0;
}

static bool zeros_fit(const struct qfmt *f, const struct variant *v)
{
	switch (v->zeros) {
	case SYM:
		return true;
	case ABOVE:
		return f != &qf_marlin;
	case WITH_0:
		return f != &qf_marlin && f != &qf_gptq;
	default: /* 2^bits: a 3-bit field of v1 */
		return f == &qf_gptq && v->bits == 3;
	}
}

/* Can f hold it, exactly? */
static bool exact(const struct qfmt *f, const struct variant *v)
{
	if (!widths(f, v->bits) || !zeros_fit(f, v))
		return false;
	if (f == &qf_marlin)
		return !v->act && v->in % 128 == 0 && v->out % 256 == 0 &&
		       (group(v) == v->in || group(v) == 128);
	if (f == &qf_awq)
		return !v->act && even(v) && v->out % 8 == 0;
	if (f == &qf_ct)
		return even(v);
	if (f == &qf_gptq_p)
		return v->in % 32 == 0 && v->out % 32 == 0;
	return true;
}

/* AWQ knows no single group: it is split, and stays so. */
static bool splits(const struct qfmt *f, const struct variant *v)
{
	return f == &qf_awq && group(v) == v->in && v->in > 128;
}

/* ---- layers ---- */

static const char *name_of(const struct variant *v, char name[96])
{
	snprintf(name, 96, "model.layers.%u.k%u.n%u.z%d.a%d_proj", v->in, v->in,
		 v->out, (int)v->zeros, v->act);
	return name;
}

static void add_variant(struct make *m, const struct qfmt *f,
			const struct variant *v)
{
	struct ql_spec spec = { .out = v->out, .in = v->in, .bits = v->bits,
		.group_size = group(v), .groups = (v->in - 1) / group(v) + 1,
		.act_order = v->act, .sym = v->zeros == SYM,
		.zero_kind = QL_POINT, .scale_type = DT_F16 };
	uint8_t max = (uint8_t)((1u << v->bits) - 1);
	struct ql ql;
	char name[96];

	random_layer(&ql, &spec, 1);
	/* a zero at the edge, with codes that leave no room to move it */
	if (v->zeros == WITH_0 || v->zeros == WITH_TOP) {
		bool low = v->zeros == WITH_0;

		ql.zero[ql.group_of[7]] = (float)(low ? 0 : max + 1);
		ql.code[7] = low ? max : 0;
	}
	make_layer(m, name_of(v, name), &ql, f, NULL);
	ql_release(&ql);
}

/* Layers of one width and group size that f can hold, and `to` too where it
 * `must_hold`; in `list`. */
static uint32_t variants(const struct qfmt *f, const struct qfmt *to,
			 bool must_hold, uint8_t bits, uint32_t gs,
			 struct variant list[64])
{
	uint32_t n = 0;

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		for (int z = 0; z < ZEROS; z++)
			for (int act = 0; act < 2; act++) {
				struct variant v = { shapes[i].in,
					shapes[i].out, gs, bits,
					(enum zeros)z, act != 0 };

				/* the large one where it decides */
				if (i == 0 && bits != 4)
					continue;
				if ((act && group(&v) == v.in) ||
				    !exact(f, &v) ||
				    (must_hold && !exact(to, &v)))
					continue;
				/* awq has one group size for all */
				if ((f == &qf_awq || to == &qf_awq) &&
				    group(&v) != gs && v.in != 256)
					continue;
				list[n++] = v;
			}
	return n;
}

static void make_config(char text[512], const struct qfmt *f, uint8_t bits,
			uint32_t gs)
{
	int size = gs ? (int)gs : -1;

	if (f == &qf_awq)
		snprintf(text, 512, "{\"quant_method\": \"awq\", \"bits\": 4, "
			 "\"group_size\": %d, \"zero_point\": true, "
			 "\"version\": \"gemm\"}", size);
	else if (f == &qf_ct)
		snprintf(text, 512, "{\"quant_method\": \"compressed-tensors\","
			 " \"format\": \"pack-quantized\", \"config_groups\": "
			 "{\"group_0\": {\"targets\": [\"Linear\"], "
			 "\"weights\": {\"num_bits\": %u, \"group_size\": %d, "
			 "\"type\": \"int\", \"strategy\": \"group\", "
			 "\"symmetric\": false}}}}", bits, size);
	else
		snprintf(text, 512, "{\"quant_method\": \"gptq\", \"bits\": %u,"
			 " \"group_size\": %d, \"desc_act\": true, \"sym\": "
			 "false, \"checkpoint_format\": \"%s\"}", bits, size,
			 f->name);
}

static void make_source(const char *dir, const struct qfmt *f,
			const struct variant *v, uint32_t n)
{
	struct make *m = calloc(1, sizeof(*m));
	char config[512];

	for (uint32_t i = 0; i < n; i++)
		add_variant(m, f, &v[i]);
	make_config(config, f, v->bits, v->gs);
	make_write(m, dir, config);
	free(m);
}

/* ---- the test ---- */

/* The plan for all that `from` holds refuses what `to` does not. */
static void check_plan(const char *dir, const struct qfmt *to,
		       const struct variant *v, uint32_t n)
{
	struct options opt = { .to = to };
	struct repack_step *steps;
	struct opened o;
	uint32_t refused;
	char name[96];
	struct err err;

	open_job(&o, dir, dir, &opt);
	must(repack_plan(&o.job, &steps, &refused, &err), &err);
	assert_int_equal(o.survey.count, n);
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < n; k++) {
			if (strcmp(steps[k].layer->module->name,
				   name_of(&v[i], name)))
				continue;
			if (steps[k].refused == exact(to, &v[i]))
				fail_msg("%s at %u bits, groups of %u to %s: "
					 "%s", name, v->bits, v->gs, to->name,
					 steps[k].note);
			assert_true(strlen(steps[k].note) > 0);
		}
	free(steps);
	close_job(&o);
}

static void check_pair(struct scratch *s, const struct qfmt *from,
		       const struct qfmt *to, uint8_t bits, uint32_t gs)
{
	struct options there = { .to = to }, back = { .to = from };
	struct variant v[64];
	char a[96], b[96], c[96];
	uint32_t n = variants(from, to, false, bits, gs, v);
	bool same = true;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	if (!n)
		return;
	make_source(a, from, v, n);
	check_plan(a, to, v, n);
	n = variants(from, to, true, bits, gs, v);
	if (!n)
		return;
	for (uint32_t i = 0; i < n; i++)
		same = same && !splits(to, &v[i]);
	make_source(a, from, v, n);
	assert_int_equal(repack(a, b, &there).layers, n);
	assert_int_equal(repack(b, c, &back).layers, n);
	if (same)
		assert_same_file(a, c, "model.safetensors");
}

static void check_from(void **state, const struct qfmt *from)
{
	static const uint32_t sizes[] = { 32, 128, 0 };

	for (size_t i = 0; i < COUNT; i++)
		for (uint8_t bits = 2; bits <= 8; bits++)
			for (int g = 0; all[i] != from && g < 3; g++)
				check_pair(*state, from, all[i], bits,
					   sizes[g]);
}

#define FROM(f)                                  \
	static void test_from_##f(void **state)  \
	{                                        \
		check_from(state, &qf_##f);      \
	}
FROM(gptq)
FROM(gptq_v2)
FROM(gptq_p)
FROM(marlin)
FROM(awq)
FROM(ct)

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_from_gptq),
		CASE(test_from_gptq_v2),
		CASE(test_from_gptq_p),
		CASE(test_from_marlin),
		CASE(test_from_awq),
		CASE(test_from_ct),
	};

	return cmocka_run_group_tests_name("matrix", tests, NULL, NULL);
}
