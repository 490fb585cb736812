/* A small Llama, repacked with its groups split, codes widened, rows sorted or
 * padded and act-order folded away.  The proof runs in every case; what it
 * takes for granted (which order neighbours have) is looked at here. */
#include "../../libfmt/base/json.h"
#include "made.h"

#include <cjson/cJSON.h>

#define HIDDEN 64
#define INTER 96
#define HEADS 4
#define KV 2
#define DIM 16

#define LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], " \
	"\"model_type\": \"llama\", \"hidden_size\": 64, " \
	"\"intermediate_size\": 96, \"num_hidden_layers\": 1, " \
	"\"num_attention_heads\": 4, \"num_key_value_heads\": 2, " \
	"\"vocab_size\": 40, \"rms_norm_eps\": 1e-5, " \
	"\"max_position_embeddings\": 128, \"quantization_config\": "

#define BLOCK "model.layers.0."

struct shape {
	const char *name;
	uint32_t in, out;
};
static const struct shape shapes[] = {
	{ BLOCK "self_attn.q_proj", HIDDEN, HEADS * DIM },
	{ BLOCK "self_attn.k_proj", HIDDEN, KV * DIM },
	{ BLOCK "self_attn.v_proj", HIDDEN, KV * DIM },
	{ BLOCK "self_attn.o_proj", HEADS * DIM, HIDDEN },
	{ BLOCK "mlp.gate_proj", HIDDEN, INTER },
	{ BLOCK "mlp.up_proj", HIDDEN, INTER },
	{ BLOCK "mlp.down_proj", INTER, HIDDEN },
};

/* What is special about a made model. */
struct kind {
	uint32_t group_size, bits;
	bool down;         /* act-order in down_proj */
	bool o;            /* ... in o_proj, as heads allow */
	bool o_mixed;      /* ... in o_proj, over heads */
	const char *all;   /* ... in this layer, anyhow */
	bool dense_up;     /* up_proj is not quantized */
	bool biases;
};

/* Groups of 8: in key-value head c, the dimensions whose bit (d * 5 + c) / 2
 * is even are the first group of each of its query heads. */
static void order_o(struct ql *ql)
{
	for (uint32_t k = 0; k < ql->spec.in; k++) {
		uint32_t h = k / DIM, d = k % DIM, c = h / (HEADS / KV);

		ql->group_of[k] = 2 * h + ((d * 5 + c) / 2) % 2;
	}
	ql_observe(ql);
}

static void make_llama(const char *dir, const struct kind *kind)
{
	struct make m = { .count = 0 };
	char path[128], text[1024];
	struct err err;

	make_f16(&m, "model.embed_tokens", "weight", 40, HIDDEN);
	for (size_t i = 0; i < 7; i++) {
		const struct shape *s = &shapes[i];
		bool o = strstr(s->name, "o_proj") != NULL;
		struct ql_spec spec = { .out = s->out, .in = s->in,
			.groups = s->in / kind->group_size,
			.group_size = kind->group_size,
			.bits = (uint8_t)kind->bits, .zero_kind = QL_POINT,
			.scale_type = DT_F16 };
		struct ql ql;

		spec.act_order = (kind->down && strstr(s->name, "down")) ||
				 (kind->o_mixed && o) ||
				 (kind->all && strstr(s->name, kind->all));
		if (kind->dense_up && strstr(s->name, "up_proj")) {
			make_f16(&m, s->name, "weight", s->out, s->in);
			continue;
		}
		random_layer(&ql, &spec, 1);
		if (o && kind->o)
			order_o(&ql);
		make_layer(&m, s->name, &ql, &qf_gptq_v2, NULL);
		ql_release(&ql);
		if (kind->biases)
			make_f16(&m, s->name, "bias", s->out, 0);
	}
	make_f16(&m, "model.norm", "weight", HIDDEN, 0);
	make_write(&m, dir, NULL);
	snprintf(path, sizeof(path), "%s/config.json", dir);
	snprintf(text, sizeof(text), LLAMA "{\"quant_method\": \"gptq\", "
		 "\"bits\": %u, \"group_size\": %u, \"desc_act\": true, "
		 "\"sym\": false, \"checkpoint_format\": \"gptq_v2\"}}",
		 kind->bits, kind->group_size);
	must(io_write_file(path, text, strlen(text), &err), &err);
}

