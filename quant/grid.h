/* grid.h - scales, zeros and codes of one linear while it is being solved, on
 * the device, and their way into the neutral layer. */
#ifndef QUANT_GRID_H
#define QUANT_GRID_H

#include "method.h"

struct gq_grid {
	const struct gq_task *task;
	uint32_t groups, group_size;
	float *scale, *zero; /* device [out][groups] */
	uint8_t *code;       /* device [out][in], in the order of processing */
	float *host;         /* [out][groups] twice: scales, zeros */
};

/* Checks the task's parameters. */
int gq_grid_init(struct gq_grid *g, const struct gq_task *t, struct err *err);
void gq_grid_release(struct gq_grid *g);
/* Set scale and zero of `group` for all rows from these columns, of which the
 * first stands at `place` in the order of that name of the Hessian. */
int gq_grid_set(struct gq_grid *g, const struct be_mat *columns,
		uint32_t place, uint32_t group, struct err *err);
/* The finished layer.  order[i] is the column processed i-th (NULL: i),
 * group[i] its group.  Scales are rounded to the stored type. */
int gq_grid_store(struct gq_grid *g, const uint32_t *order,
		  const uint32_t *group, struct ql *ql, struct err *err);

/* The weight on the device, F32 [out][in], columns in the order given (NULL:
 * as they are), those with dead[column] (may be NULL) as zeros.  ERR_INPUT
 * when it is not finite. */
int gq_weight_put(const struct gq_task *t, const uint32_t *order,
		  const uint8_t *dead, const struct be_mat *w,
		  struct err *err);

#endif
