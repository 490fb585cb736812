/* Addresses, headers and answers: everything of remote reading that needs no
 * server.  The rest is tests/cli/remote.sh. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/net_addr.h"
#include "../../libfmt/base/net_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HUB "https://hub.test"

struct parsed {
	const char *text, *base, *file, *query, *listing;
};

static void same(const char *a, const char *b)
{
	if (!a || !b)
		assert_ptr_equal(a, b);
	else
		assert_string_equal(a, b);
}

static void addresses(void **state)
{
	static const struct parsed rows[] = {
		{ "hf:own/name", HUB "/own/name/resolve/main/", NULL, NULL,
		  HUB "/api/models/own/name/revision/main" },
		{ "hf:own/na.me-1_b@v1.0", HUB "/own/na.me-1_b/resolve/v1.0/",
		  NULL, NULL, HUB "/api/models/own/na.me-1_b/revision/v1.0" },
		{ "hf:own/name@refs/pr/1",
		  HUB "/own/name/resolve/refs%2Fpr%2F1/", NULL, NULL,
		  HUB "/api/models/own/name/revision/refs%2Fpr%2F1" },
		/* the hub's own pages */
		{ HUB "/own/name", HUB "/own/name/resolve/main/", NULL, NULL,
		  HUB "/api/models/own/name/revision/main" },
		{ HUB "/own/name/", HUB "/own/name/resolve/main/", NULL, NULL,
		  HUB "/api/models/own/name/revision/main" },
		{ HUB "/own/name/tree/dev", HUB "/own/name/resolve/dev/", NULL,
		  NULL, HUB "/api/models/own/name/revision/dev" },
		{ HUB "/own/name/tree/refs%2Fpr%2F1/",
		  HUB "/own/name/resolve/refs%2Fpr%2F1/", NULL, NULL,
		  HUB "/api/models/own/name/revision/refs%2Fpr%2F1" },
		{ HUB "/own/name/tree/main/sub",
		  HUB "/own/name/resolve/main/sub/", NULL, NULL, NULL },
		{ HUB "/own/name/blob/main/sub/a.safetensors",
		  HUB "/own/name/resolve/main/sub/", "a.safetensors", NULL,
		  NULL },
		{ HUB "/own/name/resolve/main/a.bin?download=true",
		  HUB "/own/name/resolve/main/", "a.bin", "?download=true",
		  NULL },
		/* other servers */
		{ "http://h/d/", "http://h/d/", NULL, NULL, NULL },
		{ "http://h/d", "http://h/d/", NULL, NULL, NULL },
		{ "https://h", "https://h/", NULL, NULL, NULL },
		{ "HTTPS://h:8443/", "HTTPS://h:8443/", NULL, NULL, NULL },
		{ "http://[::1]:80/a.gguf", "http://[::1]:80/", "a.gguf", NULL,
		  NULL },
		{ "http://h/own/a%20b.pt?x=1", "http://h/own/", "a b.pt",
		  "?x=1", NULL },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct net_addr a;
		struct err err;
		char *listing;

		if (net_addr_parse(rows[i].text, HUB, &a, &err))
			fail_msg("%s: %s", rows[i].text, err.msg);
		same(a.base, rows[i].base);
		same(a.file, rows[i].file);
		same(a.query, rows[i].query);
		listing = a.hub ? net_addr_listing(&a, &err) : NULL;
		same(listing, rows[i].listing);
		free(listing);
		net_addr_release(&a);
	}
}

static void bad_addresses(void **state)
{
	static const char *const rows[] = { "hf:", "hf:name", "hf:a/b/c",
		"hf:a/b@", "hf:/b", "hf:a/", "hf:../b", "hf:a/.b", "hf:a b/c",
		"hf:a/b?x", "hf:a/b@%2e", "http://", "http:///x",
		"http://me@h/x", "http://me:pw@h/x", "http://h:0/",
		"http://h:/", "http://h:65536/", "http://h:1x/",
		"http://h\\@g/",
		"http://h /x", "http://h/a b", "http://h/#x", "http://[::1/",
		"http://h/%00.bin", "http://h/a%2Fb.bin", "http://h/\xc3\xa4" };
	static char longer[4096];
	struct net_addr a;
	struct err err;

	(void)state;
	memset(longer, 'a', sizeof(longer) - 1);
	memcpy(longer, "http://", 7);
	assert_int_equal(net_addr_parse(longer, HUB, &a, &err), -1);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		if (!net_addr_parse(rows[i], HUB, &a, &err))
			fail_msg("%s was taken", rows[i]);
		assert_int_equal(err.code, ERR_USAGE);
		assert_null(a.base);
	}
	assert_false(net_is_address("hfx"));
	assert_false(net_is_address("/http://"));
	assert_true(net_is_address("HTTP://x"));
}

