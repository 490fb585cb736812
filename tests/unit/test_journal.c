/* The journal of a job: what a later run believes of it. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/io.h"
#include "../../libfmt/base/json.h"
#include "../../quant/identity.h"
#include "../../quant/journal.h"
#include "scratch.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

static struct gq_journal *opened(struct scratch *s, enum gq_journal_how how)
{
	struct gq_journal *j;
	struct err err;

	if (gq_journal_open(scratch_path(s, "q"), how, &j, &err))
		fail_msg("%s", err.msg);
	return j;
}

static void refused(struct scratch *s, enum gq_journal_how how, int code,
		    const char *says)
{
	struct gq_journal *j;
	struct err err;

	assert_int_equal(gq_journal_open(scratch_path(s, "q"), how, &j, &err),
			 -1);
	assert_null(j);
	assert_int_equal(err.code, code);
	if (!strstr(err.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
}

static struct cJSON *identity(const char *bits)
{
	struct cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "version", "1");
	cJSON_AddStringToObject(o, "bits", bits);
	return o;
}

static int bind(struct gq_journal *j, const char *bits, struct err *err)
{
	struct cJSON *o = identity(bits);
	int ret = gq_journal_bind(j, o, err);

	json_free(o);
	return ret;
}

static const struct gq_layer_report report = {
	.name = "model.layers.0.mlp.up_proj", .in = 7, .out = 9,
	.seconds = 0.1, .r = { .loss = 1.0 / 3, .rel_error = 1e-300,
			       .damp = 0.01, .dead = 2 },
};

/* A job with one block done. */
static void one_block(struct scratch *s)
{
	struct gq_journal *j = opened(s, GQ_JOURNAL_NEW);
	struct cJSON *rows = cJSON_CreateArray();
	struct err err;

	assert_int_equal(mkdir(gq_journal_out(j), 0777), 0);
	assert_int_equal(bind(j, "4", &err), 0);
	assert_int_equal(gq_journal_lay_out(j, &err), 0);
	cJSON_AddItemToArray(rows, gq_journal_row(&report, "abc"));
	assert_int_equal(gq_journal_add(j, rows, &err), 0);
	gq_journal_close(j);
}

static void append(struct scratch *s, const char *text)
{
	FILE *f = fopen(scratch_path(s, ".q.partial/journal"), "a");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void test_comes_back(void **state)
{
	struct scratch *s = *state;
	struct gq_layer_report r;
	struct gq_journal *j;
	const char *hash;
	struct err err;

	one_block(s);
	refused(s, GQ_JOURNAL_NEW, ERR_USAGE, "1 block done");
	append(s, "{\"block\":1,\"linea"); /* cut off by a crash */
	j = opened(s, GQ_JOURNAL_RESUME);
	refused(s, GQ_JOURNAL_RESUME, ERR_OUTPUT, "another run");
	assert_int_equal(gq_journal_blocks(j), 1);
	assert_true(gq_journal_laid_out(j));
	assert_int_equal(bind(j, "3", &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
	assert_non_null(strstr(err.msg, "bits differs: \"3\" here, \"4\""));
	assert_int_equal(bind(j, "4", &err), 0);
	assert_int_equal(gq_journal_read_row(
		json_first(gq_journal_linears(j, 0)), &r, &hash, &err), 0);
	assert_string_equal(r.name, report.name);
	assert_string_equal(hash, "abc");
	assert_true(r.r.loss == report.r.loss);
	assert_true(r.r.rel_error == report.r.rel_error);
	assert_int_equal(r.r.dead, 2);
	assert_int_equal(r.out, 9);
	/* the torn line is overwritten */
	assert_int_equal(gq_journal_add(j, cJSON_CreateArray(), &err), 0);
	gq_journal_close(j);
	j = opened(s, GQ_JOURNAL_RESUME);
	assert_int_equal(gq_journal_blocks(j), 2);
	gq_journal_finish(j);
	gq_journal_close(j);
	assert_false(io_is_dir(scratch_path(s, ".q.partial")));
}

static void test_nothing_worth_keeping(void **state)
{
	struct scratch *s = *state;
	struct gq_journal *j;
	struct err err;

	/* no block: gone when it is closed, begun anew where it was killed */
	j = opened(s, GQ_JOURNAL_NEW);
	assert_int_equal(bind(j, "4", &err), 0);
	gq_journal_close(j);
	assert_false(io_is_dir(scratch_path(s, ".q.partial")));
	one_block(s);
	/* the folder got its name, and then the run was killed */
	assert_int_equal(rmdir(scratch_path(s, ".q.partial/out")), 0);
	j = opened(s, GQ_JOURNAL_NEW);
	assert_int_equal(gq_journal_blocks(j), 0);
	gq_journal_close(j);
	one_block(s);
	j = opened(s, GQ_JOURNAL_DISCARD);
	assert_int_equal(gq_journal_blocks(j), 0);
	gq_journal_close(j);
	assert_false(io_is_dir(scratch_path(s, ".q.partial")));
}

static void test_not_believed(void **state)
{
	static const char *const bad[] = {
		"{\"block\":2,\"linears\":[]}\n", "{\"block\":1}\n",
		"{\"block\":1,\"linears\":7}\n", "[]\n", "what\n", "\n",
	};
	struct scratch *s = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		one_block(s);
		append(s, bad[i]);
		refused(s, GQ_JOURNAL_RESUME, ERR_INPUT, "journal");
		gq_journal_close(opened(s, GQ_JOURNAL_DISCARD));
	}
	/* somebody's own directory is left alone */
	assert_int_equal(mkdir(scratch_path(s, ".q.partial"), 0777), 0);
	assert_non_null(scratch_write(s, ".q.partial/diary", "x", 1));
	refused(s, GQ_JOURNAL_DISCARD, ERR_OUTPUT, "in the way");
	assert_true(io_is_file(scratch_path(s, ".q.partial/diary")));
	unlink(scratch_path(s, ".q.partial/diary"));
	rmdir(scratch_path(s, ".q.partial"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_comes_back, scratch_open,
						scratch_close),
		cmocka_unit_test_setup_teardown(test_nothing_worth_keeping,
						scratch_open, scratch_close),
		cmocka_unit_test_setup_teardown(test_not_believed,
						scratch_open, scratch_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