static void names(struct scratch *s, char a[96], char b[96])
{
	snprintf(a, 96, "%s/a", s->dir);
	snprintf(b, 96, "%s/b", s->dir);
}

static void read_layer(const char *dir, const char *name, struct ql *ql)
{
	struct model *m;
	struct err err;

	must(model_open(dir, 0, &m, &err), &err);
	must(survey_read(m, model_module(m, name), ql, &err), &err);
	model_close(m);
}

static int32_t config_number(const char *dir, const char *key)
{
	struct cJSON *c;
	char path[128];
	struct err err;
	const struct cJSON *n;
	int32_t v;

	snprintf(path, sizeof(path), "%s/config.json", dir);
	must(json_read_file(path, &c, &err), &err);
	n = json_path(c, key);
	assert_non_null(n);
	v = cJSON_IsBool(n) ? cJSON_IsTrue(n) : (int32_t)n->valuedouble;
	json_free(c);
	return v;
}

/* ---- where things went ---- */

static void row_of(const struct ql *ql, uint32_t n, float *row)
{
	ql_dequant_row(ql, n, row);
}

static void col_of(const struct ql *ql, uint32_t k, float *col)
{
	float row[128];

	for (uint32_t n = 0; n < ql->spec.out; n++) {
		ql_dequant_row(ql, n, row);
		col[n] = row[k];
	}
}

typedef void take(const struct ql *, uint32_t, float *);

/* Which line of `was` is line i of `is`? */
static uint32_t find_line(const struct ql *was, const struct ql *is,
			  uint32_t count, uint32_t i, take *get)
{
	float want[128] = { 0 }, have[128] = { 0 };

	get(is, i, want);
	for (uint32_t j = 0; j < count; j++) {
		get(was, j, have);
		if (!memcmp(want, have, sizeof(want)))
			return j;
	}
	fail_msg("line %u is nowhere", i);
	return 0;
}

struct pair {
	struct ql was, is;
};

static void read_pair(const char *a, const char *b, const char *name,
		      struct pair *p)
{
	read_layer(a, name, &p->was);
	read_layer(b, name, &p->is);
}

static void release_pair(struct pair *p)
{
	ql_release(&p->was);
	ql_release(&p->is);
}

/* down_proj's inputs, and the outputs of gate_proj and up_proj that feed them,
 * are in one new order. */
static void test_drop_in_down(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .down = true,
			     .biases = true };
	struct options drop = { .to = &qf_gptq, .order = REPACK_DROP };
	struct pair gate, up, down;
	struct repack_report r;
	char a[96], b[96];
	uint32_t moved = 0;

	names(s, a, b);
	make_llama(a, &kind);
	r = repack(a, b, &drop);
	assert_int_equal(r.layers, 7);
	assert_int_equal(r.moved, 3); /* the biases; down's stays where it is,
					 but is of a moved layer */
	read_pair(a, b, shapes[4].name, &gate);
	read_pair(a, b, shapes[5].name, &up);
	read_pair(a, b, shapes[6].name, &down);
	assert_true(down.was.spec.act_order);
	assert_false(down.is.spec.act_order);
	for (uint32_t j = 0; j < INTER; j++) {
		uint32_t from = find_line(&gate.was, &gate.is, INTER, j,
					  row_of);

		assert_int_equal(find_line(&up.was, &up.is, INTER, j, row_of),
				 from);
		assert_int_equal(find_line(&down.was, &down.is, INTER, j,
					   col_of), from);
		moved += from != j;
	}
	assert_true(moved > INTER / 2);
	assert_false(config_number(b, "quantization_config.desc_act"));
	release_pair(&gate);
	release_pair(&up);
	release_pair(&down);
}

