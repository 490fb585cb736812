/* call.c - what several applets do alike on the way to the libraries.
 *
 * The words of the options are those of the applets' tables; what is refused
 * here is refused by all of them in the same sentence. */
#include "call.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/json.h"
#include "../libfmt/layout/qfmt.h"
#include "../libfmt/model.h"

#include <stdlib.h>
#include <string.h>

int call_open_model(const struct call *c, struct model **out, struct err *err)
{
	struct model *odd = NULL;
	struct err ignored;

	if (!model_open(c->model, 0, out, err))
		return 0;
	if (err->code == ERR_INPUT &&
	    !model_open(c->model, MODEL_LENIENT, &odd, &ignored))
		ui_hint(c->ui, "gptq-repack %s -o DIR --fix mends it",
			c->model);
	model_close(odd);
	return -1;
}

int call_device(const struct call *c, const char *kernel, struct rt_dev *dev,
		struct err *err)
{
	char why[256] = "";

	*dev = (struct rt_dev) { NULL, NULL };
	if (be_select(c->opt->common.device, c->threads, kernel, &dev->api,
		      &dev->be, why, err)) {
		*dev = (struct rt_dev) { NULL, NULL };
		return -1;
	}
	ui_detail(c->ui, "device %s", why[0] ? why :
					       dev->api->describe(dev->be));
	return 0;
}

/* The table outlives the device: it is a constant of the program or of a
 * plug-in that stays loaded. */
void call_device_close(struct rt_dev *dev)
{
	if (dev->api)
		dev->api->close(dev->be);
	*dev = (struct rt_dev) { NULL, NULL };
}

/* A default gives way to a small model in silence; a number that somebody
 * asked for does not. */
int call_seqlen(const struct call *c, int64_t asked, uint32_t context,
		uint32_t *out, struct err *err)
{
	if (asked > context && opt_given(c->opt, "seqlen"))
		return err_set(err, ERR_USAGE, "--seqlen %lld is beyond the "
			       "model's context of %u tokens",
			       (long long)asked, context);
	*out = asked > context ? context : (uint32_t)asked;
	return 0;
}

/* "dense" or a layout that can be written? */
static bool writable(const char *name, const struct qfmt **out)
{
	*out = qf_find(name);
	return *out ? (*out)->write != NULL : !strcmp(name, "dense");
}

/* The list of what would do is made from the option's own names, so that it
 * grows with the table of layouts. */
int call_layout(const struct call *c, const char *option,
		const struct qfmt **out, struct err *err)
{
	const struct qfmt *other;
	char name[32], list[200] = "", each[32];
	size_t n = 0;

	if (writable(opt_choice(c->opt, option, name), out))
		return 0;
	for (int i = 0; opt_choice_name(c->opt, option, i, each); i++)
		if (writable(each, &other) && n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n,
					      "%s%s", n ? ", " : "", each);
	return err_set(err, ERR_UNSUP, "--%s %s is not in this version; %s "
		       "are", option, name, list);
}

bool call_ends_in(const char *s, const char *tail)
{
	size_t n = strlen(s), m = strlen(tail);

	return n > m && !strcmp(s + n - m, tail);
}

/* By name: calibration files are told apart the same way. */
int call_holds_ids(const char *file)
{
	return call_ends_in(file, ".ids") || call_ends_in(file, ".safetensors");
}

enum dtype call_kv_type(int choice)
{
	static const enum dtype type[] = { DT_NONE, DT_F32, DT_F16, DT_I8 };

	return type[choice];
}

int call_save_check(const char *path, struct err *err)
{
	return path ? io_stage_check(path, false, true, err) : 0;
}

/* Reports replace an older report of the same name: unlike a model's folder
 * they are made anew by the same command. */
int call_save(const char *path, const char *text, size_t n, struct err *err)
{
	struct io_stage *st = NULL;
	int ret = -1;

	if (io_stage_open(path, false, true, &st, err) ||
	    io_write_file(io_stage_path(st), text, n, err) ||
	    io_stage_commit(st, err))
		goto out;
	ret = 0;
out:
	io_stage_close(st);
	return ret;
}

int call_save_json(const char *path, struct cJSON *j, struct err *err)
{
	char *text = j ? json_print(j, true, err) : NULL;
	int ret;

	if (!j)
		err_set(err, ERR_RESOURCE, "not enough memory");
	json_free(j);
	ret = text ? call_save(path, text, strlen(text), err) : -1;
	free(text);
	return ret;
}
