#include "model_files.h"

#include "base/err.h"
#include "base/io.h"
#include "base/io_place.h"
#include "base/json.h"
#include "base/mem.h"
#include "container/tensor_file.h"
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The two families of names; what safetensors there is goes first. */
struct family {
	const char *single, *index, *index_end;
	const char *ends[5]; /* of weight files, up to NULL */
};

static const struct family families[] = {
	{ "model.safetensors", MODEL_INDEX, ".safetensors.index.json",
	  { ".safetensors", NULL } },
	{ "pytorch_model.bin", "pytorch_model.bin.index.json",
	  ".bin.index.json", { ".bin", ".pt", ".pth", ".gguf", NULL } },
};

/* A directory's names, and the weight files among them. */
struct listing {
	struct io_place *pl;
	char **all;        /* one block, sorted */
	uint32_t all_count;
	const char **pick; /* [all_count] borrowed from all */
	uint32_t pick_count;
};

static int ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n > m && !strcmp(s + n - m, end);
}

static int begins_with(const char *s, const char *start)
{
	return !strncmp(s, start, strlen(start));
}

static int is_listed(const struct listing *l, const char *name)
{
	for (uint32_t i = 0; i < l->all_count; i++)
		if (!strcmp(l->all[i], name))
			return 1;
	return 0;
}

static int add_name(struct model_files *f, const char *name, struct err *err)
{
	f->name[f->count] = mem_text(name, strlen(name), err);
	if (!f->name[f->count])
		return -1;
	f->count++;
	return 0;
}

static int room_for(struct model_files *f, size_t n, struct err *err)
{
	f->name = mem_alloc(n, sizeof(*f->name), err);
	return f->name ? 0 : -1;
}

static int take_one(struct model_files *f, const char *name, struct err *err)
{
	return room_for(f, 1, err) || add_name(f, name, err) ? -1 : 0;
}

/* ---- the index ---- */

