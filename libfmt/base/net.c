/* net.c - sessions, and the loop that keeps several requests going.
 *
 * Redirects are followed here and not by libcurl, so that every hop is judged
 * by net_may_follow and shown the token only at the hub itself. */
#include "net.h"

#include "io.h"
#include "mem.h"
#include "net_addr.h"
#include "net_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ACTIVE_MAX 8u     /* requests at one time */
#define HOPS_MAX 8u
#define TRIES_MAX 4u
#define PAUSE 0.3         /* seconds before the second try, then tripled */
#define WAIT_MAX 60u      /* seconds; a server that wants more is given up */
#define CONNECT_TIME 15L
#define POLL 50           /* milliseconds between looks at Ctrl-C */
#define SILENCE 20u       /* seconds; HF_HUB_DOWNLOAD_TIMEOUT */
#define TOKEN_MAX 1024u
#define AGENT "gptq-kit/0.1"

struct net {
	struct net_curl curl;
	CURLM *multi;
	const struct progress *p;
	char *endpoint;
	char *token;         /* NULL: none */
	long silence;
	uint64_t got, want;  /* bytes of all requests, for the progress */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- sessions ---- */

/* What a file or variable holds, less blanks at its ends; a token with
 * anything but visible characters inside would break the request. */
static int set_token(struct net *n, const char *text, const char *where,
		     struct err *err)
{
	size_t from = strspn(text, " \t\r\n"), len = strlen(text + from);

