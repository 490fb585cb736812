/* Files as llama.cpp's own quantizer makes them, which ours does not: the
 * embeddings and the head in blocks too, the head in wider ones, and scales of
 * both signs. */
#include "convert.h"
#include "ok.h"
#include "scratch.h"
#include "synth.h"

#include "../../libfmt/check.h"
#include "../../libfmt/container/gguf.h"
#include "../../libfmt/model.h"
#include "../../libfmt/repack.h"

#include <sys/stat.h>

static struct err err;

static const struct synth shape = {
	"LlamaForCausalLM", 256, 256, 1, 4, 2, 64, 50, 64, .type = DT_F16,
	.more = ""
};

/* ---- making one ---- */

static const struct blocks {
	enum dtype type;
	uint32_t elements, bytes, scale; /* of a block; where its scale is */
} q8_0 = { DT_Q8_0, 32, 34, 0 }, q6_k = { DT_Q6_K, 256, 210, 208 },
  q4_0 = { DT_Q4_0, 32, 18, 0 };

static const struct blocks *blocks_of(const struct tensor *t)
{
	if (t->rank < 2)
		return NULL;
	if (!strcmp(t->name, "token_embd.weight"))
		return &q8_0;
	return strcmp(t->name, "output.weight") ? &q4_0 : &q6_k;
}

/* Random codes; every other scale is negative. */
static void pour(struct st_writer *w, uint32_t id, const struct tensor *t)
{
	const struct blocks *b = blocks_of(t);
	uint64_t count = b ? t->dim[0] * t->dim[1] / b->elements : 0;
	uint64_t bytes = b ? count * b->bytes : t->size;
	uint8_t *data = malloc(bytes);
	uint32_t x = 1;

	assert_non_null(data);
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)synth_next(&x);
	for (uint64_t i = 0; i < count; i++)
		half_put16(data + i * b->bytes + b->scale,
			   (uint16_t)(0x1c00 | (i & 1) << 15));
	OK(st_writer_pour(w, id, 0, b ? data : t->data, bytes, &err));
	free(data);
}

/* The pairs and tensors of `from`. */
static void rewrite(const char *from, const char *to)
{
	struct gguf_meta meta = { .data = NULL };
	struct st_writer *w;
	struct gguf_file f;
	struct src *s;

	OK(io_open(from, &s, &err));
	OK(gguf_open(s, 0, &f, &err));
	OK(st_writer_new(&w, &err));
	for (uint32_t i = 0; i < f.kv_count; i++)
		gguf_put_pair(&meta, &f.kv[i]);
	for (uint32_t i = 0; i < f.count; i++) {
		const struct tensor *t = &f.tensor[i];
		const struct blocks *b = blocks_of(t);
		uint32_t id;

		OK(st_writer_add(w, t->name, b ? b->type : t->type, t->rank,
				 t->dim, &id, &err));
		assert_int_equal(id, i);
	}
	OK(gguf_create(w, to, &meta, &err));
	for (uint32_t i = 0; i < f.count; i++)
		pour(w, i, &f.tensor[i]);
	OK(st_writer_commit(w, &err));
	st_writer_free(w);
	gguf_meta_release(&meta);
	gguf_close(&f);
	io_close(s);
}

/* ---- reading it ---- */

/* Dense, and by the proof equal to what the blocks mean. */
static void is_decoded(const struct model *m, const char *name)
{
	const struct tensor *t = model_find(m, name);

	assert_non_null(t);
	assert_int_equal(t->type, DT_F32);
	assert_true(tensor_is_shape(t, 2, shape.vocab, shape.hidden));
}

static void is_sound(const struct model *m)
{
	struct survey s;
	struct check c;

	OK(survey_model(m, &s, &err));
	OK(check_structure(m, &s, NULL, &c, &err));
	if (c.count)
		fail_msg("%s: %s", c.fault[0].where, c.fault[0].message);
	check_release(&c);
	survey_release(&s);
}

static void test_embeddings_and_head(void **state)
{
	static const struct qfmt *const to[] = { NULL, &qf_gptq, &qf_gptq_v2,
						 &qf_awq };
	char dir[64], plain[80], file[80], out[80];
	struct model *m;

	(void)state;
	synth_make(&shape, dir);
	snprintf(plain, sizeof(plain), "%s/plain.gguf", dir);
	snprintf(file, sizeof(file), "%s/x.gguf", dir);
	snprintf(out, sizeof(out), "%s-out", dir);
	convert(dir, plain, &qf_gguf, DT_F32);
	rewrite(plain, file);
	for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
		mkdir(out, 0777);
		convert(file, out, to[i], DT_F32);
		OK(model_open(out, 0, &m, &err));
		is_decoded(m, LLAMA_EMBED);
		is_decoded(m, LLAMA_HEAD ".weight");
		if (to[i]) /* all else is of 4 bits, no rule needed */
			assert_int_equal(m->quant.bits, 4);
		is_sound(m);
		model_close(m);
		scratch_clear(out);
	}
	scratch_clear(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_embeddings_and_head),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
