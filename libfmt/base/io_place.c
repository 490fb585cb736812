/* io_place.c - one set of questions to directories and to servers. */
#include "io_place.h"

#include "err.h"
#include "io_src.h"
#include "json.h"
#include "mem.h"
#include "net.h"
#include "net_addr.h"

#include <stdlib.h>
#include <string.h>

#define DOC_LIMIT ((uint64_t)32 << 20) /* bytes of a small remote file */
#define PAGE_LIMIT ((uint64_t)8 << 20) /* of a list of files */

struct doc {
	char *name, *data; /* data NULL: known not to be there */
	size_t len;
};

struct io_place {
	char *path, *dir;
	char *file;        /* NULL: the directory */
	/* remote */
	struct io_server server;
	struct net_addr addr;
	bool listed;       /* the server has told its names */
	struct doc *doc;   /* fetched, and not found */
	size_t docs, doc_cap;
	char **name;       /* known to be there */
	size_t names, name_cap;
};

bool io_place_is_local(const struct io_place *pl)
{
	return !pl->server.net;
}

const char *io_place_path(const struct io_place *pl)
{
	return pl->path;
}

const char *io_place_dir(const struct io_place *pl)
{
	return pl->dir;
}

const char *io_place_file(const struct io_place *pl)
{
	return pl->file;
}

/* ---- opening ---- */

/* "a/b" is "b" in "a", "b" is "b" in "." */
static int split_path(struct io_place *pl, struct err *err)
{
	const char *slash = strrchr(pl->path, '/');
	const char *name = slash ? slash + 1 : pl->path;

	if (!slash)
		pl->dir = mem_text(".", 1, err);
	else
		pl->dir = mem_text(pl->path, slash == pl->path ?
				   1 : (size_t)(slash - pl->path), err);
	pl->file = mem_text(name, strlen(name), err);
	return pl->dir && pl->file ? 0 : -1;
}

static int open_local(struct io_place *pl, const char *path, struct err *err)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	pl->path = mem_text(path, n, err);
	if (!pl->path)
		return -1;
	if (io_is_dir(pl->path)) {
		pl->dir = mem_text(pl->path, n, err);
		return pl->dir ? 0 : -1;
	}
	if (!io_is_file(pl->path))
		return err_set(err, ERR_INPUT, io_exists(pl->path) ?
			       "%s: neither a file nor a directory" :
			       "%s: no such file or directory", pl->path);
	return split_path(pl, err);
}

static int open_remote(struct io_place *pl, const char *path,
		       const struct progress *p, struct err *err)
{
	struct net_addr *a = &pl->addr;
	size_t n;

	if (net_open(p, &pl->server.net, err))
		return err_ctx(err, "%s", path);
	if (net_addr_parse(path, net_endpoint(pl->server.net), a, err))
		return -1;
	pl->server.left = (uint64_t)IO_REMOTE_MIB << 20;
	n = strlen(a->shown);
	pl->path = mem_text(a->shown, n, err);
	if (!pl->path)
		return -1;
	if (a->file)
		return split_path(pl, err);
	pl->dir = mem_text(a->shown, n, err);
	return pl->dir ? 0 : -1;
}

int io_place_open(const char *path, const struct progress *p,
		  struct io_place **out, struct err *err)
{
	struct io_place *pl = mem_alloc(1, sizeof(*pl), err);

	*out = NULL;
	if (!pl)
		return -1;
	if (net_is_address(path) ? open_remote(pl, path, p, err) :
				   open_local(pl, path, err)) {
		io_place_close(pl);
		return -1;
	}
	*out = pl;
	return 0;
}

void io_place_close(struct io_place *pl)
{
	if (!pl)
		return;
	for (size_t i = 0; i < pl->docs; i++) {
		free(pl->doc[i].name);
		free(pl->doc[i].data);
	}
	for (size_t i = 0; i < pl->names; i++)
		free(pl->name[i]);
	free(pl->doc);
	free(pl->name);
	free(pl->path);
	free(pl->dir);
	free(pl->file);
	net_addr_release(&pl->addr);
	net_close(pl->server.net);
	free(pl);
}

/* ---- what is known of a server ---- */

static bool is_known(const struct io_place *pl, const char *name)
{
	for (size_t i = 0; i < pl->names; i++)
		if (!strcmp(pl->name[i], name))
			return true;
	return false;
}

/* Names in sub-directories are no names of this directory. */
static int add_name(struct io_place *pl, const char *name, struct err *err)
{
	void *p = pl->name;

	if (!*name || strchr(name, '/') || is_known(pl, name))
		return 0;
	if (mem_grow(&p, &pl->name_cap, pl->names + 1, sizeof(char *), err))
		return -1;
	pl->name = p;
	pl->name[pl->names] = mem_text(name, strlen(name), err);
	return pl->name[pl->names++] ? 0 : -1;
}

static const struct doc *find_doc(const struct io_place *pl, const char *name)
{
	for (size_t i = 0; i < pl->docs; i++)
		if (!strcmp(pl->doc[i].name, name))
			return &pl->doc[i];
	return NULL;
}