static void urls_of_files(void **state)
{
	struct net_addr a;
	struct err err;
	char *url;

	(void)state;
	assert_int_equal(net_addr_parse("hf:o/n@x/y", HUB, &a, &err), 0);
	url = net_addr_url(&a, "d/a b%#?.bin", &err);
	same(url, HUB "/o/n/resolve/x%2Fy/d/a%20b%25%23%3F.bin");
	free(url);
	/* only a whole commit pins */
	assert_int_equal(net_addr_pin(&a, NULL, &err), 0);
	assert_int_equal(net_addr_pin(&a, "../../x", &err), 0);
	same(a.base, HUB "/o/n/resolve/x%2Fy/");
	assert_int_equal(net_addr_pin(&a, "0123456789abcdef0123456789abcdef"
				      "01234567", &err), 0);
	same(a.base, HUB "/o/n/resolve/0123456789abcdef0123456789abcdef"
	     "01234567/");
	net_addr_release(&a);
	/* a query belongs to its own file alone */
	assert_int_equal(net_addr_parse("https://s/d/a.bin?key=1", HUB, &a,
					&err), 0);
	url = net_addr_url(&a, "a.bin", &err);
	same(url, "https://s/d/a.bin?key=1");
	free(url);
	url = net_addr_url(&a, "config.json", &err);
	same(url, "https://s/d/config.json");
	free(url);
	net_addr_release(&a);
}

static void origins(void **state)
{
	(void)state;
	assert_true(net_same_origin("https://a/x", "https://A:443/y"));
	assert_false(net_same_origin("https://a", "http://a"));
	assert_false(net_same_origin("https://a", "https://a:8443"));
	assert_false(net_same_origin("https://a", "https://b.a"));
	assert_false(net_same_origin("https://a", "https://a@b/"));
	assert_true(net_is_below("https://a/x", "https://a"));
	assert_true(net_is_below("https://a/x/y", "https://a/x"));
	assert_false(net_is_below("https://a/xy", "https://a/x"));
	assert_false(net_is_below("https://a/x/../y", "https://a/x"));
	assert_false(net_is_below("https://b/x/y", "https://a/x"));
	assert_true(net_may_follow("https://a/", "https://b/"));
	assert_true(net_may_follow("http://a/", "https://b/"));
	assert_true(net_may_follow("http://a/", "http://a:8080/"));
	assert_false(net_may_follow("https://a/", "http://a/"));
	assert_false(net_may_follow("http://a/", "http://b/"));
	assert_false(net_may_follow("http://a/", "file:///etc/passwd"));
	assert_false(net_may_follow("http://a/", "https://u@b/"));
}

static void ranges(void **state)
{
	uint64_t a, b, n;

	(void)state;
	assert_int_equal(net_content_range("bytes 0-9/10", &a, &b, &n), 0);
	assert_int_equal(a, 0);
	assert_int_equal(b, 9);
	assert_int_equal(n, 10);
	assert_int_equal(net_content_range(" Bytes 5-5/7 ", &a, &b, &n), 0);
	assert_int_equal(net_content_range("bytes */0", &a, &b, &n), 0);
	assert_true(a > b);
	assert_int_equal(n, 0);
	assert_int_equal(net_content_range("bytes 0-9/*", &a, &b, &n), -1);
	assert_int_equal(net_content_range("bytes 0-10/10", &a, &b, &n), -1);
	assert_int_equal(net_content_range("bytes 4-3/10", &a, &b, &n), -1);
	assert_int_equal(net_content_range("bytes -3/10", &a, &b, &n), -1);
	assert_int_equal(net_content_range("bytes 0-9/10x", &a, &b, &n), -1);
	assert_int_equal(net_content_range("items 0-9/10", &a, &b, &n), -1);
	assert_int_equal(net_content_range("bytes 0-9/99999999999999999999",
					   &a, &b, &n), -1);
	assert_int_equal(net_content_range("", &a, &b, &n), -1);
}

