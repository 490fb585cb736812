/* net_impl.h - between the files of net only. */
#ifndef LIBFMT_BASE_NET_IMPL_H
#define LIBFMT_BASE_NET_IMPL_H

#include "err.h"
#include "net.h"

#include <curl/curl.h>

/* The part of libcurl that is used. */
struct net_curl {
	void *lib;
	CURLcode (*global_init)(long flags);
	CURL *(*easy_init)(void);
	CURLcode (*easy_setopt)(CURL *, CURLoption, ...);
	CURLcode (*easy_getinfo)(CURL *, CURLINFO, ...);
	void (*easy_cleanup)(CURL *);
	const char *(*easy_strerror)(CURLcode);
	CURLM *(*multi_init)(void);
	CURLMcode (*multi_add_handle)(CURLM *, CURL *);
	CURLMcode (*multi_remove_handle)(CURLM *, CURL *);
	CURLMcode (*multi_perform)(CURLM *, int *);
	CURLMcode (*multi_poll)(CURLM *, struct curl_waitfd *, unsigned, int,
				int *);
	CURLMsg *(*multi_info_read)(CURLM *, int *);
	CURLMcode (*multi_cleanup)(CURLM *);
	struct curl_slist *(*slist_append)(struct curl_slist *, const char *);
	void (*slist_free_all)(struct curl_slist *);
};

int net_curl_open(struct net_curl *c, struct err *err);

/* The header of an answer, as far as it matters. */
struct net_head {
	int status;
	bool ranged;       /* Content-Range is there: */
	bool bad_range;    /* and makes no sense */
	uint64_t first, last, total;
	int64_t length;    /* Content-Length; -1: not said */
	bool encoded;      /* the body is not the file's bytes */
	uint32_t wait;     /* Retry-After in seconds */
	char code[32];     /* X-Error-Code of the hub */
};

/* One request on its way. */
struct net_job {
	struct net *net;
	struct net_get *get;
	CURL *easy;
	struct curl_slist *fields;
	char *url;          /* of this hop */
	uint32_t hops, tries;
	double due;         /* when to start it; seconds, monotonic */
	bool active, done;
	size_t room;        /* of get->data */
	struct net_head head;
	struct err why;     /* refused while it came; code 0: not */
	char text[CURL_ERROR_SIZE];
};

enum net_verdict { NET_DONE, NET_AGAIN, NET_MOVED, NET_FAILED };

/* A line of the header into *h; 1 at its end. */
int net_head_line(struct net_head *h, const char *line, size_t n);
/* The header is complete: may the body come?  -1 with err when not. */
int net_head_check(const struct net_get *g, const struct net_head *h,
		   struct err *err);
/* Is the answer about the repository or site as a whole? */
bool net_head_of_all(const struct net_head *h);
/* The answer has come whole. */
enum net_verdict net_answer(struct net_get *g, const struct net_head *h,
			    bool hub, bool token, struct err *err);
/* It has not: why not, and is it worth another try? */
enum net_verdict net_failure(CURLcode rc, const char *text, struct err *err);

#endif
