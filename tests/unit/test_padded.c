/* Layers that store more outputs than the model has, filled up to a multiple of
 * 32: read, reported, and written without what is behind the last output. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/doctor.h"
#include "../../libfmt/layout/bits.h"
#include "sick.h"

#define JUNK 0xA7 /* what stands in the padding, read by nobody */

/* n rows of `from` bytes as rows of `to`, junk behind them; frees the old. */
static void *widen_rows(void *old, uint64_t n, uint64_t from, uint64_t to)
{
	uint8_t *wide = malloc(n * to);

	memset(wide, JUNK, n * to);
	for (uint64_t i = 0; i < n; i++)
		memcpy(wide + i * to, (uint8_t *)old + i * from, from);
	free(old);
	return wide;
}

/* The same of a row of fields, which may end inside a word. */
static void *widen_fields(void *old, uint32_t rows, uint32_t bits, uint32_t out,
			  uint32_t width)
{
	uint64_t from = bits_words(&bits_stream, bits, out);
	uint64_t to = bits_words(&bits_stream, bits, width);
	uint8_t *words = malloc(rows * to * 4), *field = malloc(width);

	for (uint32_t g = 0; g < rows; g++) {
		memset(field, JUNK, width);
		bits_unpack(&bits_stream, bits, (uint8_t *)old + 4 * g * from,
			    1, out, field, 1);
		bits_pack(&bits_stream, bits, field, 1, width,
			  words + 4 * g * to, 1);
	}
	free(old);
	free(field);
	return words;
}

static uint32_t padded(uint32_t out)
{
	return (out + 31) / 32 * 32;
}

/* ---- one layer ---- */

/* qweight, qzeros and scales of p, a layer of `ql`, padded. */
static void pad_parts(struct parts *p, const struct ql *ql)
{
	const struct ql_spec *s = &ql->spec;
	uint32_t width = padded(s->out);
	struct tensor *codes = &p->tensor[0], *zeros = &p->tensor[1];
	struct tensor *scales = &p->tensor[2];
	uint64_t size = tensor_dtype_bits(s->scale_type) / 8;

	p->part[0] = widen_rows(p->part[0], codes->dim[0], 4 * s->out,
				4 * width);
	p->part[1] = widen_fields(p->part[1], s->groups, s->bits, s->out,
				  width);
	p->part[2] = widen_rows(p->part[2], s->groups, size * s->out,
				size * width);
	codes->dim[1] = scales->dim[1] = width;
	codes->size = 4 * codes->dim[0] * width;
	zeros->dim[1] = bits_words(&bits_stream, s->bits, width);
	zeros->size = 4 * zeros->dim[0] * zeros->dim[1];
	scales->size = size * s->groups * width;
	for (int i = 0; i < 3; i++)
		p->tensor[i].data = p->part[i];
}

static void same_layer(const struct ql *a, const struct ql *b)
{
	size_t n = (size_t)a->spec.out * a->spec.groups;

	assert_memory_equal(&a->spec, &b->spec, sizeof(a->spec));
	assert_memory_equal(a->code, b->code, (size_t)a->spec.out * a->spec.in);
	assert_memory_equal(a->scale, b->scale, n * sizeof(*a->scale));
	assert_memory_equal(a->zero, b->zero, n * sizeof(*a->zero));
}

/* Every width, sym and not, ends inside a tile and a word and at their edges,
 * K that fills no word; also what only a glance sees of it. */
static void test_every_width(void **state)
{
	static const uint8_t widths[] = { 2, 3, 4, 8 };
	static const uint32_t outs[] = { 1, 33, 40, 63, 95, 97 };

	(void)state;
	for (uint32_t i = 0; i < 4 * 6 * 4; i++) {
		const struct qfmt *f = i / 24 & 1 ? &qf_gptq : &qf_gptq_v2;
		struct ql_spec spec = base, seen;
		struct qf_hint hint = { .sym = -1, .desc_act = -1,
			.group_size = 32, .format = f->name };
		struct qf_layer l = { .hint = &hint };
		struct ql_packed stored;
		struct parts p;
		struct ql a, b;
		struct err err;

		spec.bits = hint.bits = widths[i % 4];
		spec.out = hint.out = outs[i / 4 % 6];
		spec.in = hint.in = 83;
		spec.sym = i / 48 & 1;
		random_layer(&a, &spec, 1);
		ql_observe(&a); /* a few zeros may be the middle by chance */
		must(parts_write(&p, &a, f, &err), &err);
		pad_parts(&p, &a);
		l.module = &p.module;
		assert_ptr_equal(qf_recognise(&p.module, &hint), f);
		must(f->read(&l, &b, &err), &err);
		assert_int_equal(l.odd, QF_ODD_OUTPUTS);
		same_layer(&a, &b);
		l.glance = true;
		must(f->spec(&l, &seen, &err), &err);
		assert_memory_equal(&seen, &a.spec, sizeof(seen));
		/* devices that take words as they are do not take these */
		assert_int_equal(qf_stored(f, &l, &stored, &err), 1);
		ql_release(&a);
		ql_release(&b);
		parts_free(&p);
	}
}

