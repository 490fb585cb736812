/* Any bytes as an address, as the header of an answer and as a server's page.
 * What comes of them must be as narrow as net_addr.h promises. */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/net_addr.h"
#include "../../libfmt/base/net_impl.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define HUB "https://hub.test"

static void require(int truth)
{
	if (!truth)
		abort();
}

static void address(const char *text)
{
	struct net_addr a;
	struct net_url u;
	struct err err;
	char *url;

	if (net_addr_parse(text, HUB, &a, &err)) {
		require(err.msg[0] && !a.base);
		return;
	}
	require(!net_url_parse(a.base, &u));
	require(a.base[strlen(a.base) - 1] == '/');
	require(!a.file || !strchr(a.file, '/'));
	url = net_addr_url(&a, a.file ? a.file : "x", &err);
	/* nothing in a path leads to another host */
	require(url && net_same_origin(url, a.base));
	require(!strncmp(url, a.base, strlen(a.base)));
	free(url);
	net_addr_release(&a);
}

static void head(const char *p, size_t n)
{
	const struct net_get part = { .from = 8, .count = 64 };
	const struct net_get whole = { .whole = true, .count = 64 };
	struct net_head h = { 0 };
	struct err err;

	while (n) {
		const char *nl = memchr(p, '\n', n);
		size_t len = nl ? (size_t)(nl - p) + 1 : n;

		net_head_line(&h, p, len);
		p += len;
		n -= len;
	}
	if (!net_head_check(&part, &h, &err) && h.status == 206)
		require(h.first == 8 && h.last >= 8 && h.last < 72 &&
			h.last < h.total);
	if (!net_head_check(&whole, &h, &err) && h.status == 200)
		require(h.length <= 64);
}

static void page(const char *p, size_t n)
{
	char *names, *at;
	uint32_t count;
	struct err err;

	if (net_page_names(p, n, &names, &count, &err))
		return;
	at = names;
	for (uint32_t i = 0; i < count; i++) {
		require(*at && *at != '.' && !strpbrk(at, "/\\?#:"));
		at += strlen(at) + 1;
	}
	require((size_t)(at - names) <= n);
	free(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	address(text);
	head(text, size);
	page(text, size);
	free(text);
	return 0;
}
