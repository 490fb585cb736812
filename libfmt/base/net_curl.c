/* net_curl.c - libcurl, opened when it is needed.
 *
 * Linked in, it and the thirty libraries behind it would cost every start of
 * the program 5 ms, more than all the rest of it. */
#include "net_impl.h"

#include <dlfcn.h>
#include <string.h>

static const char *const names[] = { "libcurl.so.4", "libcurl-gnutls.so.4",
	"libcurl.4.dylib", "libcurl.dylib" };

/* dlsym returns a data pointer; ISO C has no cast from that to a function. */
static int find(void *lib, const char *name, void *fn, struct err *err)
{
	void *p = dlsym(lib, name);

	if (!p)
		return err_set(err, ERR_UNSUP, "libcurl is too old: it has no "
			       "%s (7.66 or later is needed)", name);
	memcpy(fn, &p, sizeof(p));
	return 0;
}

int net_curl_open(struct net_curl *c, struct err *err)
{
	const struct {
		const char *name;
		void *fn;
	} want[] = {
		{ "curl_global_init", &c->global_init },
		{ "curl_easy_init", &c->easy_init },
		{ "curl_easy_setopt", &c->easy_setopt },
		{ "curl_easy_getinfo", &c->easy_getinfo },
		{ "curl_easy_cleanup", &c->easy_cleanup },
		{ "curl_easy_strerror", &c->easy_strerror },
		{ "curl_multi_init", &c->multi_init },
		{ "curl_multi_add_handle", &c->multi_add_handle },
		{ "curl_multi_remove_handle", &c->multi_remove_handle },
		{ "curl_multi_perform", &c->multi_perform },
		{ "curl_multi_poll", &c->multi_poll },
		{ "curl_multi_info_read", &c->multi_info_read },
		{ "curl_multi_cleanup", &c->multi_cleanup },
		{ "curl_slist_append", &c->slist_append },
		{ "curl_slist_free_all", &c->slist_free_all },
	};

	for (size_t i = 0; !c->lib && i < sizeof(names) / sizeof(*names); i++)
		c->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	if (!c->lib)
		return err_set(err, ERR_UNSUP, "libcurl is not installed here, "
			       "and addresses are read through it; fetch the "
			       "folder and inspect it");
	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++)
		if (find(c->lib, want[i].name, want[i].fn, err))
			return -1;
	if (c->global_init(CURL_GLOBAL_DEFAULT))
		return err_set(err, ERR_RESOURCE, "libcurl does not start");
	return 0;
}