/* A vocabulary that is no multiple of 32, and whose row of zeros is larger than
 * what a glance reads; as it is, and padded. */
static void test_a_glance_at_a_head(void **state)
{
	struct ql_spec spec = base, seen;
	struct qf_hint hint = { .sym = -1, .desc_act = -1, .bits = 4,
		.group_size = 32, .format = "gptq", .out = 32001, .in = 96 };
	struct qf_layer l = { .hint = &hint, .glance = true };
	uint8_t first[4096];
	struct parts p;
	struct ql a;
	struct err err;

	(void)state;
	spec.out = 32001;
	random_layer(&a, &spec, 1);
	must(parts_write(&p, &a, &qf_gptq, &err), &err);
	l.module = &p.module;
	must(qf_gptq.spec(&l, &seen, &err), &err);
	assert_int_equal(seen.out, 32001);
	assert_int_equal(l.odd, 0);
	pad_parts(&p, &a);
	assert_int_equal(qf_glance(&p.tensor[1]), sizeof(first));
	memcpy(first, p.tensor[1].data, sizeof(first));
	p.tensor[1].data = first;
	must(qf_gptq.spec(&l, &seen, &err), &err);
	assert_int_equal(seen.out, 32001);
	assert_false(seen.sym);
	assert_int_equal(l.odd, QF_ODD_OUTPUTS);
	ql_release(&a);
	parts_free(&p);
}

/* Any other difference is none of padding, and stays what it is. */
static void test_what_is_no_padding(void **state)
{
	(void)state;
	assert_int_equal(qf_outputs(64, 33), 33);
	assert_int_equal(qf_outputs(64, 63), 63);
	assert_int_equal(qf_outputs(64, 64), 64);
	assert_int_equal(qf_outputs(64, 32), 64);
	assert_int_equal(qf_outputs(96, 33), 96);
	assert_int_equal(qf_outputs(33, 64), 33);
	assert_int_equal(qf_outputs(64, 0), 64);
	assert_int_equal(qf_outputs(64, UINT32_MAX), 64);
}

/* ---- a model ---- */

/* Sizes of which none is a multiple of 32: hidden 40, two heads of 20, one of
 * keys, MLP 72, 33 words, the head quantized as well. */
#define CONFIG "{\"architectures\": [\"LlamaForCausalLM\"], "                  \
	"\"model_type\": \"llama\", \"hidden_size\": 40, "                     \
	"\"intermediate_size\": 72, \"num_hidden_layers\": 1, "                \
	"\"num_attention_heads\": 2, \"num_key_value_heads\": 1, "             \
	"\"vocab_size\": 33, \"tie_word_embeddings\": false, "                 \
	"\"quantization_config\": {\"bits\": 4, \"group_size\": 8, "           \
	"\"desc_act\": false, \"sym\": false, \"lm_head\": true, "             \
	"\"quant_method\": \"gptq\", \"checkpoint_format\": \"gptq\"}}"

static const struct {
	const char *name;
	uint32_t in, out;
} linear[] = {
	{ "lm_head", 40, 33 },
	{ "model.layers.0.mlp.down_proj", 72, 40 },
	{ "model.layers.0.mlp.gate_proj", 40, 72 },
	{ "model.layers.0.mlp.up_proj", 40, 72 },
	{ "model.layers.0.self_attn.k_proj", 40, 20 },
	{ "model.layers.0.self_attn.o_proj", 40, 40 },
	{ "model.layers.0.self_attn.q_proj", 40, 40 },
	{ "model.layers.0.self_attn.v_proj", 40, 20 },
};
#define LINEARS (sizeof(linear) / sizeof(*linear))

/* The last five tensors of m, a layer with a bias, as they are when padded. */
static void pad_last(struct make *m, uint32_t out, uint32_t groups)
{
	uint32_t at = m->count - 5, width = padded(out);

	for (uint32_t i = at; i < m->count; i++) {
		struct ckpt_item *it = &m->item[i];
		const char *suffix = strrchr(it->name, '.') + 1;
		void **data = &m->data[i];
		int last = it->rank - 1;

		if (!strcmp(suffix, "g_idx"))
			continue;
		if (!strcmp(suffix, "qzeros"))
			*data = widen_fields(*data, groups, 4, out, width);
		else
			*data = widen_rows(*data, last ? it->dim[0] : 1,
				(it->type == DT_I32 ? 4 : 2) * out,
				(it->type == DT_I32 ? 4 : 2) * width);
		it->data = *data;
		it->dim[last] = !strcmp(suffix, "qzeros") ? width / 8 : width;
	}
}

