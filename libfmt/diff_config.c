/* Configs key by key, and the files a loader needs beside the weights. */
#include "diff_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/json.h"
#include "base/mem.h"
#include "model.h"

#include <stdlib.h>
#include <string.h>

struct walk {
	struct diff *out;
	size_t cap;
	const char *file;
};

static char *copy(const char *text, struct err *err)
{
	return mem_text(text, strlen(text), err);
}

/* NULL of a value that is not there. */
static int value_text(const struct cJSON *j, char **out, struct err *err)
{
	*out = j ? json_print(j, false, err) : NULL;
	if (*out)
		(*out)[strcspn(*out, "\n")] = '\0';
	return j && !*out ? -1 : 0;
}

/* Takes a and b over. */
static int add(struct walk *w, const char *key, char *a, char *b,
	       struct err *err)
{
	void *p = w->out->key;
	char *name = copy(key, err);

	if (!name || mem_grow(&p, &w->cap, (size_t)w->out->keys + 1,
			      sizeof(*w->out->key), err)) {
		free(name);
		free(a);
		free(b);
		return -1;
	}
	w->out->key = p;
	w->out->key[w->out->keys++] =
		(struct diff_key) { w->file, name, a, b };
	return 0;
}

static int compare(struct walk *w, const char *key, const struct cJSON *a,
		   const struct cJSON *b, struct err *err)
{
	char *ta = NULL, *tb = NULL;

	if (value_text(a, &ta, err) || value_text(b, &tb, err))
		goto fail;
	if (ta && tb && !strcmp(ta, tb)) {
		free(ta);
		free(tb);
		return 0;
	}
	return add(w, key, ta, tb, err);
fail:
	free(ta);
	free(tb);
	return -1;
}

/* Members of either, at `path`; nested objects are walked through.  The depth
 * is bounded by the JSON reader. */
static int walk(struct walk *w, const char *path, const struct cJSON *a,
		const struct cJSON *b, struct err *err)
{
	for (int side = 0; side < 2; side++)
		for (const struct cJSON *j = json_first(side ? b : a); j;
		     j = json_next(j)) {
			const struct cJSON *other =
				json_find(side ? a : b, json_key(j));
			char *key = NULL;
			int ret;

			if (side && other) /* seen from the other side */
				continue;
			key = mem_alloc(strlen(path) + strlen(json_key(j)) + 2,
					1, err);
			if (!key)
				return -1;
			strcat(strcat(strcpy(key, path), *path ? "." : ""),
			       json_key(j));
			if (json_is_object(j) && json_is_object(other))
				ret = walk(w, key, j, other, err);
			else
				ret = compare(w, key, side ? other : j,
					      side ? j : other, err);
			free(key);
			if (ret)
				return -1;
		}
	return 0;
}

/* A config that only one of the two has is one difference. */
static int compare_config(struct walk *w, const char *file,
			  const struct cJSON *a, const struct cJSON *b,
			  struct err *err)
{
	char *only;

	w->file = file;
	if (!a && !b)
		return 0;
	if (a && b)
		return walk(w, "", a, b, err);
	only = copy("there", err);
	return only ? add(w, "", a ? only : NULL, b ? only : NULL, err) : -1;
}

/* ---- files ---- */

static int open_optional(const struct model *m, const char *name,
			 struct src **out, struct err *err)
{
	char *path = io_join(m->dir, name, err);
	int ret = path ? 0 : -1;

	*out = NULL;
	if (path && io_is_file(path))
		ret = io_open(path, out, err);
	free(path);
	return ret;
}

static int same_bytes(struct src *a, struct src *b, bool *same,
		      struct err *err)
{
	uint64_t n = io_size(a);
	const void *x, *y;

	*same = false;
	if (n != io_size(b))
		return 0;
	if (n && (io_view(a, 0, n, &x, err) || io_view(b, 0, n, &y, err)))
		return -1;
	*same = !n || !memcmp(x, y, (size_t)n);
	return 0;
}

static int compare_file(struct walk *w, const struct diff_job *job,
			const char *name, struct err *err)
{
	struct src *a = NULL, *b = NULL;
	char *ta = NULL, *tb = NULL;
	bool same = false;
	int ret = -1;

	if (open_optional(job->a.model, name, &a, err) ||
	    open_optional(job->b.model, name, &b, err) ||
	    (a && b && same_bytes(a, b, &same, err)))
		goto out;
	w->file = "";
	w->out->files_equal += same;
	if ((a && !same && !(ta = copy(b ? "differs" : "there", err))) ||
	    (b && !same && !(tb = copy(a ? "differs" : "there", err))))
		goto out;
	ret = ta || tb ? add(w, name, ta, tb, err) : 0;
	ta = tb = NULL;
out:
	free(ta);
	free(tb);
	io_close(a);
	io_close(b);
	return ret;
}

static bool listed(char *const *names, uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

static int compare_files(struct walk *w, const struct diff_job *job,
			 struct err *err)
{
	char **a = NULL, **b = NULL;
	uint32_t na = 0, nb = 0;
	int ret = -1;

	if (io_list(job->a.model->dir, &a, &na, err) ||
	    io_list(job->b.model->dir, &b, &nb, err))
		goto out;
	for (uint32_t i = 0; i < na; i++)
		if (model_is_extra(a[i]) && compare_file(w, job, a[i], err))
			goto out;
	for (uint32_t i = 0; i < nb; i++)
		if (model_is_extra(b[i]) && !listed(a, na, b[i]) &&
		    compare_file(w, job, b[i], err))
			goto out;
	ret = 0;
out:
	free(a);
	free(b);
	return ret;
}

int diff_configs(const struct diff_job *job, struct diff *out, struct err *err)
{
	const struct model *a = job->a.model, *b = job->b.model;
	struct walk w = { .out = out };

	return compare_config(&w, "config.json", a->config, b->config, err) ||
	       compare_config(&w, "quantize_config.json", a->quantize,
			      b->quantize, err) ||
	       compare_files(&w, job, err) ? -1 : 0;
}
