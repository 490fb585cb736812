/* acts.h - the activations of all calibration windows: f32 rows, on the device
 * or, where memory is short, in a scratch file of which one window at a time is
 * on the device.  The values are the same either way.
 *
 * The file has no name: it is gone with the process, however that ends.  Its
 * space is reserved at the start, so that the disk cannot be full hours
 * later. */
#ifndef QUANT_ACTS_H
#define QUANT_ACTS_H

#include "../runtime/linear.h"

#include <stdbool.h>

struct gq_acts {
	const struct rt_dev *dev;
	uint32_t rows;     /* of a window */
	uint32_t cols;     /* the widest window */
	struct be_mat all; /* all windows, or in a file: the one at hand */
	bool in_file;
	int fd;
	void *stage;       /* host memory between the two */
};

/* Room for `windows` windows of [rows][cols], to which a->rows and a->cols are
 * set; `dir` is where the file goes, NULL: all on the device.  ERR_RESOURCE
 * when there is no room.  On failure *a is zeroed. */
int gq_acts_init(struct gq_acts *a, const struct rt_dev *d, uint32_t windows,
		 const char *dir, struct err *err);
void gq_acts_release(struct gq_acts *a); /* accepts a zeroed struct */

/* Window `i` as [rows][cols], cols at most a->cols, contiguous: valid until the
 * next call.  fill: with what was saved there, of the same width; else with
 * anything. */
int gq_acts_window(struct gq_acts *a, uint32_t i, uint32_t cols, bool fill,
		   struct be_mat *out, struct err *err);
/* Window `i`, which gq_acts_window gave last, was written to. */
int gq_acts_save(struct gq_acts *a, uint32_t i, const struct be_mat *window,
		 struct err *err);

#endif
