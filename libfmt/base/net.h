/* net.h - bytes from HTTP servers, many requests side by side.
 *
 * One session (struct net) per program run and thread.  libcurl does the
 * protocol and is opened at run time, by the first address that is given: the
 * program starts in half the time without it, and runs where it is not
 * installed.
 *
 * What a server may not do: send us on to plain http or make us send the
 * hub's token to anybody else; answer a request for a range with a whole file
 * (noticed at the header of the answer, before the bytes come); say one length
 * and send another; stall.  What is only bad luck (a connection cut off, HTTP
 * 429 and 5xx) is tried again, a few times and after a pause.
 *
 * Environment: HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH, else
 * $HF_HOME/token, else ~/.cache/huggingface/token; HF_HUB_DOWNLOAD_TIMEOUT,
 * the seconds that a server may be silent; and what libcurl knows
 * (https_proxy, no_proxy).
 *
 * Files: net.c sessions and the loop, net_answer.c judges answers, net_curl.c
 * opens the library; addresses are in net_addr.h. */
#ifndef LIBFMT_BASE_NET_H
#define LIBFMT_BASE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct net;
struct progress;

struct net_get {
	char *url, *name;       /* borrowed; name: for messages */
	char *site;             /* of what belongs to; for messages that are
				   about all of its files; or NULL */
	bool whole;             /* no range, and `count` is a limit */
	bool optional;          /* not there is an answer, no failure */
	uint64_t from, count;   /* the range; it may end behind the file */
	void *into;             /* room for `count` bytes, or NULL: `data` */
	/* the answer */
	bool there;
	char *data;     /* without `into`: got bytes and a NUL, the caller's to
			   free, also after a failure */
	uint64_t got;   /* bytes that came */
	uint64_t total; /* bytes of the file */
};

/* ERR_UNSUP without libcurl.  *p stays the caller's and may be NULL; told to
 * stop, every call ends with ERR_INTR. */
int net_open(const struct progress *p, struct net **out, struct err *err);
void net_close(struct net *n); /* accepts NULL */
/* The hub's URL, from the environment, without "/" at the end. */
const char *net_endpoint(const struct net *n);

/* All of them, several at a time.  The first failure ends the rest. */
int net_get(struct net *n, struct net_get *get, uint32_t count,
	    struct err *err);

#endif