/* A neighbour that is not quantized moves too. */
static void test_drop_with_a_dense_neighbour(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .down = true,
			     .dense_up = true };
	struct options drop = { .to = &qf_gptq_v2, .order = REPACK_DROP };
	const struct tensor *x, *y;
	struct model *ma, *mb;
	struct pair gate;
	char a[96], b[96];
	struct err err;

	names(s, a, b);
	make_llama(a, &kind);
	assert_int_equal(repack(a, b, &drop).moved, 1);
	read_pair(a, b, shapes[4].name, &gate);
	must(model_open(a, 0, &ma, &err), &err);
	must(model_open(b, 0, &mb, &err), &err);
	x = model_find(ma, BLOCK "mlp.up_proj.weight");
	y = model_find(mb, BLOCK "mlp.up_proj.weight");
	for (uint32_t j = 0; j < INTER; j++) {
		uint32_t from = find_line(&gate.was, &gate.is, INTER, j,
					  row_of);

		assert_memory_equal((const uint8_t *)y->data + j * 2 * HIDDEN,
				    (const uint8_t *)x->data +
					    from * 2 * HIDDEN, 2 * HIDDEN);
	}
	model_close(ma);
	model_close(mb);
	release_pair(&gate);
}

/* o_proj's inputs move inside their heads, alike in the two query heads of one
 * key-value head, and v_proj's outputs with them. */
static void test_drop_in_o(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 8, .bits = 4, .o = true,
			     .biases = true };
	struct options drop = { .to = &qf_gptq_v2, .order = REPACK_DROP };
	struct pair v, o;
	char a[96], b[96];
	uint32_t moved = 0;

	names(s, a, b);
	make_llama(a, &kind);
	assert_int_equal(repack(a, b, &drop).layers, 2);
	read_pair(a, b, shapes[2].name, &v);
	read_pair(a, b, shapes[3].name, &o);
	assert_true(o.was.spec.act_order);
	assert_false(o.is.spec.act_order);
	for (uint32_t k = 0; k < HEADS * DIM; k++) {
		uint32_t h = k / DIM, d = k % DIM, c = h / (HEADS / KV);
		uint32_t from = find_line(&v.was, &v.is, KV * DIM, c * DIM + d,
					  row_of);

		assert_int_equal(from / DIM, c);
		assert_int_equal(find_line(&o.was, &o.is, HEADS * DIM, k,
					   col_of), h * DIM + from % DIM);
		moved += from != c * DIM + d;
	}
	assert_true(moved);
	release_pair(&v);
	release_pair(&o);
}

static void test_drop_is_refused(void **state)
{
	struct scratch *s = *state;
	struct options drop = { .to = &qf_gptq, .order = REPACK_DROP };
	struct kind q = { .group_size = 32, .bits = 4, .all = "q_proj" };
	struct kind up = { .group_size = 32, .bits = 4, .all = "up_proj" };
	struct kind o = { .group_size = 8, .bits = 4, .o_mixed = true };
	char a[96], b[96];

	names(s, a, b);
	make_llama(a, &q);
	refused(a, b, &drop, shapes[0].name, "residual stream");
	make_llama(a, &up);
	refused(a, b, &drop, shapes[5].name, "residual stream");
	make_llama(a, &o);
	refused(a, b, &drop, shapes[3].name, "different heads");
}

/* ---- sorted rows ---- */

