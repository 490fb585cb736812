/* q, k and v saved as one (model_fused.h): taken apart they are what they were
 * before, and what is not three linears is left alone. */
#include "../../libfmt/model_fused.h"
#include "ills.h"

/* Four heads of 16, two of keys and values. */
#define FEW_KEYS(hidden) "{\"architectures\": [\"LlamaForCausalLM\"], "        \
	"\"model_type\": \"llama\", \"hidden_size\": " #hidden ", "            \
	"\"intermediate_size\": 128, \"num_hidden_layers\": 1, "               \
	"\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "             \
	"\"head_dim\": 16, \"vocab_size\": 32, \"quantization_config\": "      \
	SICK_QUANT "}"

static void make_attention(struct make *m, uint8_t bits, int32_t group)
{
	static const char *const name[3] = { "q", "k", "v" };
	const struct sick how = {
		.spec = { .bits = bits, .act_order = group > 0,
			  .group_size = group > 0 ? (uint32_t)group : 64 },
		.asym = true
	};

	for (int i = 0; i < 3; i++) {
		char module[64];
		uint32_t out = i ? 32 : 64;

		snprintf(module, sizeof(module), "layers.0.self_attn.%s_proj",
			 name[i]);
		sick_linear(m, &how, module, 64, out);
		make_f16(m, sick_name(&how, module), "bias", out, 0);
	}
}

static void write_model(const struct make *m, const char *dir,
			const char *config)
{
	char path[160];
	struct err err;

	mkdir(dir, 0777);
	snprintf(path, sizeof(path), "%s/model.safetensors", dir);
	must(ckpt_file(path, m->item, m->count, &err), &err);
	sick_text(dir, "config.json", config);
}

static void release(struct make *m)
{
	while (m->count)
		free(m->data[--m->count]);
}

static struct model *tidy(const char *dir)
{
	struct model *m = NULL;
	struct err err;

	must(model_open(dir, MODEL_LENIENT | MODEL_TIDY, &m, &err), &err);
	return m;
}

static void same_tensors(const struct model *a, const struct model *b)
{
	assert_int_equal(a->tensor_count, b->tensor_count);
	for (uint32_t i = 0; i < a->tensor_count; i++) {
		const struct tensor *x = &a->tensor[i], *y = &b->tensor[i];

		assert_string_equal(x->name, y->name);
		assert_int_equal(x->type, y->type);
		assert_int_equal(x->size, y->size);
		assert_int_equal(x->rank, y->rank);
		for (int d = 0; d < x->rank; d++) {
			assert_int_equal(x->dim[d], y->dim[d]);
			assert_int_equal(x->stride[d], y->stride[d]);
		}
		assert_memory_equal(x->data, y->data, x->size);
	}
}

/* All widths, many groups and one, a map each and one for all, biases. */
static void test_parts(void **state)
{
	static const uint8_t bits[] = { 2, 3, 4, 8 };
	struct scratch *s = *state;
	char whole[128], fused[128];

	for (int i = 0; i < 8; i++) {
		struct make m = { .count = 0 };
		struct model *a, *b;
		bool many = i < 4;

		snprintf(whole, sizeof(whole), "%s/whole%d", s->dir, i);
		snprintf(fused, sizeof(fused), "%s/fused%d", s->dir, i);
		make_attention(&m, bits[i % 4], many ? 32 : -1);
		write_model(&m, whole, FEW_KEYS(64));
		fuse(&m, !many);
		fuse_tensor(&m, "bias", false);
		assert_int_equal(m.count, 5);
		write_model(&m, fused, FEW_KEYS(64));
		release(&m);
		a = tidy(whole);
		b = tidy(fused);
		assert_int_equal(a->tensor_count, 15);
		same_tensors(a, b);
		model_close(a);
		model_close(b);
	}
}

static void stays(struct make *m, const char *dir, const char *config)
{
	struct model *is;

	write_model(m, dir, config);
	is = tidy(dir);
	assert_int_equal(is->tensor_count, m->count);
	assert_false(model_is_fused(is, "model.layers.0.self_attn.qkv_proj"));
	model_close(is);
}

static void test_left_alone(void **state)
{
	struct scratch *s = *state;
	struct make m = { .count = 0 };
	uint32_t i;
	char dir[128];

	snprintf(dir, sizeof(dir), "%s/odd", s->dir);
	make_attention(&m, 4, 32);
	fuse(&m, false);
	fuse_tensor(&m, "bias", false);
	/* the maps are of other inputs */
	stays(&m, dir, FEW_KEYS(96));
	/* one more column of scales than codes */
	i = sick_find(&m, "qkv_proj.scales", 0);
	m.item[i].dim[0]--;
	m.item[i].dim[1]++;
	m.item[i].data = NULL;
	stays(&m, dir, FEW_KEYS(64));
	m.item[i].dim[0]++;
	m.item[i].dim[1]--;
	/* a tensor of that name is there */
	make_f16(&m, "model.layers.0.self_attn.k_proj", "bias", 32, 0);
	stays(&m, dir, FEW_KEYS(64));
	m.count--;
	free(m.data[m.count]);
	/* no codes, and no config */
	drop_item(&m, sick_find(&m, "qkv_proj.qweight", 0));
	stays(&m, dir, FEW_KEYS(64));
	release(&m);
	make_attention(&m, 4, 32);
	fuse(&m, false);
	fuse_tensor(&m, "bias", false);
	stays(&m, dir, "{}");
	release(&m);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)

int main(void)
{
	const struct CMUnitTest tests[] = { CASE(test_parts),
					    CASE(test_left_alone) };

	return cmocka_run_group_tests_name("fused", tests, NULL, NULL);
}