/* A shard's name may lead into a sub-directory, never out of the model's. */
static int is_safe(const char *name)
{
	const char *p = name;

	if (!*name || *name == '/' || strlen(name) > 4096)
		return 0;
	while (*p) {
		size_t n = strcspn(p, "/");

		if (n == 2 && !memcmp(p, "..", 2))
			return 0;
		p += n;
		p += *p == '/';
	}
	return name[strlen(name) - 1] != '/';
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_entry(const struct cJSON *e, struct err *err)
{
	const char *name = json_text(e);

	if (!name)
		return err_set(err, ERR_INPUT,
			       "%.256s: its file is not a string", json_key(e));
	if (!is_safe(name))
		return err_set(err, ERR_INPUT, "%.128s: refused file name "
			       "\"%.128s\" (it leads out of the directory)",
			       json_key(e), name);
	return 0;
}

/* The distinct file names of the map. */
static int take_mapped(struct model_files *f, struct err *err)
{
	uint32_t n = json_count(f->map), i = 0;
	const char **text = mem_alloc(n, sizeof(*text), err);
	int ret = -1;

	if (!text || room_for(f, n, err))
		goto out;
	for (const struct cJSON *e = json_first(f->map); e; e = json_next(e)) {
		if (check_entry(e, err))
			goto out;
		text[i++] = json_text(e);
	}
	if (!n) {
		err_set(err, ERR_INPUT, "names no tensors");
		goto out;
	}
	qsort(text, n, sizeof(*text), by_text);
	for (i = 0; i < n; i++)
		if ((!i || strcmp(text[i], text[i - 1])) &&
		    add_name(f, text[i], err))
			goto out;
	ret = 0;
out:
	free(text);
	return ret;
}

/* Some old files are the bare map without "weight_map". */
static int read_index(struct io_place *pl, struct model_files *f,
		      struct err *err)
{
	if (io_place_json(pl, f->index_name, &f->index, err))
		return -1;
	f->map = json_find(f->index, "weight_map");
	if (!f->map)
		f->map = f->index;
	if (json_is_object(f->map))
		return 0;
	f->map = NULL;
	return err_set(err, ERR_INPUT, "%s: no weight_map", f->index_name);
}

static void drop_index(struct model_files *f)
{
	json_free(f->index);
	free(f->index_name);
	f->index = NULL;
	f->index_name = NULL;
	f->map = NULL;
}

/* The usual name, else the only one of its kind. */
static int find_index(const struct listing *l, const struct family *k,
		      struct model_files *f, struct err *err)
{
	const char *found = NULL;

	for (uint32_t i = 0; i < l->all_count; i++) {
		if (!strcmp(l->all[i], k->index)) {
			found = l->all[i];
			break;
		}
		if (!ends_with(l->all[i], k->index_end) ||
		    begins_with(l->all[i], "consolidated"))
			continue;
		if (found && !is_listed(l, k->index))
			return err_set(err, ERR_INPUT, "two indexes, %s and %s",
				       found, l->all[i]);
		found = l->all[i];
	}
	if (!found)
		return 0;
	f->index_name = mem_text(found, strlen(found), err);
	return f->index_name ? 0 : -1;
}

/* The single file is there: it wins.  An index beside it that speaks of other
 * files is left over from an earlier save. */
static int take_single(const struct listing *l, const char *single,
		       struct model_files *f, struct err *err)
{
	struct err ignored;
	int stale;

	if (take_one(f, single, err))
		return -1;
	if (!f->index_name)
		return 0;
	stale = read_index(l->pl, f, &ignored);
	for (const struct cJSON *e = json_first(f->map); e; e = json_next(e))
		if (!json_text(e) || strcmp(json_text(e), single))
			stale = 1;
	if (stale) {
		drop_index(f);
		f->odd |= MODEL_ODD_STALE_INDEX;
	}
	return 0;
}

static int take_indexed(const struct listing *l, struct model_files *f,
			struct err *err)
{
	if (read_index(l->pl, f, err))
		return -1;
	if (take_mapped(f, err))
		return err_ctx(err, "%s", f->index_name);
	for (uint32_t i = 0; i < f->count; i++)
		if (!io_place_has(l->pl, f->name[i]))
			return err_set(err, ERR_INPUT, "%s: missing, but %s "
				       "names it", f->name[i], f->index_name);
	return 0;
}

/* ---- without an index ---- */

/* Files with these endings that hold no model. */
static int is_other(const char *name)
{
	static const char *const other[] = { "adapter_model", "training_args",
		"optimizer", "scheduler", "rng_state", NULL };

	for (int i = 0; other[i]; i++)
		if (begins_with(name, other[i]))
			return 1;
	return 0;
}

/* Files with one of the endings.  Meta's own shards stand back when there is
 * anything else: they hold the same weights under other names. */
static void pick_files(struct listing *l, const char *const ends[])
{
	uint32_t n = 0, first = 0;

	for (uint32_t i = 0; i < l->all_count; i++)
		for (int e = 0; ends[e]; e++)
			if (ends_with(l->all[i], ends[e]) &&
			    !is_other(l->all[i]))
				l->pick[n++] = l->all[i];
	l->pick_count = n;
	for (uint32_t i = 0; i < n; i++)
		if (!begins_with(l->pick[i], "consolidated"))
			l->pick[first++] = l->pick[i];
	if (first)
		l->pick_count = first;
}

/* "STEM-00001-of-00003.END": the length of STEM, the two numbers. */
static int parse_shard(const char *name, size_t *stem, uint32_t *no,
		       uint32_t *of)
{
	const char *p = strstr(name, "-of-"), *dash = p;
	unsigned a, b;

	if (!p)
		return 0;
	while (dash > name && dash[-1] >= '0' && dash[-1] <= '9')
		dash--;
	if (dash == name || dash[-1] != '-' || p - dash > 9 || p == dash)
		return 0;
	if (sscanf(dash, "%9u-of-%9u", &a, &b) != 2)
		return 0;
	*stem = (size_t)(dash - 1 - name);
	*no = a;
	*of = b;
	return 1;
}

/* 1 when all picked files are shards of one set; names a missing one. */
static int is_shard_set(const struct listing *l, struct err *err)
{
	size_t stem = 0, other;
	uint32_t no, of = 0, total;

	for (uint32_t i = 0; i < l->pick_count; i++) {
		if (!parse_shard(l->pick[i], &other, &no, &total))
			return 0;
		if (!i) {
			stem = other;
			of = total;
		}
		if (other != stem || total != of ||
		    strncmp(l->pick[i], l->pick[0], stem))
			return 0;
		/* sorted, so each has to be the next one */
		if (no != i + 1)
			return err_set(err, ERR_INPUT, "shard %u of %u is "
				       "missing (found %s)", i + 1, of,
				       l->pick[i]);
	}
	if (l->pick_count != of)
		return err_set(err, ERR_INPUT, "shard %u of %u is missing",
			       l->pick_count + 1, of);
	return 1;
}

/* The file that quantize_config.json names without its ending. */
static const char *named_by(const struct listing *l, const char *base)
{
	for (uint32_t i = 0; base && *base && i < l->pick_count; i++) {
		const char *end = l->pick[i] + strlen(base);

		/* all that were picked have an ending of their family */
		if (begins_with(l->pick[i], base) && *end == '.' &&
		    !strchr(end + 1, '.'))
			return l->pick[i];
	}
	return NULL;
}

static int take_picked(const struct listing *l, const char *base,
		       struct model_files *f, struct err *err)
{
	const char *named = named_by(l, base);
	size_t stem;
	uint32_t no, of;
	int set;

	if (named)
		return take_one(f, named, err);
	if (l->pick_count == 1 && !parse_shard(l->pick[0], &stem, &no, &of))
		return take_one(f, l->pick[0], err);
	set = is_shard_set(l, err);
	if (set < 0)
		return -1;
	if (!set)
		return err_set(err, ERR_INPUT, "%u weight files and no index "
			       "(%s, %s%s): name the one that is meant",
			       l->pick_count, l->pick[0], l->pick[1],
			       l->pick_count > 2 ? ", ..." : "");
	if (room_for(f, l->pick_count, err))
		return -1;
	for (uint32_t i = 0; i < l->pick_count; i++)
		if (add_name(f, l->pick[i], err))
			return -1;
	f->odd |= MODEL_ODD_NO_INDEX;
	return 0;
}

/* 1: this family has weights here, and *f names them; 0: it has none. */
static int take_family(struct listing *l, const struct family *k,
		       const char *base, struct model_files *f,
		       struct err *err)
{
	if (find_index(l, k, f, err))
		return -1;
	if (is_listed(l, k->single))
		return take_single(l, k->single, f, err) ? -1 : 1;
	if (f->index_name)
		return take_indexed(l, f, err) ? -1 : 1;
	pick_files(l, k->ends);
	if (!l->pick_count)
		return 0;
	return take_picked(l, base, f, err) ? -1 : 1;
}

/* Names that a server without a list of files is asked for: what is usual, and
 * what the quantization config leads to (AutoGPTQ's names). */
static int probe_names(struct io_place *pl, const struct config_quant *q,
		       const char *base, struct err *err)
{
	static const char *const ends[] = { ".safetensors", ".bin", ".pt" };
	char text[6][160];
	const char *name[8] = { "model.safetensors", "pytorch_model.bin" };
	uint32_t n = 2;

	for (size_t i = 0; i < 3 && base && strlen(base) < 128; i++) {
		snprintf(text[n - 2], sizeof(*text), "%s%s", base, ends[i]);
		name[n] = text[n - 2];
		n++;
	}
	for (size_t i = 0; i < 3 && q->bits; i++) {
		snprintf(text[n - 2], sizeof(*text), "gptq_model-%ubit-%dg%s",
			 q->bits, q->group_size, ends[i]);
		name[n] = text[n - 2];
		n++;
	}
	return io_place_probe(pl, name, n, err);
}

static int take_file(const char *name, struct model_files *out,
		     struct err *err)
{
	if (!take_one(out, name, err))
		return 0;
	model_files_release(out);
	return -1;
}

int model_files_find(struct io_place *pl, const struct config_quant *quant,
		     struct model_files *out, struct err *err)
{
	const char *base = json_text(json_find(quant->tree,
					       "model_file_base_name"));
	struct listing l = { .pl = pl };
	int took = 0;

	memset(out, 0, sizeof(*out));
	if (io_place_file(pl))
		return take_file(io_place_file(pl), out, err);
	if (probe_names(pl, quant, base, err) ||
	    io_place_list(pl, &l.all, &l.all_count, err))
		return -1;
	l.pick = mem_alloc(l.all_count, sizeof(*l.pick), err);
	if (!l.pick)
		took = -1;
	for (size_t i = 0; !took && i < sizeof(families) / sizeof(*families);
	     i++)
		took = take_family(&l, &families[i], base, out, err);
	free(l.pick);
	free(l.all);
	if (took > 0)
		return 0;
	if (!took)
		err_set(err, ERR_INPUT, "no weights found (no *.safetensors, "
			"no *.bin, *.pt, *.gguf)");
	model_files_release(out);
	return err_ctx(err, "%s", io_place_dir(pl));
}

/* Headers of files on a server, side by side, before they are read one after
 * another. */
static int fetch_headers(struct src *const *src, uint32_t count,
			 struct err *err)
{
	struct io_want *want = mem_alloc(count, sizeof(*want), err);
	int ret = -1;

	if (!want)
		return -1;
	for (uint32_t i = 0; i < count; i++) {
		want[i].src = src[i];
		if (tensor_file_reach(src[i], &want[i].len, err))
			goto out;
	}
	ret = io_fetch(want, count, err);
out:
	free(want);
	return ret;
}

int model_files_open(struct io_place *pl, const struct model_files *f,
		     struct src **out, struct err *err)
{
	if (io_place_files(pl, (const char *const *)f->name, f->count, out,
			   err))
		return -1;
	if (io_place_is_local(pl) || !fetch_headers(out, f->count, err))
		return 0;
	for (uint32_t i = 0; i < f->count; i++)
		io_close(out[i]);
	return -1;
}

void model_files_release(struct model_files *f)
{
	for (uint32_t i = 0; i < f->count; i++)
		free(f->name[i]);
	free(f->name);
	drop_index(f);
	memset(f, 0, sizeof(*f));
}
