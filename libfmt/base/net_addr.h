/* net_addr.h - addresses of checkpoints on servers, taken apart.
 *
 *	hf:OWNER/NAME[@REVISION]          a repository of the hub
 *	https://HUB/OWNER/NAME[...]       the same, as the browser shows it:
 *	                                  /tree/REV, /blob/REV/FILE,
 *	                                  /resolve/REV/FILE
 *	http(s)://HOST/PATH/              a directory of any server
 *	http(s)://HOST/PATH/FILE.END      one file (END of a weight file)
 *
 * What is accepted is narrow: no user names, no blanks, backslashes or control
 * characters, only letters, digits, "." and "-" in a host, so that no two
 * parsers can disagree about which host is meant.  Pure text: nothing here
 * opens a connection. */
#ifndef LIBFMT_BASE_NET_ADDR_H
#define LIBFMT_BASE_NET_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define NET_HUB "https://huggingface.co" /* unless HF_ENDPOINT says other */

struct net_url {
	bool https;
	char host[256];   /* in small letters; of IPv6 with its brackets */
	uint16_t port;
	const char *path; /* inside the text, from its "/" on (or "") */
};

struct net_addr {
	char *shown; /* for messages: as given, no query, no "/" at the end */
	char *base;  /* URL of the directory, with "/" at the end */
	char *file;  /* name of the one file in it; NULL: the directory */
	char *query; /* "?..." of that file's URL, or NULL */
	char *hub;   /* endpoint, when this is a repository of it; or NULL */
	char *repo;  /* then: "OWNER/NAME" */
	char *rev;   /* and the revision, not encoded */
};

/* 1 for what begins with hf:, http:// or https://. */
int net_is_address(const char *text);
/* `endpoint` is the hub's URL, without "/" at the end.  A bad address is
 * ERR_USAGE. */
int net_addr_parse(const char *text, const char *endpoint,
		   struct net_addr *out, struct err *err);
void net_addr_release(struct net_addr *a); /* accepts a zeroed struct */
/* From now on mean this commit (40 hexadecimal digits; anything else is left
 * alone) of the repository. */
int net_addr_pin(struct net_addr *a, const char *commit, struct err *err);
/* Where the hub lists the repository's files. */
char *net_addr_listing(const struct net_addr *a, struct err *err);
/* The URL of a file below the directory; the name is encoded. */
char *net_addr_url(const struct net_addr *a, const char *name,
		   struct err *err);

/* -1 when the text is no URL of ours. */
int net_url_parse(const char *text, struct net_url *out);
/* Scheme, host and port are equal. */
bool net_same_origin(const char *a, const char *b);
/* Of the same origin, and below its path: who may see the token. */
bool net_is_below(const char *url, const char *root);
/* May a redirect go there?  To https always; to http only from http and to
 * the same host. */
bool net_may_follow(const char *from, const char *to);

/* n percent-encoded bytes to text, in n + 1 bytes at most; -1 when they are
 * badly encoded or hold control characters. */
int net_decode(const char *s, size_t n, char *out);

/* "Content-Range: bytes FIRST-LAST/TOTAL", the part behind the colon; -1 when
 * it is none, or the total is not said.  "bytes * /TOTAL" (no such range) gives
 * FIRST 1 and LAST 0. */
int net_content_range(const char *text, uint64_t *first, uint64_t *last,
		      uint64_t *total);

/* The links to plain names in a server's page about a directory, decoded, one
 * after another with a NUL behind each; free() frees them.  Not in order, and
 * a name may come twice. */
int net_page_names(const char *html, size_t len, char **names,
		   uint32_t *count, struct err *err);

#endif