static void test_sort_and_back(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .all = "_proj" };
	struct options sort = { .to = &qf_gptq_v2, .order = REPACK_SORT };
	struct options keep = { .to = &qf_gptq_v2 };
	const struct tensor *g, *p;
	struct repack_report r;
	char a[96], b[96], c[96];
	struct model *m;
	struct err err;

	names(s, a, b);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	make_llama(a, &kind);
	r = repack(a, b, &sort);
	assert_int_equal(r.layers, 7);
	must(model_open(b, 0, &m, &err), &err);
	g = model_find(m, BLOCK "mlp.down_proj.g_idx");
	p = model_find(m, BLOCK "mlp.down_proj.perm");
	assert_non_null(g);
	assert_non_null(p);
	for (uint32_t k = 0; k < INTER; k++)
		assert_int_equal(half_le32((const uint8_t *)g->data + 4 * k),
				 k / 32);
	model_close(m);
	/* sorted already: copied.  In order again: the file that was */
	assert_int_equal(repack(b, c, &sort).layers, 0);
	r = repack(b, c, &keep);
	assert_int_equal(r.layers, 7);
	assert_same_file(a, c, "model.safetensors");
}

/* A permutation that is none is an input error. */
static void test_a_damaged_permutation(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .all = "q_proj" };
	struct options sort = { .to = &qf_gptq_v2, .order = REPACK_SORT };
	char a[96], b[96], path[128];
	struct model *m;
	struct err err;
	struct ql ql;
	uint64_t at;
	FILE *f;

	names(s, a, b);
	make_llama(a, &kind);
	repack(a, b, &sort);
	must(model_open(b, 0, &m, &err), &err);
	at = model_find(m, BLOCK "self_attn.q_proj.perm")->offset;
	model_close(m);
	snprintf(path, sizeof(path), "%s/model.safetensors", b);
	f = fopen(path, "r+b");
	assert_non_null(f);
	fseek(f, (long)at, SEEK_SET);
	fwrite("\1\0\0\0\1\0\0\0", 1, 8, f);
	fclose(f);
	must(model_open(b, 0, &m, &err), &err);
	assert_int_equal(survey_read(m, model_module(m, shapes[0].name), &ql,
				     &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_non_null(strstr(err.msg, "no permutation"));
	model_close(m);
}

/* ---- groups, bits, sizes ---- */

static void test_split_and_widen(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 3, .down = true };
	struct options opt = { .to = &qf_gptq, .group_size = 16, .bits = 4 };
	struct survey sv;
	char a[96], b[96];
	struct model *m;
	struct err err;

	names(s, a, b);
	make_llama(a, &kind);
	assert_int_equal(repack(a, b, &opt).layers, 7);
	must(model_open(b, 0, &m, &err), &err);
	must(survey_model(m, &sv, &err), &err);
	assert_int_equal(sv.odd, 0);
	assert_int_equal(sv.bits, 4);
	assert_int_equal(sv.group_size, 16);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 16);
	assert_null(m->quant.dynamic);
	survey_release(&sv);
	model_close(m);
}

static void test_split_and_widen_are_refused(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4 };
	struct options join = { .to = &qf_gptq, .group_size = 64 };
	struct options odd = { .to = &qf_gptq, .group_size = 24 };
	struct options less = { .to = &qf_gptq, .bits = 3 };
	struct repack_step *steps;
	const struct options *all[] = { &join, &odd, &less };
	char a[96], b[96];
	struct err err;

	names(s, a, b);
	make_llama(a, &kind);
	for (int i = 0; i < 3; i++) {
		struct opened o;
		uint32_t n;

		open_job(&o, a, b, all[i]);
		must(repack_plan(&o.job, &steps, &n, &err), &err);
		assert_int_equal(n, 7);
		free(steps);
		close_job(&o);
	}
}