/* Takes the answer's bytes over. */
static int add_doc(struct io_place *pl, const char *name, struct net_get *g,
		   struct err *err)
{
	struct doc *d;
	void *p = pl->doc;

	if (mem_grow(&p, &pl->doc_cap, pl->docs + 1, sizeof(*d), err))
		return -1;
	pl->doc = p;
	d = &pl->doc[pl->docs];
	d->name = mem_text(name, strlen(name), err);
	if (!d->name)
		return -1;
	d->data = NULL;
	d->len = 0;
	pl->docs++;
	if (!g->there)
		return 0;
	d->data = g->data;
	d->len = (size_t)g->got;
	g->data = NULL;
	return add_name(pl, name, err);
}

/* ---- the list of names ---- */

/* The hub's: {"sha": ..., "siblings": [{"rfilename": ...}, ...]} */
static int read_siblings(struct io_place *pl, const struct net_get *g,
			 struct err *err)
{
	const struct cJSON *list;
	struct cJSON *top = NULL;
	int ret = -1;

	if (json_parse(g->data, (size_t)g->got, 0, &top, err)) {
		err_ctx(err, "%s", g->name);
		goto out;
	}
	list = json_find(top, "siblings");
	for (const struct cJSON *e = json_first(list); e; e = json_next(e)) {
		const char *name = json_text(json_find(e, "rfilename"));

		if (name && add_name(pl, name, err))
			goto out;
	}
	pl->listed = list != NULL;
	/* what comes next is of one commit, whatever is pushed meanwhile */
	ret = net_addr_pin(&pl->addr, json_text(json_find(top, "sha")), err);
out:
	json_free(top);
	return ret;
}

/* Any other server's page about the directory. */
static int read_page(struct io_place *pl, const struct net_get *g,
		     struct err *err)
{
	char *names, *at;
	uint32_t count;
	int ret = net_page_names(g->data, (size_t)g->got, &names, &count, err);

	at = names;
	for (uint32_t i = 0; !ret && i < count; i++) {
		ret = add_name(pl, at, err);
		at += strlen(at) + 1;
	}
	/* a page without a link may be any page */
	pl->listed = count > 0;
	free(names);
	return ret;
}

/* ---- rounds of requests ---- */

static int set_get(const struct io_place *pl, const char *name,
		   struct net_get *g, struct err *err)
{
	size_t n = strlen(pl->dir) + strlen(name) + 2;
	char *shown = mem_alloc(n, 1, err);

	g->name = shown;
	g->site = pl->path;
	g->url = net_addr_url(&pl->addr, name, err);
	if (!shown || !g->url)
		return -1;
	memcpy(shown, pl->dir, strlen(pl->dir));
	shown[strlen(pl->dir)] = '/';
	memcpy(shown + strlen(pl->dir) + 1, name, strlen(name));
	return 0;
}

static void release_gets(struct net_get *g, uint32_t count)
{
	for (uint32_t i = 0; g && i < count; i++) {
		free(g[i].url);
		free(g[i].name);
		free(g[i].data);
	}
	free(g);
}

/* The request for the list; the directory itself where there is no hub. */
static int set_listing(const struct io_place *pl, struct net_get *g,
		       struct err *err)
{
	g->url = pl->addr.hub ? net_addr_listing(&pl->addr, err) :
		 mem_text(pl->addr.base, strlen(pl->addr.base), err);
	g->name = mem_text(pl->path, strlen(pl->path), err);
	g->whole = g->optional = true;
	g->count = PAGE_LIMIT;
	return g->url && g->name ? 0 : -1;
}

int io_place_gather(struct io_place *pl, const char *const *names,
		    uint32_t count, struct err *err)
{
	struct net_get *g;
	int ret = -1;

	if (!pl->server.net)
		return 0;
	g = mem_alloc((size_t)count + 1, sizeof(*g), err);
	if (!g)
		goto out;
	for (uint32_t i = 0; i < count; i++) {
		if (set_get(pl, names[i], &g[i], err))
			goto out;
		g[i].whole = g[i].optional = true;
		g[i].count = DOC_LIMIT;
	}
	if (!pl->file && set_listing(pl, &g[count], err))
		goto out;
	if (net_get(pl->server.net, g, count + !pl->file, err))
		goto out;
	for (uint32_t i = 0; i < count; i++)
		if (add_doc(pl, names[i], &g[i], err))
			goto out;
	if (g[count].there && (pl->addr.hub ?
			       read_siblings(pl, &g[count], err) :
			       read_page(pl, &g[count], err)))
		goto out;
	ret = 0;
out:
	release_gets(g, count + 1);
	return ret;
}