	while (len && strchr(" \t\r\n", text[from + len - 1]))
		len--;
	if (!len)
		return 0;
	for (size_t i = 0; i < len; i++)
		if (text[from + i] <= ' ' || text[from + i] >= 0x7f ||
		    len > TOKEN_MAX)
			return err_set(err, ERR_USAGE, "%s holds no token",
				       where);
	n->token = mem_text(text + from, len, err);
	return n->token ? 0 : -1;
}

/* DIR/NAME, when DIR is a variable that is set. */
static int token_path(const char *var, const char *name, char *out,
		      size_t size)
{
	const char *dir = getenv(var);

	return dir && *dir &&
	       snprintf(out, size, "%s%s", dir, name) < (int)size;
}

static int find_token(struct net *n, struct err *err)
{
	static const char *const vars[] = { "HF_TOKEN",
		"HUGGING_FACE_HUB_TOKEN" };
	char path[4096], *text = NULL;
	struct err ignored;
	size_t len;
	int ret;

	for (int i = 0; i < 2; i++) {
		const char *v = getenv(vars[i]);

		if (v && *v)
			return set_token(n, v, vars[i], err);
	}
	if (!token_path("HF_TOKEN_PATH", "", path, sizeof(path)) &&
	    !token_path("HF_HOME", "/token", path, sizeof(path)) &&
	    !token_path("XDG_CACHE_HOME", "/huggingface/token", path,
			sizeof(path)) &&
	    !token_path("HOME", "/.cache/huggingface/token", path,
			sizeof(path)))
		return 0;
	if (!io_is_file(path) ||
	    io_read_file(path, 65536, &text, &len, &ignored))
		return 0;
	ret = set_token(n, text, path, err);
	free(text);
	return ret;
}

static int find_endpoint(struct net *n, struct err *err)
{
	const char *v = getenv("HF_ENDPOINT");
	struct net_url u;
	size_t len;

	v = v && *v ? v : NET_HUB;
	len = strlen(v);
	while (len && v[len - 1] == '/')
		len--;
	if (net_url_parse(v, &u) || strpbrk(v, "?#"))
		return err_set(err, ERR_USAGE, "HF_ENDPOINT: '%s' is no "
			       "address", v);
	n->endpoint = mem_text(v, len, err);
	return n->endpoint ? 0 : -1;
}

int net_open(const struct progress *p, struct net **out, struct err *err)
{
	const char *v = getenv("HF_HUB_DOWNLOAD_TIMEOUT");
	struct net *n = mem_alloc(1, sizeof(*n), err);

	*out = NULL;
	if (!n)
		return -1;
	n->p = p;
	n->silence = v ? atol(v) : 0;
	if (n->silence < 1 || n->silence > 3600)
		n->silence = SILENCE;
	if (find_endpoint(n, err) || find_token(n, err) ||
	    net_curl_open(&n->curl, err))
		goto fail;
	n->multi = n->curl.multi_init();
	if (!n->multi) {
		err_set(err, ERR_RESOURCE, "not enough memory for libcurl");
		goto fail;
	}
	*out = n;
	return 0;
fail:
	net_close(n);
	return -1;
}

/* The library stays loaded: unloading what keeps threads is not safe. */
void net_close(struct net *n)
{
	if (!n)
		return;
	if (n->multi)
		n->curl.multi_cleanup(n->multi);
	free(n->endpoint);
	free(n->token);
	free(n);
}

const char *net_endpoint(const struct net *n)
{
	return n->endpoint;
}

/* ---- what libcurl calls ---- */

static size_t on_head(char *p, size_t size, size_t n, void *ctx)
{
	struct net_job *j = ctx;

	if (!net_head_line(&j->head, p, size * n))
		return size * n;
	if (j->get->whole && j->head.length > 0 && j->head.status == 200)
		j->net->want += (uint64_t)j->head.length;
	/* another length than all tells libcurl to stop */
	return net_head_check(j->get, &j->head, &j->why) ? 0 : size * n;
}

/* Room for n more bytes and a NUL. */
static int make_room(struct net_job *j, size_t n)
{
	struct net_get *g = j->get;
	void *p = g->data;

	if (g->into)
		return 0;
	if (mem_grow(&p, &j->room, (size_t)g->got + n + 1, 1, &j->why))
		return -1;
	g->data = p;
	return 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
	struct net_job *j = ctx;
	struct net_get *g = j->get;

	n *= size;
	if (j->head.status != 200 && j->head.status != 206)
		return n; /* the page about an error */
	if (n > g->count - g->got) {
		if (!g->whole)
			err_set(&j->why, ERR_UNSUP, "the server does not "
				"answer requests for parts of a file; fetch "
				"the file and inspect it");
		else
			err_set(&j->why, ERR_INPUT, "larger than the limit of "
				"%llu bytes", (unsigned long long)g->count);
		return 0;
	}
	if (make_room(j, n))
		return 0;
	memcpy((g->into ? (char *)g->into : g->data) + g->got, p, n);
	g->got += n;
	j->net->got += n;
	return n;
}

/* ---- one request ---- */

static int add_field(struct net_job *j, const char *text, struct err *err)
{
	struct curl_slist *l = j->net->curl.slist_append(j->fields, text);

	if (!l)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	j->fields = l;
	return 0;
}

static int set_fields(struct net_job *j, struct err *err)
{
	struct net *n = j->net;
	const struct net_get *g = j->get;
	char text[TOKEN_MAX + 64];

	n->curl.slist_free_all(j->fields);
	j->fields = NULL;
	if (n->token && net_is_below(j->url, n->endpoint)) {
		snprintf(text, sizeof(text), "Authorization: Bearer %s",
			 n->token);
		if (add_field(j, text, err))
			return -1;
	}
	if (g->whole)
		return 0;
	snprintf(text, sizeof(text), "Range: bytes=%llu-%llu",
		 (unsigned long long)g->from,
		 (unsigned long long)(g->from + g->count - 1));
	return add_field(j, text, err);
}

/* Everything that a hop needs; the answer starts from nothing. */
static int start(struct net_job *j, struct err *err)
{
	struct net *n = j->net;
	struct net_curl *c = &n->curl;
	CURL *e = j->easy;

	if (set_fields(j, err))
		return -1;
	n->got -= j->get->got;
	j->get->got = 0;
	j->head = (struct net_head) { .length = -1 };
	j->why.code = 0;
	j->text[0] = '\0';
	c->easy_setopt(e, CURLOPT_URL, j->url);
	c->easy_setopt(e, CURLOPT_HTTPHEADER, j->fields);
	c->easy_setopt(e, CURLOPT_USERAGENT, AGENT);
	c->easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	c->easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	c->easy_setopt(e, CURLOPT_CONNECTTIMEOUT, CONNECT_TIME);
	c->easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
	c->easy_setopt(e, CURLOPT_LOW_SPEED_TIME, n->silence);
	c->easy_setopt(e, CURLOPT_ERRORBUFFER, j->text);
	c->easy_setopt(e, CURLOPT_HEADERFUNCTION, on_head);
	c->easy_setopt(e, CURLOPT_HEADERDATA, (void *)j);
	c->easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	c->easy_setopt(e, CURLOPT_WRITEDATA, (void *)j);
	c->easy_setopt(e, CURLOPT_PRIVATE, (void *)j);
	if (c->multi_add_handle(n->multi, e))
		return err_set(err, ERR_RESOURCE, "libcurl takes no more "
			       "requests");
	j->active = true;
	return 0;
}

/* Follow, when it is allowed. */
static enum net_verdict move(struct net_job *j, struct err *err)
{
	char *to = NULL, *copy;

	j->net->curl.easy_getinfo(j->easy, CURLINFO_REDIRECT_URL, &to);
	if (!to || !net_may_follow(j->url, to)) {
		err_set(err, ERR_INPUT, "the server sends us on to %.200s, "
			"which is refused (only https, or the same host, is "
			"followed)", to ? to : "nowhere");
		return NET_FAILED;
	}
	if (++j->hops > HOPS_MAX) {
		err_set(err, ERR_INPUT, "more than %u redirects", HOPS_MAX);
		return NET_FAILED;
	}
	copy = mem_text(to, strlen(to), err);
	if (!copy)
		return NET_FAILED;
	free(j->url);
	j->url = copy;
	j->due = 0;
	return NET_MOVED;
}

/* Once more, from the first hop (links to storage grow old); or not. */
static enum net_verdict again(struct net_job *j, struct err *err)
{
	uint32_t wait = j->head.wait;
	double pause = PAUSE;
	char *url;

