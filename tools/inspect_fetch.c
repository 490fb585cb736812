/* What --stats and --tensor need of a checkpoint on a server: the bytes of
 * what was asked for, and of nothing else. */
#include "inspect.h"

#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* NAME, or a part of the module NAME; n is the length of NAME. */
static bool is_part(const char *tensor, const char *name, size_t n)
{
	if (strncmp(tensor, name, n))
		return false;
	return !tensor[n] || (tensor[n] == '.' && !strchr(tensor + n + 1, '.'));
}

static void want_shown(const struct inspect *r, bool *want)
{
	const struct model *m = r->model;

	memcpy(want, r->show_tensor, m->tensor_count * sizeof(*want));
	for (uint32_t i = 0; i < r->survey.count; i++) {
		const struct qf_module *q = r->survey.layer[i].module;

		for (uint32_t k = 0; r->show_layer[i] && k < q->count; k++)
			want[&q->part[k] - m->tensor] = true;
	}
}

int inspect_fetch(struct inspect *r, const struct inspect_need *need,
		  struct err *err)
{
	struct model *m = r->model;
	size_t n = need->tensor ? strcspn(need->tensor, "@") : 0;
	bool *want;
	int ret;

	if (model_is_local(m))
		return 0;
	if (need->whole)
		return err_set(err, ERR_UNSUP, "%s: %s needs all %llu bytes "
			       "of the weights, which are not fetched; fetch "
			       "the folder first", m->path, need->whole,
			       (unsigned long long)model_bytes(m));
	want = mem_alloc(m->tensor_count, sizeof(*want), err);
	if (!want)
		return -1;
	if (need->stats)
		want_shown(r, want);
	for (uint32_t i = 0; n && i < m->tensor_count; i++)
		want[i] |= is_part(m->tensor[i].name, need->tensor, n);
	ret = model_fetch(m, want, err);
	free(want);
	return ret;
}
