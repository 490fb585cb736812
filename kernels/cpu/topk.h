/* topk.h - what a logit counts for, in be_cpu and be_ref. */
#ifndef KERNELS_CPU_TOPK_H
#define KERNELS_CPU_TOPK_H

#include "../backend.h"

/* The value of struct be_topk for one id. */
double cpu_top_value(const struct be_topk *t, uint32_t id);

#endif
