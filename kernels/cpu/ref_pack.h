/* ref_pack.h - a packed layer in the neutral form, by its definition. */
#ifndef KERNELS_CPU_REF_PACK_H
#define KERNELS_CPU_REF_PACK_H

#include "../backend.h"

/* *ql is the caller's to release. */
int cpu_ref_unpack(const struct ql_packed *q, struct ql *ql, struct err *err);

#endif
