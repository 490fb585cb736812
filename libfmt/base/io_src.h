/* io_src.h - the inside of a struct src; between the files of io only. */
#ifndef LIBFMT_BASE_IO_SRC_H
#define LIBFMT_BASE_IO_SRC_H

#include "io.h"

struct net;

/* What the files of one address share. */
struct io_server {
	struct net *net;
	uint64_t left; /* bytes that may still be fetched */
};

struct src {
	int fd;        /* -1: on a server */
	char *path;
	void *map;     /* NULL for an empty file */
	uint64_t size;
	/* on a server: the map is only reserved, page by page filled */
	struct io_server *server;
	char *url;
	uint8_t *have; /* a bit for each IO_PAGE of it */
};

#define IO_PAGE 4096u
#define IO_FIRST 16384u /* bytes fetched of every file at first */

/* A file on a server of which the first `n` bytes have come. */
int io_remote_new(struct io_server *server, const char *path, const char *url,
		  uint64_t size, const void *first, uint64_t n,
		  struct src **out, struct err *err);

#endif
