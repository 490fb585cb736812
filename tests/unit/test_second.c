/* Checkpoints without a config: markers, metadata and names as hints. */
#include "../../libfmt/base/json.h"
#include "../../libfmt/model_second.h"
#include "sick.h"

static void test_names(void **state)
{
	static const struct {
		const char *name;
		uint32_t bits;
		int group, act;
	} row[] = {
		{ "4bit-128g.safetensors", 4, 128, -1 },
		{ "gptq_model-4bit-128g.safetensors", 4, 128, -1 },
		{ "gptq_model-4bit--1g.safetensors", 4, -1, -1 },
		{ "gptq_model-3bit.safetensors", 3, 0, -1 },
		{ "llama-7b-4bit.pt", 4, 0, -1 },
		{ "vicuna-13B-1.1-GPTQ-4bit-128g.no-act-order.safetensors",
		  4, 128, 0 },
		{ "koala-13B-4bit-128g.act-order.safetensors", 4, 128, 1 },
		{ "wizard-GPTQ-4bit-32g.compat.no-act-order.safetensors", 4,
		  32, 0 },
		{ "gptq-8bit--1g-actorder_True", 8, -1, 1 },
		{ "gptq-4bit-32g-actorder_False", 4, 32, 0 },
		{ "Llama-2-7B-8-bits-64g.bin", 8, 64, -1 },
		{ "x-2_BIT.safetensors", 2, 0, -1 },
		{ "model.safetensors", 0, 0, -1 },
		{ "orbit-128g.safetensors", 0, 0, -1 },
		{ "x-14bit.safetensors", 0, 0, -1 },
		{ "x-5bit.safetensors", 0, 0, -1 },
		{ "4bit-128gb.safetensors", 4, 0, -1 },
		{ "4bit-99999999999999999999g.safetensors", 4, 0, -1 },
		{ "bit", 0, 0, -1 },
		{ "", 0, 0, -1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		struct config_quant q = { .desc_act = -1, .sym = -1 };
		int said = model_second_name(row[i].name, &q);

		if (q.bits != row[i].bits || q.group_size != row[i].group ||
		    q.desc_act != row[i].act || said != (row[i].bits != 0))
			fail_msg("%s: %u bits, group %d, act %d", row[i].name,
				 q.bits, q.group_size, q.desc_act);
	}
}

static struct model *opened(const char *path)
{
	struct model *m = NULL;
	struct err err;

	must(model_open(path, 0, &m, &err), &err);
	return m;
}

static void marker(struct make *m, const char *name, enum dtype type,
		   int rank, uint64_t value)
{
	struct ckpt_item *it = make_item(m, "x", "x", 8);

	strcpy(m->name[m->count - 1], name);
	half_put64(m->data[m->count - 1], value);
	it->type = type;
	it->rank = rank;
	it->dim[0] = 1;
}

static void unmarked_sym(struct make *m)
{
	marker(m, "gptq_bits", DT_I64, 0, 4);
	marker(m, "gptq_groupsize", DT_I64, 0, 32);
}

static void marked_sym(struct make *m)
{
	marker(m, "gptq_bits", DT_I32, 1, 4);
	marker(m, "gptq_groupsize", DT_I32, 1, (uint64_t)-1);
	marker(m, "gptq_sym", DT_BOOL, 0, 1);
}

static void one_marker(struct make *m)
{
	marker(m, "gptq_bits", DT_I64, 0, 4);
	marker(m, "gptq_groupsize", DT_F32, 0, 32);
}

/* Without gptq_sym they speak of asymmetric zeros; half of them say nothing. */
static void test_markers(void **state)
{
	struct scratch *s = *state;
	struct sick sick = { .quant = "", .tweak = unmarked_sym };
	struct model *m;
	char dir[96];

	snprintf(dir, sizeof(dir), "%s/a", s->dir);
	sick_make(dir, &sick);
	m = opened(dir);
	assert_int_equal(m->quant.source, CONFIG_INFERRED);
	assert_string_equal(m->quant.second, "the marker tensors");
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 32);
	assert_int_equal(m->quant.sym, 0);
	assert_int_equal(m->quant.desc_act, 0);
	model_close(m);
	sick.tweak = marked_sym;
	snprintf(dir, sizeof(dir), "%s/b", s->dir);
	sick_make(dir, &sick);
	m = opened(dir);
	assert_int_equal(m->quant.group_size, -1);
	assert_int_equal(m->quant.sym, 1);
	model_close(m);
	sick.tweak = one_marker;
	snprintf(dir, sizeof(dir), "%s/c", s->dir);
	sick_make(dir, &sick);
	m = opened(dir);
	assert_null(m->quant.second);
	assert_int_equal(m->quant.bits, 0);
	model_close(m);
}