static void pages(void **state)
{
	static const char html[] = "<a href=\"../\">..</a><A HREF='a.bin'>"
		"<a href=\"./b%2D1.bin\"><a href=\"d/\"><a href=\"/x\">"
		"<a href=\"?C=N\"><a href=\"http://h/x\"><a href=\"\">"
		"<a href=\".git\"><a href=\"%2ex\"><a href=\"c%2fd\">"
		"<a href=\"%0a\">"
		"<a href=\"%zz\"><a href=plain><a href=\"open";
	char *names;
	uint32_t n;
	struct err err;

	(void)state;
	assert_int_equal(net_page_names(html, sizeof(html) - 1, &names, &n,
					&err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(names, "a.bin");
	assert_string_equal(names + 6, "b-1.bin");
	free(names);
}

/* ---- answers ---- */

static void add(struct net_head *h, const char *line)
{
	assert_int_equal(net_head_line(h, line, strlen(line)), 0);
}

static void heads(void **state)
{
	struct net_get g = { .from = 10, .count = 5 };
	struct net_head h = { 0 };
	struct err err;

	(void)state;
	add(&h, "HTTP/1.1 100 Continue\r\n");
	add(&h, "Content-Length: 77\r\n");
	assert_int_equal(net_head_line(&h, "\r\n", 2), 1);
	add(&h, "HTTP/2 206\r\n"); /* forgets the answer before */
	assert_int_equal(h.length, -1);
	add(&h, "content-range:bytes 10-14/20\r\n");
	add(&h, "Content-Length: 5\r\n");
	add(&h, "Retry-After: 99999999999999999999\r\n");
	add(&h, "X-Error-Code: EntryNotFoundEntryNotFoundEntryNotFound\r\n");
	assert_int_equal(h.status, 206);
	assert_int_equal(net_head_check(&g, &h, &err), 0);
	h.length = 6;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	h.length = -1;
	h.first = 9;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	h.first = 10;
	h.last = 13; /* short, and not at the end */
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	h.total = 14;
	assert_int_equal(net_head_check(&g, &h, &err), 0);
	h.encoded = true;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	h.encoded = false;
	h.ranged = false;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	/* the whole file for a part of it, seen before its bytes come */
	h = (struct net_head) { .status = 200, .length = -1 };
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	assert_int_equal(err.code, ERR_UNSUP);
	g.from = 0;
	h.length = 5;
	assert_int_equal(net_head_check(&g, &h, &err), 0);
	h.length = 6;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	g.whole = true;
	assert_int_equal(net_head_check(&g, &h, &err), -1);
	assert_int_equal(err.code, ERR_INPUT);
}

static enum net_verdict judge(int status, const char *code, bool optional,
			      bool hub, bool token, struct err *err)
{
	struct net_get g = { .optional = optional, .count = 1 };
	struct net_head h = { .status = status };

	strcpy(h.code, code);
	return net_answer(&g, &h, hub, token, err);
}

static void verdicts(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(judge(301, "", 0, 0, 0, &err), NET_MOVED);
	assert_int_equal(judge(429, "", 0, 0, 0, &err), NET_AGAIN);
	assert_int_equal(judge(503, "", 0, 0, 0, &err), NET_AGAIN);
	assert_int_equal(judge(400, "", 0, 0, 0, &err), NET_FAILED);
	assert_int_equal(judge(404, "", 0, 0, 0, &err), NET_FAILED);
	assert_int_equal(judge(404, "", 1, 0, 0, &err), NET_DONE);
	assert_int_equal(judge(403, "", 1, 0, 0, &err), NET_DONE);
	/* what is true of the repository is true of its optional files */
	assert_int_equal(judge(403, "", 1, 1, 0, &err), NET_FAILED);
	assert_int_equal(judge(404, "RepoNotFound", 1, 1, 0, &err),
			 NET_FAILED);
	assert_non_null(strstr(err.msg, "no such repository"));
	assert_int_equal(judge(401, "GatedRepo", 0, 1, 0, &err), NET_FAILED);
	assert_non_null(strstr(err.msg, "HF_TOKEN"));
	assert_int_equal(err.code, ERR_INPUT);
	assert_int_equal(judge(403, "GatedRepo", 0, 1, 1, &err), NET_FAILED);
	assert_non_null(strstr(err.msg, "has no access"));
	assert_int_equal(judge(416, "", 0, 0, 0, &err), NET_FAILED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses),
		cmocka_unit_test(bad_addresses),
		cmocka_unit_test(urls_of_files),
		cmocka_unit_test(origins),
		cmocka_unit_test(ranges),
		cmocka_unit_test(pages),
		cmocka_unit_test(heads),
		cmocka_unit_test(verdicts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
