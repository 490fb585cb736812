/* net_answer.c - what an answer says, and whether it is one to the request.
 *
 * Sources: RFC 9110 14 and 15 (ranges, status codes), RFC 6585 (429); the codes
 * of X-Error-Code are the hub's. */
#include "net_addr.h"
#include "net_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_HEAD 512u /* longer fields are none of those read here */

/* ---- the header ---- */

/* "Name: value": the value when the name is this one, else NULL. */
static const char *field(const char *line, const char *name)
{
	size_t n = strlen(name);

	if (strncasecmp(line, name, n) || line[n] != ':')
		return NULL;
	return line + n + 1 + strspn(line + n + 1, " \t");
}

static void read_field(struct net_head *h, const char *line)
{
	const char *v;

	if ((v = field(line, "content-range")) != NULL) {
		h->ranged = true;
		h->bad_range = net_content_range(v, &h->first, &h->last,
						 &h->total) != 0;
	} else if ((v = field(line, "content-length")) != NULL) {
		char *end;
		long long n = strtoll(v, &end, 10);

		h->length = end > v && n >= 0 ? n : -1;
	} else if ((v = field(line, "content-encoding")) != NULL) {
		h->encoded = strcasecmp(v, "identity") != 0;
	} else if ((v = field(line, "retry-after")) != NULL) {
		unsigned long n = strtoul(v, NULL, 10);

		h->wait = n < 100000 ? (uint32_t)n : 100000;
	} else if ((v = field(line, "x-error-code")) != NULL) {
		snprintf(h->code, sizeof(h->code), "%.*s",
			 (int)sizeof(h->code) - 1, v);
	}
}

int net_head_line(struct net_head *h, const char *line, size_t n)
{
	char text[LINE_MAX_HEAD];
	const char *space;

	while (n && strchr("\r\n \t", line[n - 1]) && line[n - 1])
		n--;
	if (!n)
		return 1;
	if (n >= sizeof(text) || memchr(line, 0, n))
		return 0;
	memcpy(text, line, n);
	text[n] = '\0';
	if (strncmp(text, "HTTP/", 5)) {
		read_field(h, text);
		return 0;
	}
	/* the next answer begins (after "100 Continue", say) */
	space = strchr(text, ' ');
	*h = (struct net_head) { .length = -1 };
	h->status = space ? atoi(space) : 0;
	return 0;
}

static int no_ranges(struct err *err)
{
	return err_set(err, ERR_UNSUP, "the server does not answer requests "
		       "for parts of a file; fetch the file and inspect it");
}

static int check_range(const struct net_get *g, const struct net_head *h,
		       struct err *err)
{
	uint64_t n = h->last - h->first + 1;

	if (g->whole)
		return err_set(err, ERR_INPUT, "the server sends a part where "
			       "the whole was wanted");
	if (!h->ranged || h->bad_range || h->first > h->last)
		return err_set(err, ERR_INPUT, "the server does not say which "
			       "part of the file it sends");
	if (h->first != g->from || n > g->count)
		return err_set(err, ERR_INPUT, "the server sends bytes %llu to "
			       "%llu where %llu to %llu were wanted",
			       (unsigned long long)h->first,
			       (unsigned long long)h->last,
			       (unsigned long long)g->from,
			       (unsigned long long)(g->from + g->count - 1));
	if (h->length >= 0 && (uint64_t)h->length != n)
		return err_set(err, ERR_INPUT, "the server says two lengths, "
			       "%lld and %llu", (long long)h->length,
			       (unsigned long long)n);
	if (n < g->count && h->last + 1 != h->total)
		return err_set(err, ERR_INPUT, "the server sends %llu bytes "
			       "where %llu were wanted",
			       (unsigned long long)n,
			       (unsigned long long)g->count);
	return 0;
}

int net_head_check(const struct net_get *g, const struct net_head *h,
		   struct err *err)
{
	if (h->status != 200 && h->status != 206)
		return 0;
	if (h->encoded)
		return err_set(err, ERR_INPUT, "the server sends it "
			       "compressed, which was not asked for");
	if (h->status == 206)
		return check_range(g, h, err);
	if (!g->whole && (g->from || h->length > (int64_t)g->count))
		return no_ranges(err);
	if (h->length > (int64_t)g->count)
		return err_set(err, ERR_INPUT, "larger than the limit of %llu "
			       "bytes", (unsigned long long)g->count);
	return 0;
}

