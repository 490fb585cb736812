/* journal.h - what a job has done so far, so that an interrupted one goes on.
 *
 *	.NAME.partial/       beside the output NAME
 *		journal      lines of JSON
 *		out/         the folder as it grows; renamed to NAME at the end
 *
 * The first line is the job's identity, then one says that the folder was laid
 * out, then one for each block, written when the block's bytes are safe on
 * disk: {"block": 3, "linears": [{name, ..., hash}]}.  Lines are synced as they
 * are written; a line that was cut off by a crash counts as not written.
 *
 * A lock on the journal keeps two runs from writing one output. */
#ifndef QUANT_JOURNAL_H
#define QUANT_JOURNAL_H

#include "walk.h"

struct cJSON;
struct gq_journal;

enum gq_journal_how {
	GQ_JOURNAL_NEW = 0, /* ERR_USAGE when there are blocks to go on with */
	GQ_JOURNAL_RESUME,  /* go on where there is something to go on with */
	GQ_JOURNAL_DISCARD  /* begin anew, whatever is there */
};

/* Find or make the directory for the output `final`.  What an earlier run left
 * there without finishing a block is discarded. */
int gq_journal_open(const char *final, enum gq_journal_how how,
		    struct gq_journal **out, struct err *err);
const char *gq_journal_dir(const struct gq_journal *j); /* .NAME.partial */
const char *gq_journal_out(const struct gq_journal *j); /* its out/ */

/* Take `identity` as the job's: compared when there is one already (ERR_INPUT
 * naming what differs), else written. */
int gq_journal_bind(struct gq_journal *j, const struct cJSON *identity,
		    struct err *err);
/* Number of blocks that are done, the head counting as one more behind the
 * last; the record of one. */
uint32_t gq_journal_blocks(const struct gq_journal *j);
const struct cJSON *gq_journal_linears(const struct gq_journal *j,
				       uint32_t block);
/* Was the folder laid out, with all tensors that stay? */
bool gq_journal_laid_out(const struct gq_journal *j);
int gq_journal_lay_out(struct gq_journal *j, struct err *err);
/* The next block is done; `linears` is an array and becomes the journal's. */
int gq_journal_add(struct gq_journal *j, struct cJSON *linears,
		   struct err *err);

/* The output has its name: remove what is left of the directory. */
void gq_journal_finish(struct gq_journal *j);
/* Without finish: the directory stays where there is a block to go on with,
 * else it is removed.  Accepts NULL. */
void gq_journal_close(struct gq_journal *j);

/* A linear's row, and back; `hash` is that of its bytes in the folder. */
struct cJSON *gq_journal_row(const struct gq_layer_report *r,
			     const char *hash);
int gq_journal_read_row(const struct cJSON *row, struct gq_layer_report *r,
			const char **hash, struct err *err);

#endif
