/* st_plan.h - the inside of struct st_writer, shared by st_write.c (plan, pour,
 * commit), st_layout.c (where every tensor goes, and the JSON that says so) and
 * gguf_write.c (the same for GGUF).  Nobody else includes it. */
#ifndef LIBFMT_CONTAINER_ST_PLAN_H
#define LIBFMT_CONTAINER_ST_PLAN_H

#include "st.h"

#include <stdatomic.h>

struct st_plan {
	char *name;
	enum dtype type;
	int rank;
	uint64_t dim[TENSOR_RANK];
	uint64_t size;            /* bytes */
	uint64_t offset;          /* in the shard's data, then in its file */
	uint32_t shard;
	_Atomic uint64_t poured;  /* bytes so far */
};

struct st_shard {
	char file[64]; /* its name in dir; "" where a path was given */
	char *path;
	int fd;
	uint32_t first, count; /* of the plan, in the order of the calls */
	char *header;          /* padded; freed once written */
	uint64_t header_len, data;
	uint32_t lead;         /* bytes in front that hold header_len: 8 or 0 */
};

struct st_writer {
	struct st_plan *plan;
	size_t count, plan_cap;
	struct st_shard *shard;
	size_t shards, shard_cap;
	struct cJSON *meta;
	char *dir;       /* NULL for a single named file */
	uint64_t bytes;  /* of all tensors */
	int created;
};

/* Refuse equal names, cut the plan into shards of at most `limit` bytes of data
 * (0: one shard) in the order of the calls, place the tensors in each and make
 * its header. */
int st_layout_make(struct st_writer *w, uint64_t limit, struct err *err);
/* Pieces of it: equal names; one more shard, from plan `first` on (NULL on
 * failure). */
int st_layout_names(struct st_writer *w, struct err *err);
struct st_shard *st_layout_shard(struct st_writer *w, uint32_t first,
				 struct err *err);
/* Create the one file of a laid out plan. */
int st_write_file(struct st_writer *w, const char *path, struct err *err);
/* The index of all shards as text on the heap. */
char *st_layout_index(struct st_writer *w, struct err *err);

#endif