	if (++j->tries >= TRIES_MAX)
		return NET_FAILED;
	if (wait > WAIT_MAX) {
		err_ctx(err, "asked to wait for %u seconds", wait);
		return NET_FAILED;
	}
	for (uint32_t i = 1; i < j->tries; i++)
		pause *= 3;
	url = mem_text(j->get->url, strlen(j->get->url), err);
	if (!url)
		return NET_FAILED;
	free(j->url);
	j->url = url;
	j->hops = 0;
	j->due = now() + (pause > wait ? pause : wait);
	return NET_AGAIN;
}

/* libcurl is done with this hop. */
static int finish(struct net_job *j, CURLcode rc, struct err *err)
{
	struct net *n = j->net;
	enum net_verdict v;
	bool hub = net_is_below(j->url, n->endpoint);

	n->curl.multi_remove_handle(n->multi, j->easy);
	j->active = false;
	if (j->why.code) {
		*err = j->why;
		v = NET_FAILED;
	} else if (rc) {
		v = net_failure(rc, j->text[0] ? j->text :
				n->curl.easy_strerror(rc), err);
		/* what is silent has had its time: two tries do */
		j->tries += rc == CURLE_OPERATION_TIMEDOUT;
	} else {
		v = net_answer(j->get, &j->head, hub, n->token != NULL, err);
	}
	if (v == NET_MOVED)
		v = move(j, err);
	else if (v == NET_AGAIN)
		v = again(j, err);
	if (v == NET_FAILED)
		return err_ctx(err, "%s", j->get->site &&
			       net_head_of_all(&j->head) ? j->get->site :
							   j->get->name);
	j->done = v == NET_DONE;
	if (j->done && j->get->data)
		j->get->data[j->get->got] = '\0';
	return 0;
}

/* ---- all of them ---- */

static int open_jobs(struct net *n, struct net_get *get, struct net_job *job,
		     uint32_t count, struct err *err)
{
	for (uint32_t i = 0; i < count; i++) {
		struct net_job *j = &job[i];

		get[i].data = NULL;
		get[i].there = false;
		get[i].got = get[i].total = 0;
		j->net = n;
		j->get = &get[i];
		j->url = mem_text(get[i].url, strlen(get[i].url), err);
		if (!j->url)
			return -1;
		j->easy = n->curl.easy_init();
		if (!j->easy)
			return err_set(err, ERR_RESOURCE,
				       "not enough memory for libcurl");
		n->want += get[i].whole ? 0 : get[i].count;
		if (!get[i].into && make_room(j, 0)) {
			*err = j->why;
			return -1;
		}
	}
	return 0;
}

static void close_jobs(struct net *n, struct net_job *job, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (job[i].active)
			n->curl.multi_remove_handle(n->multi, job[i].easy);
		if (job[i].easy)
			n->curl.easy_cleanup(job[i].easy);
		n->curl.slist_free_all(job[i].fields);
		free(job[i].url);
	}
}

/* Start what is due; *left: how many are not done. */
static int start_due(struct net_job *job, uint32_t count, uint32_t *left,
		     struct err *err)
{
	uint32_t active = 0;
	double t = now();

	*left = 0;
	for (uint32_t i = 0; i < count; i++) {
		active += job[i].active;
		*left += !job[i].done;
	}
	for (uint32_t i = 0; i < count && active < ACTIVE_MAX; i++) {
		if (job[i].active || job[i].done || job[i].due > t)
			continue;
		if (start(&job[i], err))
			return err_ctx(err, "%s", job[i].get->name);
		active++;
	}
	return 0;
}

/* *any: a hop has ended. */
static int collect(struct net *n, bool *any, struct err *err)
{
	CURLMsg *m;
	int more;

	*any = false;
	while ((m = n->curl.multi_info_read(n->multi, &more)) != NULL) {
		struct net_job *j = NULL;
		CURLcode rc = m->data.result;

		n->curl.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &j);
		if (finish(j, rc, err))
			return -1;
		*any = true;
	}
	return 0;
}

int net_get(struct net *n, struct net_get *get, uint32_t count,
	    struct err *err)
{
	struct net_job *job = mem_alloc(count, sizeof(*job), err);
	uint32_t left = count;
	int ret = -1, running;
	bool any;

	if (!job || open_jobs(n, get, job, count, err))
		goto out;
	for (;;) {
		if (start_due(job, count, &left, err))
			goto out;
		if (!left)
			break;
		if (n->curl.multi_perform(n->multi, &running)) {
			err_set(err, ERR_RESOURCE, "libcurl gives up");
			goto out;
		}
		if (collect(n, &any, err))
			goto out;
		if (!any)
			n->curl.multi_poll(n->multi, NULL, 0, POLL, NULL);
		/* never 0, which would mean that nothing was begun */
		if (prog_step(n->p, "fetch", n->got + 1, n->want > n->got ?
			      n->want + 1 : n->got + 1, err))
			goto out;
	}
	ret = 0;
out:
	if (job)
		close_jobs(n, job, count);
	free(job);
	return ret;
}