static void test_pad(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .down = true,
			     .biases = true };
	struct options pad = { .to = &qf_gptq, .pad_mlp = 128 };
	struct options less = { .to = &qf_gptq_v2, .pad_mlp = 32 };
	struct options all = { .to = &qf_gptq, .pad_mlp = 128, .bits = 8,
			       .order = REPACK_DROP, .group_size = 16 };
	char a[96], b[96];
	struct pair up;
	float row[HIDDEN];

	names(s, a, b);
	make_llama(a, &kind);
	repack(a, b, &pad);
	assert_int_equal(config_number(b, "intermediate_size"), 128);
	read_pair(a, b, shapes[5].name, &up);
	assert_int_equal(up.is.spec.out, 128);
	ql_dequant_row(&up.is, 127, row);
	for (int k = 0; k < HIDDEN; k++)
		assert_true(row[k] >= 0 && row[k] <= 0);
	release_pair(&up);
	/* 96 is a multiple of 32 */
	assert_int_equal(repack(a, b, &less).layers, 0);
	assert_int_equal(config_number(b, "intermediate_size"), 96);
	repack(a, b, &all);
	assert_int_equal(config_number(b, "intermediate_size"), 128);
	assert_int_equal(config_number(b, "quantization_config.bits"), 8);
	assert_int_equal(config_number(b, "quantization_config.group_size"),
			 16);
	assert_false(config_number(b, "quantization_config.desc_act"));
}

static void test_pad_to_dense(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4, .dense_up = true };
	struct options pad = { .type = DT_F32, .pad_mlp = 100 };
	char a[96], b[96];

	names(s, a, b);
	make_llama(a, &kind);
	assert_int_equal(repack(a, b, &pad).moved, 1);
	assert_int_equal(config_number(b, "intermediate_size"), 100);
}

static void test_pad_is_refused(void **state)
{
	struct scratch *s = *state;
	struct kind kind = { .group_size = 32, .bits = 4 };
	struct options pad = { .to = &qf_gptq, .pad_mlp = 100 };
	char a[96], b[96];

	names(s, a, b);
	make_llama(a, &kind);
	refused(a, b, &pad, shapes[6].name, "--pad-mlp 800");
}

/* ---- scales ---- */

/* BF16 scales become F16 where each is exact in it: on demand, and where the
 * target has no other. */
static void test_scales_of_another_type(void **state)
{
	static const struct qfmt *const to[] = { &qf_gptq_v2, &qf_marlin,
						 &qf_awq };
	struct scratch *s = *state;
	struct ql_spec spec = { .out = 256, .in = 256, .groups = 2,
		.group_size = 128, .bits = 4, .sym = 1,
		.scale_type = DT_BF16 };
	char a[96], b[96], c[96];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	snprintf(c, sizeof(c), "%s/c", s->dir);
	for (int small = 0; small < 2; small++)
		for (size_t i = 0; i < 3; i++) {
			struct options there = { .to = to[i],
						 .scales = DT_F16 };
			struct options back = { .to = &qf_gptq,
						.scales = DT_BF16 };
			struct make m = { .count = 0 };
			struct ql ql;

			random_layer(&ql, &spec, 1);
			for (uint32_t k = 0; k < 512; k++)
				ql.scale[k] = (float)(1 + rnd(255)) / 65536;
			if (small) /* 2^-25 */
				ql.scale[100] = 1.0f / (1u << 25);
			make_layer(&m, "model.layers.0.mlp.up_proj", &ql,
				   &qf_gptq, NULL);
			ql_release(&ql);
			make_write(&m, a, "{\"quant_method\": \"gptq\", "
				   "\"bits\": 4, \"group_size\": 128, "
				   "\"desc_act\": false, \"sym\": true}");
			if (small) {
				refused(a, b, &there,
					"model.layers.0.mlp.up_proj",
					"is not exact in F16");
				continue;
			}
			repack(a, b, &there);
			repack(b, c, &back);
			assert_same_file(a, c, "model.safetensors");
		}
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_drop_in_down),
		CASE(test_drop_with_a_dense_neighbour),
		CASE(test_drop_in_o),
		CASE(test_drop_is_refused),
		CASE(test_sort_and_back),
		CASE(test_a_damaged_permutation),
		CASE(test_split_and_widen),
		CASE(test_split_and_widen_are_refused),
		CASE(test_pad),
		CASE(test_pad_to_dense),
		CASE(test_scales_of_another_type),
		CASE(test_pad_is_refused),
	};

	return cmocka_run_group_tests_name("repack_ops", tests, NULL, NULL);
}