int io_place_probe(struct io_place *pl, const char *const *names,
		   uint32_t count, struct err *err)
{
	struct net_get *g;
	int ret = -1;

	if (!pl->server.net || pl->listed)
		return 0;
	g = mem_alloc(count, sizeof(*g), err);
	if (!g)
		goto out;
	for (uint32_t i = 0; i < count; i++) {
		if (set_get(pl, names[i], &g[i], err))
			goto out;
		g[i].optional = true;
		g[i].count = 1;
	}
	if (net_get(pl->server.net, g, count, err))
		goto out;
	for (uint32_t i = 0; i < count; i++)
		if (g[i].there && add_name(pl, names[i], err))
			goto out;
	ret = 0;
out:
	release_gets(g, count);
	return ret;
}

/* ---- questions ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One block, pointers first, as io_list gives it. */
static int list_known(const struct io_place *pl, char ***names,
		      uint32_t *count, struct err *err)
{
	size_t text = 0, table = pl->names * sizeof(char *);
	char *block, *at;

	for (size_t i = 0; i < pl->names; i++)
		text += strlen(pl->name[i]) + 1;
	block = mem_alloc(table + text, 1, err);
	if (!block)
		return -1;
	*names = (char **)(void *)block;
	at = block + table;
	for (size_t i = 0; i < pl->names; i++) {
		size_t n = strlen(pl->name[i]) + 1;

		memcpy(at, pl->name[i], n);
		(*names)[i] = at;
		at += n;
	}
	*count = (uint32_t)pl->names;
	if (pl->names)
		qsort(*names, pl->names, sizeof(char *), by_text);
	return 0;
}

int io_place_list(const struct io_place *pl, char ***names, uint32_t *count,
		  struct err *err)
{
	return pl->server.net ? list_known(pl, names, count, err) :
				io_list(pl->dir, names, count, err);
}

bool io_place_has(const struct io_place *pl, const char *name)
{
	const struct doc *d;
	struct err ignored;
	char *path;
	bool is;

	if (pl->server.net) {
		d = find_doc(pl, name);
		if (d)
			return d->data != NULL;
		return !pl->listed || strchr(name, '/') ||
		       is_known(pl, name);
	}
	path = io_join(pl->dir, name, &ignored);
	is = path && io_is_file(path);
	free(path);
	return is;
}

/* The file, fetched unless that was done before. */
static const struct doc *fetch_doc(struct io_place *pl, const char *name,
				   struct err *err)
{
	struct net_get g = { .whole = true, .optional = true,
			     .count = DOC_LIMIT };
	const struct doc *d = find_doc(pl, name);

	if (d)
		return d;
	if (!set_get(pl, name, &g, err) &&
	    !net_get(pl->server.net, &g, 1, err) &&
	    !add_doc(pl, name, &g, err))
		d = find_doc(pl, name);
	free(g.url);
	free(g.name);
	free(g.data);
	return d;
}

static int json_remote(struct io_place *pl, const char *name,
		       struct cJSON **out, struct err *err)
{
	const struct doc *d = fetch_doc(pl, name, err);

	if (!d)
		return -1;
	if (d->data && json_parse(d->data, d->len, JSON_BOM, out, err))
		return err_ctx(err, "%s/%s", pl->dir, name);
	return 0;
}

int io_place_json(struct io_place *pl, const char *name, struct cJSON **out,
		  struct err *err)
{
	char *path;
	int ret;

	*out = NULL;
	if (!io_place_has(pl, name))
		return 0;
	if (pl->server.net)
		return json_remote(pl, name, out, err);
	path = io_join(pl->dir, name, err);
	ret = path ? json_read_file(path, out, err) : -1;
	free(path);
	return ret;
}

/* ---- weight files ---- */

static int open_fetched(struct io_place *pl, const char *const *names,
			uint32_t count, struct src **out, struct err *err)
{
	struct net_get *g = mem_alloc(count, sizeof(*g), err);
	int ret = -1;

	if (!g)
		goto out;
	for (uint32_t i = 0; i < count; i++) {
		if (set_get(pl, names[i], &g[i], err))
			goto out;
		g[i].count = IO_FIRST;
	}
	if (net_get(pl->server.net, g, count, err))
		goto out;
	for (uint32_t i = 0; i < count; i++)
		if (io_remote_new(&pl->server, g[i].name, g[i].url,
				  g[i].total, g[i].data, g[i].got, &out[i],
				  err))
			goto out;
	ret = 0;
out:
	release_gets(g, count);
	return ret;
}

static int open_paths(struct io_place *pl, const char *const *names,
		      uint32_t count, struct src **out, struct err *err)
{
	for (uint32_t i = 0; i < count; i++) {
		char *path = io_join(pl->dir, names[i], err);
		int ret = path ? io_open(path, &out[i], err) : -1;

		free(path);
		if (ret)
			return -1;
	}
	return 0;
}

int io_place_files(struct io_place *pl, const char *const *names,
		   uint32_t count, struct src **out, struct err *err)
{
	int ret;

	memset(out, 0, count * sizeof(*out));
	ret = pl->server.net ? open_fetched(pl, names, count, out, err) :
			       open_paths(pl, names, count, out, err);
	for (uint32_t i = 0; ret && i < count; i++) {
		io_close(out[i]);
		out[i] = NULL;
	}
	return ret;
}
