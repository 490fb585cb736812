/* torch.h - PyTorch files (.bin, .pt, .pth): the zip container of torch 1.6
 * and later, and the older one of five pickles with raw storages behind.
 *
 * Nothing in such a file is ever executed.  The pickle is read as data by a
 * stack machine that knows the instructions of a state dict, a closed list of
 * names and what each of them means (torch_objects.c); any other name is
 * refused and said.  Memory is bounded by the length of the pickle.
 *
 * Tensors are handed out dense, in C order.  Those that lie so in the file
 * point into it, also where several share a storage; transposed, sliced and
 * expanded ones are copied when the file is opened, and the copies together
 * may not be larger than twice the file.  So are the storages of archives that
 * were packed again with compression (torch stores), up to 16 times the file.
 *
 * Source: gptq-formats(5) "PyTorch files". */
#ifndef LIBFMT_CONTAINER_TORCH_H
#define LIBFMT_CONTAINER_TORCH_H

#include "tensor.h"

struct err;
struct progress;
struct src;

struct torch_file {
	struct tensor *tensor; /* in the order of the state dict */
	uint32_t count;
	uint32_t odd;          /* enum st_odd, what was tolerated */
	void *mem;             /* tensors and their names */
	void *copies;          /* data of those not dense in the file */
	void *inflated;        /* storages that were compressed in it */
};

/* Tensors point into src and live as long as it and *out.  `flags` are enum
 * st_flags.  On failure *out is zeroed; the message does not begin with the
 * path. */
int torch_zip_open(struct src *s, struct torch_file *out, struct err *err);
/* Compare every entry of an archive that torch_zip_open took with its checksum,
 * where one is given: torch can be told to leave 0 there.  ERR_CHECK names the
 * first that differs. */
int torch_zip_verify(struct src *s, const struct progress *p, struct err *err);
int torch_legacy_open(struct src *s, unsigned flags, struct torch_file *out,
		      struct err *err);
void torch_close(struct torch_file *f); /* accepts a zeroed struct */

#endif
