/* net_addr.c - addresses and the few texts of HTTP that are read here.
 *
 * Sources: RFC 3986 (URLs), RFC 9110 14.4 (Content-Range); the paths of the hub
 * are those of its file pages. */
#include "net_addr.h"

#include "err.h"
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TEXT_MAX 2048u /* bytes of an address */
#define NAME_MAX_HUB 96u

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static int is_plain(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int begins(const char *s, const char *start)
{
	return !strncasecmp(s, start, strlen(start));
}

int net_is_address(const char *text)
{
	return begins(text, "hf:") || begins(text, "http://") ||
	       begins(text, "https://");
}

/* a + b + c on the heap. */
static char *join(const char *a, const char *b, const char *c,
		  struct err *err)
{
	size_t na = strlen(a), nb = strlen(b), nc = strlen(c);
	char *s = mem_alloc(na + nb + nc + 1, 1, err);

	if (!s)
		return NULL;
	memcpy(s, a, na);
	memcpy(s + na, b, nb);
	memcpy(s + na + nb, c, nc);
	return s;
}

/* Percent-encode what is not unreserved in a path; "/" stays with `slash`. */
static char *encode(const char *s, bool slash, struct err *err)
{
	char *out = mem_alloc(3 * strlen(s) + 1, 1, err), *p = out;

	for (; out && *s; s++) {
		if (is_plain(*s) || strchr("-._~", *s) ||
		    (slash && *s == '/'))
			*p++ = *s;
		else
			p += sprintf(p, "%%%02X", (unsigned char)*s);
	}
	return out;
}

/* ---- URLs ---- */

/* The host's characters up to ":" or "/"; the length, 0 when it is none. */
static size_t host_length(const char *s)
{
	size_t n = 0;

	if (*s == '[') {
		n = 1 + strspn(s + 1, "0123456789abcdefABCDEF:.");
		return s[n] == ']' && n > 2 ? n + 1 : 0;
	}
	while (is_plain(s[n]) || s[n] == '-' || s[n] == '.')
		n++;
	return n;
}

int net_url_parse(const char *text, struct net_url *out)
{
	const char *p = text;
	unsigned long port;
	size_t n;

	for (n = 0; p[n]; n++)
		if (p[n] <= ' ' || p[n] == 0x7f || p[n] == '\\' || n > 65535)
			return -1; /* bytes above 127 are negative */
	if (!begins(p, "http://") && !begins(p, "https://"))
		return -1;
	out->https = begins(p, "https://");
	p += out->https ? 8 : 7;
	n = host_length(p);
	if (!n || n >= sizeof(out->host))
		return -1;
	for (size_t i = 0; i < n; i++)
		out->host[i] = p[i] >= 'A' && p[i] <= 'Z' ?
			       (char)(p[i] | 0x20) : p[i];
	out->host[n] = '\0';
	p += n;
	out->port = out->https ? 443 : 80;
	if (*p == ':') {
		n = strspn(p + 1, "0123456789");
		port = strtoul(p + 1, NULL, 10);
		if (!n || n > 5 || !port || port > 65535)
			return -1;
		out->port = (uint16_t)port;
		p += 1 + n;
	}
	if (*p && !strchr("/?#", *p))
		return -1;
	out->path = p;
	return 0;
}

bool net_same_origin(const char *a, const char *b)
{
	struct net_url x, y;

	return !net_url_parse(a, &x) && !net_url_parse(b, &y) &&
	       x.https == y.https && x.port == y.port &&
	       !strcmp(x.host, y.host);
}

bool net_is_below(const char *url, const char *root)
{
	struct net_url x, y;
	size_t n;

	if (!net_same_origin(url, root) || net_url_parse(url, &x) ||
	    net_url_parse(root, &y))
		return false;
	n = strlen(y.path);
	/* a dot segment would lead out again */
	return !strncmp(x.path, y.path, n) && !strstr(x.path, "/.") &&
	       (!n || x.path[n] == '/' || y.path[n - 1] == '/');
}

bool net_may_follow(const char *from, const char *to)
{
	struct net_url x, y;

	if (net_url_parse(from, &x) || net_url_parse(to, &y))
		return false;
	return y.https || (!x.https && !strcmp(x.host, y.host));
}

/* ---- the hub ---- */

/* One part of a repository's name. */
static int is_part(const char *s, size_t n)
{
	if (!n || n > NAME_MAX_HUB || *s == '.' || *s == '-')
		return 0;
	for (size_t i = 0; i < n; i++)
		if (!is_plain(s[i]) && !strchr("-._", s[i]))
			return 0;
	return 1;
}

static int set_base(struct net_addr *a, const char *rev, struct err *err)
{
	char *code = encode(rev, false, err), *root = NULL;

	free(a->base);
	a->base = NULL;
	if (code)
		root = join(a->hub, "/", a->repo, err);
	if (root)
		a->base = join(root, "/resolve/", code, err);
	free(root);
	root = a->base;
	a->base = root ? join(root, "/", "", err) : NULL;
	free(root);
	free(code);
	return a->base ? 0 : -1;
}

/* "OWNER/NAME" of `n` bytes at a revision of `m` (none: main). */
static int set_repo(struct net_addr *a, const char *endpoint,
		    const char *repo, size_t n, const char *rev, size_t m,
		    struct err *err)
{
	char text[TEXT_MAX + 1];

	if (m && net_decode(rev, m, text))
		return err_set(err, ERR_USAGE, "%s: no revision", a->shown);
	a->hub = mem_text(endpoint, strlen(endpoint), err);
	a->repo = mem_text(repo, n, err);
	a->rev = m ? mem_text(text, strlen(text), err) :
		     mem_text("main", 4, err);
	if (!a->hub || !a->repo || !a->rev)
		return -1;
	return set_base(a, a->rev, err);
}

/* The length of "OWNER/NAME" at s, whatever follows; 0: it is none. */
static size_t repo_length(const char *s)
{
	size_t owner = strcspn(s, "/@?#"), name;

	if (s[owner] != '/')
		return 0;
	name = strcspn(s + owner + 1, "/@?#");
	if (!is_part(s, owner) || !is_part(s + owner + 1, name))
		return 0;
	return owner + 1 + name;
}

static int parse_hub(const char *text, const char *endpoint,
		     struct net_addr *out, struct err *err)
{
	const char *repo = text + 3;
	size_t n = repo_length(repo), m;

	m = n && repo[n] == '@' ? strlen(repo + n + 1) : 0;
	if (!n || (repo[n] && !m))
		return err_set(err, ERR_USAGE, "%s: is not "
			       "hf:OWNER/NAME[@REVISION]", text);
	/* "%" is a character here like any other */
	if (strchr(repo + n, '%'))
		return err_set(err, ERR_USAGE, "%s: no revision", text);
	return set_repo(out, endpoint, repo, n, repo + n + (m ? 1 : 0), m,
			err);
}

int net_addr_pin(struct net_addr *a, const char *commit, struct err *err)
{
	if (!a->hub || !commit ||
	    strspn(commit, "0123456789abcdef") != 40 || commit[40])
		return 0;
	return set_base(a, commit, err);
}

char *net_addr_listing(const struct net_addr *a, struct err *err)
{
	char *code = encode(a->rev, false, err), *root = NULL, *url = NULL;

	if (code)
		root = join(a->hub, "/api/models/", a->repo, err);
	if (root)
		url = join(root, "/revision/", code, err);
	free(root);
	free(code);
	return url;
}

char *net_addr_url(const struct net_addr *a, const char *name,
		   struct err *err)
{
	char *code = encode(name, true, err), *url = NULL;
	bool own = a->file && !strcmp(a->file, name);

	if (code)
		url = join(a->base, code, own && a->query ? a->query : "",
			   err);
	free(code);
	return url;
}

/* ---- addresses ---- */

static int is_weights(const char *name)
{
	static const char *const ends[] = { ".safetensors", ".bin", ".pt",
		".pth", ".gguf" };
	size_t n = strlen(name);

	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
		if (n > strlen(ends[i]) &&
		    !strcasecmp(name + n - strlen(ends[i]), ends[i]))
			return 1;
	return 0;
}

/* A URL of `n` bytes before its query, cut behind the last "/" when it names
 * a file. */
static int set_plain(struct net_addr *a, const char *url, size_t n,
		     bool is_file, struct err *err)
{
	char name[TEXT_MAX + 1];
	size_t cut = n;

	if (url[n - 1] == '/')
		return (a->base = mem_text(url, n, err)) ? 0 : -1;
	if (!is_file) {
		char *dir = mem_text(url, n, err);

		a->base = dir ? join(dir, "/", "", err) : NULL;
		free(dir);
		return a->base ? 0 : -1;
	}
	while (url[cut - 1] != '/')
		cut--;
	if (net_decode(url + cut, n - cut, name) || strchr(name, '/'))
		return err_set(err, ERR_USAGE, "%s: no name of a file",
			       a->shown);
	a->base = mem_text(url, cut, err);
	a->file = mem_text(name, strlen(name), err);
	if (url[n])
		a->query = mem_text(url + n, strlen(url + n), err);
	return a->base && a->file && (!url[n] || a->query) ? 0 : -1;
}

/* The length of the word that a page of the hub has behind the repository's
 * name; 0: none of those. */
static size_t page_length(const char *p)
{
	static const char *const words[] = { "/tree/", "/blob/", "/resolve/" };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
		if (!strncmp(p, words[i], strlen(words[i])))
			return strlen(words[i]);
	return 0;
}

/* What lies deeper in a repository: below /resolve/, whatever page was
 * shown.  `rest` has n bytes before its query. */
static int set_deeper(struct net_addr *a, const struct net_addr *repo,
		      const char *rest, size_t n, struct err *err)
{
	char *url = join(repo->base, rest, "", err);
	int ret = -1;

	if (url)
		ret = set_plain(a, url, strlen(repo->base) + n,
				is_weights(a->shown), err);
	free(url);
	return ret;
}

/* A page of the hub, `path` being its part behind the endpoint with `n` bytes
 * before a query.  1: done; 0: this is none. */
static int parse_page(const char *path, size_t n, const char *endpoint,
		      struct net_addr *a, struct err *err)
{
	size_t repo = repo_length(path), word, rev;
	struct net_addr r = { .shown = a->shown };
	const char *p = path + repo, *end = path + n;
	int ret;

	if (!repo || !strncmp(path, "api/", 4))
		return 0;
	if (end - p <= (*p == '/'))
		return set_repo(a, endpoint, path, repo, "", 0, err) ? -1 : 1;
	word = page_length(p);
	p += word;
	rev = word ? strcspn(p, "/?") : 0;
	if (!rev)
		return 0;
	if (end - (p + rev) <= (p[rev] == '/'))
		return set_repo(a, endpoint, path, repo, p, rev, err) ? -1 : 1;
	ret = set_repo(&r, endpoint, path, repo, p, rev, err);
	p += rev + 1;
	if (!ret)
		ret = set_deeper(a, &r, p, (size_t)(end - p), err);
	r.shown = NULL;
	net_addr_release(&r);
	return ret ? -1 : 1;
}

static int parse_url(const char *text, const char *endpoint,
		     struct net_addr *a, struct err *err)
{
	size_t n = strcspn(text, "?#"), hub = strlen(endpoint);
	struct net_url u;
	char *slashed = NULL;
	int ret;

	if (net_url_parse(text, &u))
		return err_set(err, ERR_USAGE, "%s: is no address that can be "
			       "read (http or https, a host, no user name, no "
			       "blanks)", text);
	if (strchr(text, '#'))
		return err_set(err, ERR_USAGE, "%s: an address with '#' names "
			       "no file", text);
	if (net_is_below(text, endpoint) && text[hub] == '/') {
		ret = parse_page(text + hub + 1, n - hub - 1, endpoint, a, err);
		if (ret)
			return ret < 0 ? -1 : 0;
	}
	if (u.path == text + n) { /* a bare host */
		slashed = mem_text(text, n, err);
		a->base = slashed ? join(slashed, "/", "", err) : NULL;
		free(slashed);
		return a->base ? 0 : -1;
	}
	return set_plain(a, text, n, is_weights(a->shown), err);
}

int net_addr_parse(const char *text, const char *endpoint,
		   struct net_addr *out, struct err *err)
{
	size_t n = strcspn(text, "?#");
	int ret = -1;

	memset(out, 0, sizeof(*out));
	if (strlen(text) > TEXT_MAX)
		return err_set(err, ERR_USAGE, "an address of %zu bytes is too "
			       "long", strlen(text));
	while (n > 1 && text[n - 1] == '/')
		n--;
	out->shown = mem_text(text, n, err);
	if (out->shown)
		ret = begins(text, "hf:") ?
		      parse_hub(text, endpoint, out, err) :
		      parse_url(text, endpoint, out, err);
	if (ret)
		net_addr_release(out);
	return ret;
}

void net_addr_release(struct net_addr *a)
{
	free(a->shown);
	free(a->base);
	free(a->file);
	free(a->query);
	free(a->hub);
	free(a->repo);
	free(a->rev);
	memset(a, 0, sizeof(*a));
}