static void make_llama(const char *dir, bool pad, const char *config)
{
	struct make m = { .count = 0 };

	parts_seed = 7; /* both models are of the same values */
	for (size_t i = 0; i < LINEARS; i++) {
		struct ql_spec spec = base;
		struct ql ql;

		spec.in = linear[i].in;
		spec.out = linear[i].out;
		spec.group_size = 8;
		spec.groups = spec.in / 8;
		random_layer(&ql, &spec, 1);
		make_layer(&m, linear[i].name, &ql, &qf_gptq, NULL);
		make_f16(&m, linear[i].name, "bias", spec.out, 0);
		if (pad)
			pad_last(&m, spec.out, spec.groups);
		ql_release(&ql);
	}
	make_f16(&m, "model.embed_tokens", "weight", 33, 40);
	make_f16(&m, "model.layers.0.input_layernorm", "weight", 40, 0);
	make_f16(&m, "model.layers.0.post_attention_layernorm", "weight", 40,
		 0);
	make_f16(&m, "model.norm", "weight", 40, 0);
	make_write(&m, dir, NULL);
	sick_text(dir, "config.json", config);
}

static bool reported(const struct model *m, const struct survey *s)
{
	struct doctor d;
	struct err err;
	bool hit = false;

	must(doctor_examine(m, s, &d, &err), &err);
	for (uint32_t i = 0; i < d.count; i++) {
		const struct doctor_problem *p = &d.problem[i];

		if (strcmp(p->code, "layer-padded"))
			continue;
		hit = true;
		assert_int_equal(p->severity, DOCTOR_ERROR);
		assert_non_null(strstr(p->fix, "--fix"));
	}
	doctor_release(&d);
	return hit;
}

/* What is read is what the model without padding is, and it is said. */
static void test_read_and_reported(void **state)
{
	struct scratch *s = *state;
	char a[96], b[96];
	struct survey sa, sb;
	struct model *ma, *mb;
	struct err err;

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_llama(a, true, CONFIG);
	make_llama(b, false, CONFIG);
	must(model_open(a, 0, &ma, &err), &err);
	must(model_open(b, 0, &mb, &err), &err);
	must(survey_model(ma, &sa, &err), &err);
	must(survey_model(mb, &sb, &err), &err);
	must(llama_check(ma, model_llama(ma), &err), &err);
	must(llama_check(mb, model_llama(mb), &err), &err);
	assert_int_equal(sa.count, LINEARS);
	assert_int_equal(sa.odd & ~sb.odd, QF_ODD_OUTPUTS);
	assert_int_equal(sa.parameters, sb.parameters);
	for (uint32_t i = 0; i < sa.count; i++) {
		const char *name = sa.layer[i].module->name;
		struct ql qa, qb;

		must(survey_read(ma, sa.layer[i].module, &qa, &err), &err);
		must(survey_read(mb, model_module(mb, name), &qb, &err), &err);
		same_layer(&qa, &qb);
		ql_release(&qa);
		ql_release(&qb);
	}
	assert_true(reported(ma, &sa));
	assert_false(reported(mb, &sb));
	survey_release(&sa);
	survey_release(&sb);
	model_close(ma);
	model_close(mb);
}

/* The same bytes as from the model without padding, whatever the target. */
static void test_repacked(void **state)
{
	static const struct qfmt *const to[] = { &qf_gptq, &qf_gptq_v2, &qf_ct,
						 NULL };
	struct scratch *s = *state;
	char a[96], b[96], c[96], d[96];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	snprintf(b, sizeof(b), "%s/b", s->dir);
	make_llama(a, true, CONFIG);
	make_llama(b, false, CONFIG);
	for (size_t i = 0; i < sizeof(to) / sizeof(*to); i++) {
		struct options opt = { .to = to[i] };

		snprintf(c, sizeof(c), "%s/c%zu", s->dir, i);
		snprintf(d, sizeof(d), "%s/d%zu", s->dir, i);
		assert_int_equal(repack(a, c, &opt).layers, LINEARS);
		repack(b, d, &opt);
		assert_same_file(c, d, "model.safetensors");
		assert_same_file(c, d, "config.json");
	}
}

/* Without a model that says how many outputs there are, all are the layer's. */
static void test_without_the_models_sizes(void **state)
{
	struct scratch *s = *state;
	struct survey survey;
	struct model *m;
	struct err err;
	char a[96];

	snprintf(a, sizeof(a), "%s/a", s->dir);
	make_llama(a, true, "{\"model_type\": \"x\"}");
	must(model_open(a, 0, &m, &err), &err);
	must(survey_model(m, &survey, &err), &err);
	assert_int_equal(survey.odd & QF_ODD_OUTPUTS, 0);
	assert_int_equal(survey.layer[0].spec.out, 64);
	assert_true(tensor_is_shape(model_find(m, "lm_head.bias"), 1, 64, 0));
	survey_release(&survey);
	model_close(m);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_width),
		cmocka_unit_test(test_a_glance_at_a_head),
		cmocka_unit_test(test_what_is_no_padding),
		CASE(test_read_and_reported),
		CASE(test_repacked),
		CASE(test_without_the_models_sizes),
	};

	return cmocka_run_group_tests_name("padded", tests, NULL, NULL);
}