/* One layer and the metadata that AutoGPTQ writes. */
static void with_meta(const char *path, const char *const meta[][2], size_t n)
{
	static const struct ql_spec spec = { .out = 64, .in = 64, .groups = 2,
		.group_size = 32, .bits = 4, .sym = 1, .scale_type = DT_F16 };
	struct st_writer *w;
	struct parts p;
	struct err err;
	struct ql ql;
	uint32_t id;

	random_layer(&ql, &spec, 1);
	must(parts_write(&p, &ql, &qf_gptq, &err), &err);
	must(st_writer_new(&w, &err), &err);
	for (uint32_t i = 0; i < p.plan.count; i++)
		must(st_writer_add(w, p.tensor[i].name, p.tensor[i].type,
				   p.tensor[i].rank, p.tensor[i].dim, &id,
				   &err), &err);
	for (size_t i = 0; i < n; i++)
		must(st_writer_meta(w, meta[i][0], meta[i][1], &err), &err);
	must(st_writer_create_file(w, path, &err), &err);
	for (uint32_t i = 0; i < p.plan.count; i++)
		must(st_writer_pour(w, i, 0, p.part[i], p.plan.part[i].bytes,
				    &err), &err);
	must(st_writer_commit(w, &err), &err);
	st_writer_free(w);
	parts_free(&p);
	ql_release(&ql);
}

static void test_metadata(void **state)
{
	static const char *const good[][2] = {
		{ "auto_gptq_version", "0.7.1" }, { "gptq_bits", "4" },
		{ "gptq_group_size", "32" }, { "gptq_desc_act", "True" },
		{ "gptq_checkpoint_format", "gptq" },
	};
	static const char *const odd[][2] = {
		{ "gptq_bits", "four" }, { "gptq_group_size", "0" },
		{ "gptq_desc_act", "perhaps" },
		{ "gptq_checkpoint_format", "gptq_v2" },
	};
	struct scratch *s = *state;
	struct model *m;

	with_meta(scratch_path(s, "model.safetensors"), good, 5);
	m = opened(s->dir);
	assert_string_equal(m->quant.second, "the file's metadata");
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 32);
	assert_int_equal(m->quant.desc_act, 1);
	assert_string_equal(m->quant.format, "gptq");
	model_close(m);
	with_meta(scratch_path(s, "model.safetensors"), odd, 4);
	m = opened(s->dir);
	assert_null(m->quant.second);
	assert_null(m->quant.format);
	model_close(m);
	/* a config is believed before the name of a file */
	with_meta(scratch_path(s, "model.safetensors"), NULL, 0);
	assert_int_equal(rename(scratch_path(s, "model.safetensors"),
				scratch_path(s, "x-8bit-64g.safetensors")), 0);
	scratch_write(s, "quantize_config.json", "{\"bits\": 4}", 11);
	m = opened(s->dir);
	assert_int_equal(m->quant.bits, 4);
	assert_int_equal(m->quant.group_size, 0);
	model_close(m);
}

/* The folder's name speaks where the file's does not; tensors win over both. */
static void test_folder(void **state)
{
	struct scratch *s = *state;
	struct survey survey;
	struct model *m;
	char dir[96], path[128];
	struct err err;

	snprintf(dir, sizeof(dir), "%s/gptq-8bit-128g-actorder_False", s->dir);
	mkdir(dir, 0777);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	with_meta(path, NULL, 0);
	m = opened(dir);
	assert_string_equal(m->quant.second, "the name");
	assert_int_equal(m->quant.bits, 8);
	must(survey_model(m, &survey, &err), &err);
	assert_int_equal(survey.bits, 4);
	assert_int_equal(survey.group_size, 32);
	assert_true(survey.odd & QF_ODD_BITS);
	survey_release(&survey);
	model_close(m);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		CASE(test_markers),
		CASE(test_metadata),
		CASE(test_folder),
	};

	return cmocka_run_group_tests_name("second", tests, NULL, NULL);
}