bool net_head_of_all(const struct net_head *h)
{
	return h->status == 401 || h->status == 403 ||
	       !strcmp(h->code, "RepoNotFound") ||
	       !strcmp(h->code, "RevisionNotFound");
}

/* ---- the whole answer ---- */

/* The hub answers 401 also for what is not there, to those it does not know. */
static int refused(const struct net_head *h, bool hub, bool token,
		   struct err *err)
{
	if (!hub)
		return err_set(err, ERR_INPUT, "the server refuses access "
			       "(HTTP %d)", h->status);
	if (!strcmp(h->code, "GatedRepo") && token)
		return err_set(err, ERR_INPUT, "a gated repository, and the "
			       "owner of the token has no access (HTTP %d): "
			       "accept its terms on its page", h->status);
	if (!strcmp(h->code, "GatedRepo"))
		return err_set(err, ERR_INPUT, "a gated repository (HTTP %d): "
			       "accept its terms on its page and put a token "
			       "in HF_TOKEN", h->status);
	if (token)
		return err_set(err, ERR_INPUT, "the hub refuses access with "
			       "this token (HTTP %d)", h->status);
	return err_set(err, ERR_INPUT, "not there, or private or gated (HTTP "
		       "%d): for the last two put a token in HF_TOKEN",
		       h->status);
}

static int missing(const struct net_head *h, struct err *err)
{
	const char *what = "no such file";

	if (!strcmp(h->code, "RepoNotFound"))
		what = "no such repository";
	if (!strcmp(h->code, "RevisionNotFound"))
		what = "no such revision";
	return err_set(err, ERR_INPUT, "%s (HTTP %d)", what, h->status);
}

/* A body that came whole, of a good status. */
static enum net_verdict take(struct net_get *g, const struct net_head *h,
			     struct err *err)
{
	uint64_t want = h->status == 206 ? h->last - h->first + 1 : g->got;

	if (g->got != want) { /* no Content-Length, and cut off */
		err_set(err, ERR_INPUT, "the answer was cut off after %llu of "
			"%llu bytes", (unsigned long long)g->got,
			(unsigned long long)want);
		return NET_AGAIN;
	}
	g->total = h->status == 206 ? h->total : g->got;
	g->there = true;
	return NET_DONE;
}

/* An answer that means "there is no such file".  A repository that is not
 * there is more than that; object stores say 403 to those who may not list. */
static bool is_absence(const struct net_head *h, bool hub)
{
	if (h->status == 404 || h->status == 405 || h->status == 410)
		return !h->code[0] || !strcmp(h->code, "EntryNotFound");
	return h->status == 403 && !hub;
}

enum net_verdict net_answer(struct net_get *g, const struct net_head *h,
			    bool hub, bool token, struct err *err)
{
	if (g->optional && is_absence(h, hub))
		return NET_DONE;
	switch (h->status) {
	case 200:
	case 206:
		return take(g, h, err);
	case 301:
	case 302:
	case 303:
	case 307:
	case 308:
		return NET_MOVED;
	case 401:
	case 403:
		refused(h, hub, token, err);
		return NET_FAILED;
	case 404:
	case 405:
	case 410:
		missing(h, err);
		return NET_FAILED;
	case 416:
		/* nothing at 0: the file is empty */
		if (g->from == 0 && h->ranged && !h->bad_range && !h->total) {
			g->there = true;
			return NET_DONE;
		}
		err_set(err, ERR_INPUT, "the server has no bytes from %llu on "
			"(HTTP 416)", (unsigned long long)g->from);
		return NET_FAILED;
	default:
		err_set(err, ERR_INPUT, "the server answers HTTP %d",
			h->status);
		return h->status == 408 || h->status == 425 ||
		       h->status == 429 || h->status >= 500 ? NET_AGAIN :
							      NET_FAILED;
	}
}

enum net_verdict net_failure(CURLcode rc, const char *text, struct err *err)
{
	if (rc == CURLE_OPERATION_TIMEDOUT)
		text = "the server does not answer, or has become silent";
	err_set(err, rc == CURLE_OUT_OF_MEMORY ? ERR_RESOURCE : ERR_INPUT,
		"%s", text);
	switch ((int)rc) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
	case CURLE_PARTIAL_FILE:
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_HTTP2:
	case CURLE_HTTP2_STREAM:
		return NET_AGAIN;
	default:
		return NET_FAILED;
	}
}
