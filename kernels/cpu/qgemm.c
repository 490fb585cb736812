/* qgemm.c - products with quantized weights: the layout in memory, and the
 * choice between kernels that take codes (few rows of x: reading codes is what
 * takes the time) and pieces of the weight made f32 (many rows). */
#include "../../libfmt/base/err.h"
#include "../../libfmt/base/half.h"
#include "../../libfmt/base/mem.h"
#include "../shape.h"
#include "cpu.h"
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of x that are gathered at a time. */
#define GATHER_ROWS 512
#define MOST_FEW 32

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* How the inputs are ordered: by group, a group in runs of at most
 * group_size. */
struct plan {
	uint32_t *order; /* [in]: inputs sorted by group, else by number */
	uint32_t *start; /* [groups + 1]: of a group in order */
	uint32_t *from;  /* [runs]: the run's group */
	uint32_t runs, longest;
	void *mem;
};

static uint32_t runs_of(const struct plan *p, uint32_t g, uint32_t size)
{
	return (p->start[g + 1] - p->start[g] + size - 1) / size;
}

static int plan_init(struct plan *p, const struct ql *ql, struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	uint32_t size = least(s->group_size, s->in), n = 0;
	/* a run is full, or the last of its group */
	size_t most = (size_t)s->in / size + s->groups;
	struct mem_part part[] = {
		{ (void **)&p->order, s->in, sizeof(uint32_t) },
		{ (void **)&p->start, (size_t)s->groups + 2, sizeof(uint32_t) },
		{ (void **)&p->from, most, sizeof(uint32_t) },
	};

	memset(p, 0, sizeof(*p));
	p->mem = mem_block(part, 3, err);
	if (!p->mem)
		return -1;
	/* counting sort; start is kept one place ahead while it fills */
	for (uint32_t k = 0; k < s->in; k++)
		p->start[ql->group_of[k] + 2]++;
	for (uint32_t g = 0; g < s->groups; g++)
		p->start[g + 2] += p->start[g + 1];
	for (uint32_t k = 0; k < s->in; k++)
		p->order[p->start[ql->group_of[k] + 1]++] = k;
	for (uint32_t g = 0; g < s->groups; g++) {
		uint32_t many = p->start[g + 1] - p->start[g];

		if (least(many, size) > p->longest)
			p->longest = least(many, size);
		for (uint32_t i = runs_of(p, g, size); i > 0; i--)
			p->from[n++] = g;
	}
	p->runs = n;
	return 0;
}

/* Steps per group, groups, blocks and slots; see struct be_qw. */
static int plan_layout(const struct plan *p, struct be_qw *w, struct err *err)
{
	const uint32_t block = cpu_block_steps(w->bits);
	uint32_t need = (p->longest + CPU_LANES - 1) / CPU_LANES, steps = 1;
	uint64_t total;

	while (steps < need && steps < block)
		steps *= 2;
	if (need > block)
		steps = (need + block - 1) / block * block;
	total = ((uint64_t)p->runs * steps + block - 1) / block * block;
	/* one group: its padding is its own */
	if (p->runs == 1)
		steps = (uint32_t)total;
	if (total > UINT32_MAX / CPU_LANES)
		return err_set(err, ERR_UNSUP,
			       "groups of up to %u inputs among %u groups",
			       p->longest, p->runs);
	w->group_steps = steps;
	w->groups = (uint32_t)(total / steps);
	w->blocks = (uint32_t)(total / block);
	w->slots = (uint32_t)total * CPU_LANES;
	return 0;
}

/* Which input each slot holds. */
static void plan_map(const struct plan *p, const struct be_qw *w, uint32_t size)
{
	uint32_t per = w->group_steps * CPU_LANES, at = 0, end;

	memset(w->map, 0xff, w->slots * sizeof(*w->map)); /* CPU_PAD */
	for (uint32_t r = 0; r < p->runs; r++) {
		end = least(at + size, p->start[p->from[r] + 1]);
		for (uint32_t i = 0; at < end; i++, at++)
			w->map[(size_t)r * per + i] = p->order[at];
	}
}

static int is_identity(const struct be_qw *w)
{
	if (w->slots != w->in)
		return 0;
	for (uint32_t i = 0; i < w->slots; i++)
		if (w->map[i] != i)
			return 0;
	return 1;
}

static int fits_f16(const float *f, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (half_to_f32(half_from_f32(f[i])) != f[i])
			return 0;
	return 1;
}

struct pack {
	const struct ql *ql;
	const struct plan *plan;
	struct be_qw *w;
	int identity; /* slots are the inputs */
};

static void put_grid(const struct pack *p, size_t to, size_t from)
{
	const struct be_qw *w = p->w;

	if (w->grid_type == DT_F16) {
		((uint16_t *)w->scale)[to] = half_from_f32(p->ql->scale[from]);
		((uint16_t *)w->zero)[to] = half_from_f32(p->ql->zero[from]);
	} else {
		((float *)w->scale)[to] = p->ql->scale[from];
		((float *)w->zero)[to] = p->ql->zero[from];
	}
}

/* Word i of a block: lane j takes codes of slots j, j + 16, ...  The last word
 * of a 3-bit block is the high bytes of the others. */
static void pack_word(const struct be_qw *w, const uint8_t *code, uint32_t i,
		      uint32_t *block)
{
	uint32_t steps = cpu_word_steps(w->bits), word[CPU_LANES] = { 0 };

	for (uint32_t s = 0; s < steps; s++)
		for (uint32_t j = 0; j < CPU_LANES; j++)
			word[j] |= (uint32_t)code[s * CPU_LANES + j]
				   << cpu_code_at(w->bits, s, w->halves);
	for (uint32_t j = 0; j < CPU_LANES; j++) {
		if (w->bits == 3 && i == 3)
			for (uint32_t b = 0; b < 3; b++)
				block[b * CPU_LANES + j] |=
					(word[j] >> 8 * b & 255) << 24;
		else
			block[i * CPU_LANES + j] = word[j];
	}
}

static void pack_row(const struct pack *p, uint32_t n, uint32_t *code)
{
	const struct be_qw *w = p->w;
	const uint32_t words = cpu_block_words(w->bits);
	const uint32_t slots = cpu_word_steps(w->bits) * CPU_LANES;
	const uint32_t per = cpu_block_steps(w->bits) * CPU_LANES / slots;
	const uint8_t *in = p->ql->code + (size_t)n * w->in, *run;
	const uint32_t *map = w->map;
	uint8_t sorted[16 * CPU_LANES];

	for (uint32_t b = 0; b < w->blocks; b++, code += CPU_ROWS * words)
		for (uint32_t i = 0; i < per; i++, map += slots) {
			run = p->identity ? in + *map : sorted;
			for (uint32_t s = 0; !p->identity && s < slots; s++)
				sorted[s] = map[s] == CPU_PAD ? 0 : in[map[s]];
			pack_word(w, run, i, code);
		}
}

/* Four rows: codes and grid.  Rows and groups that are only padding are 0. */
static void pack_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct pack *p = ctx;
	const struct be_qw *w = p->w;
	const size_t words = cpu_block_words(w->bits);
	const size_t row_words = words * w->blocks;
	const size_t elem = be_elem(w->grid_type);
	const size_t grid = (size_t)tile * CPU_ROWS * w->groups;
	uint32_t *code = w->code + tile * CPU_ROWS * row_words;

	(void)self;
	memset(code, 0, CPU_ROWS * row_words * sizeof(*code));
	memset((char *)w->scale + grid * elem, 0, CPU_ROWS * w->groups * elem);
	memset((char *)w->zero + grid * elem, 0, CPU_ROWS * w->groups * elem);
	for (uint32_t r = 0; r < CPU_ROWS; r++) {
		uint32_t n = tile * CPU_ROWS + r;

		if (n >= w->out)
			break;
		pack_row(p, n, code + r * words);
		for (uint32_t g = 0; g < p->plan->runs; g++)
			put_grid(p, grid + (size_t)r * w->groups + g,
				 (size_t)n * p->ql->spec.groups +
					 p->plan->from[g]);
	}
}

static int qw_alloc(struct be_qw *w, struct err *err)
{
	size_t rows = ((size_t)w->out + CPU_ROWS - 1) / CPU_ROWS * CPU_ROWS;
	size_t code, grid;

	if (mem_mul(rows * w->blocks, cpu_block_words(w->bits) *
		    sizeof(uint32_t), &code) ||
	    mem_mul(rows * w->groups, be_elem(w->grid_type), &grid))
		return err_set(err, ERR_RESOURCE,
			       "not enough memory for a weight [%u][%u]",
			       w->out, w->slots);
	w->map = mem_alloc(w->slots, sizeof(*w->map), err);
	if (!w->map || cpu_host_alloc(w->be, code, (void **)&w->code, err) ||
	    cpu_host_alloc(w->be, grid, &w->scale, err) ||
	    cpu_host_alloc(w->be, grid, &w->zero, err))
		return -1;
	return 0;
}

void cpu_qw_free(struct be *be, struct be_qw *w)
{
	if (!w)
		return;
	cpu_host_free(be, w->code);
	cpu_host_free(be, w->scale);
	cpu_host_free(be, w->zero);
	free(w->map);
	free(w);
}

int cpu_qw_new(struct be *be, const struct ql *ql, struct be_qw **out,
	       struct err *err)
{
	const struct ql_spec *s = &ql->spec;
	size_t grid = (size_t)s->out * s->groups;
	struct plan plan = { 0 };
	struct pack pack = { ql, &plan, NULL, 0 };
	struct be_qw *w = NULL;
	int ret = -1;

	*out = NULL;
	if (be_shape_ql(ql, err))
		return -1;
	w = mem_alloc(1, sizeof(*w), err);
	if (!w || plan_init(&plan, ql, err))
		goto out;
	w->be = be;
	w->out = s->out;
	w->in = s->in;
	w->bits = s->bits > 4 ? 8 : s->bits;
	w->kind = s->zero_kind;
	w->grid_type = fits_f16(ql->scale, grid) && fits_f16(ql->zero, grid)
		       ? DT_F16 : DT_F32;
	if (plan_layout(&plan, w, err) || qw_alloc(w, err))
		goto out;
	/* a word has to be of one group */
	w->halves = be->isa->halves &&
		    w->group_steps >= cpu_word16_steps(w->bits);
	snprintf(w->kernel, sizeof(w->kernel), "%s-b%u%s", be->isa->name,
		 w->bits, w->halves ? "-i16" : "");
	snprintf(w->wide, sizeof(w->wide), "%s-b%u-%s", be->isa->name,
		 w->bits, w->halves ? "i16" : "f32");
	plan_map(&plan, w, least(s->group_size, s->in));
	pack.w = w;
	pack.identity = is_identity(w);
	cpu_run(be, (w->out + CPU_ROWS - 1) / CPU_ROWS, pack_tile,
		 &pack);
	if (pack.identity) {
		free(w->map);
		w->map = NULL;
	}
	*out = w;
	w = NULL;
	ret = 0;
out:
	cpu_qw_free(be, w);
	free(plan.mem);
	return ret;
}

/* Rows of x that the code kernels take: they read x once for four rows of w,
 * so x has to stay in the second level of cache. */
static int is_few(const struct be_qw *w, uint32_t m)
{
	return m <= 8 || (m <= MOST_FEW && (size_t)m * w->slots <= 131072);
}

const char *cpu_qw_kernel(const struct be *be, const struct be_qw *w,
			  uint32_t m)
{
	(void)be;
	return is_few(w, m) ? w->kernel : w->wide;
}

/* One product: x as the kernels want it. */
struct qjob {
	const struct be *be;
	const struct be_qw *w;
	struct be_mat from; /* x as given */
	struct be_mat x;    /* [m][slots] */
	struct be_mat y;
	float *xsum;        /* [m][groups], for the dot kernels */
};

static void slots_tile(void *ctx, uint32_t r, uint32_t self)
{
	const struct qjob *j = ctx;
	struct cpu_slots s = {
		.w = j->w, .x = (const float *)j->from.p +
				(size_t)r * j->from.ld,
		.out = (float *)j->x.p + (size_t)r * j->x.ld,
		.plain = !j->xsum,
	};

	(void)self;
	if (j->xsum)
		s.xsum = j->xsum + (size_t)r * j->w->groups;
	j->be->isa->slots(&s);
}

/* Set up x for rows at[0]..+at[1]; scratch holds it where it must differ. */
static void qjob_rows(struct qjob *j, const struct be_mat *x,
		      struct be_mat *y, const uint32_t at[2])
{
	const struct be_qw *w = j->w;
	float *mem = (float *)(void *)j->be->all_mem;
	int few = is_few(w, at[1]);

	j->from = be_rows(x, at[0], at[1]);
	j->y = be_rows(y, at[0], at[1]);
	j->x = j->from;
	j->xsum = few ? mem + (size_t)at[1] * w->slots : NULL;
	if (!few && !w->map)
		return;
	j->x = (struct be_mat){ mem, at[1], w->slots, w->slots, DT_F32 };
	tile_run(j->be->pool,
		 cpu_threads(j->be, (uint64_t)at[1] * w->slots), at[1],
		 slots_tile, j);
}

static void qdot_tile(void *ctx, uint32_t tile, uint32_t self)
{
	const struct qjob *j = ctx;
	const struct be_qw *w = j->w;
	uint32_t step = cpu_rows_per_tile(w->slots);
	struct cpu_qdot q = {
		.w = w, .row = tile * step,
		.rows = least(step, w->out - tile * step), .m = j->x.rows,
		.x = j->x.p, .x_ld = j->x.ld, .xsum = j->xsum,
		.y = j->y.p, .y_ld = j->y.ld, .grid = cpu_own(j->be, self),
	};

	j->be->isa->qdot(&q);
}

/* Rows and slots of w as f32; scratch [2][groups]. */
static void fill_slots(const struct cpu_wide *wide, const uint32_t at[4],
		       float *out, float *scratch)
{
	const struct qjob *j = wide->ctx;
	const struct be_qw *w = j->w;
	const uint32_t block = cpu_block_steps(w->bits) * CPU_LANES;
	const size_t elem = be_elem(w->grid_type);
	struct cpu_unpack u = {
		.w = w, .b0 = at[2] / block, .n = at[3] / block,
		.scale = scratch, .zero = scratch + w->groups,
	};

	for (uint32_t r = 0; r < at[1]; r++) {
		size_t g = (size_t)(at[0] + r) * w->groups * elem;

		j->be->isa->widen(w->grid_type, (const char *)w->scale + g,
				  scratch, w->groups);
		j->be->isa->widen(w->grid_type, (const char *)w->zero + g,
				  scratch + w->groups, w->groups);
		u.row = at[0] + r;
		u.out = out + (size_t)r * at[3];
		j->be->isa->unpack(&u);
	}
}

static int qgemm_wide(const struct qjob *j, struct be *be, struct err *err)
{
	struct cpu_wide wide = {
		.x = j->x.p, .x_ld = j->x.ld, .y = j->y.p, .y_ld = j->y.ld,
		.m = j->x.rows, .n = j->w->out, .k = j->w->slots,
		.alpha = 1, .beta = 0, .fill = fill_slots, .ctx = j,
		.scratch = (size_t)2 * j->w->groups,
	};

	return cpu_gemm_wide(be, &wide, err);
}

int cpu_qgemm(struct be *be, const struct be_mat *x, const struct be_qw *w,
	      struct be_mat *y, struct err *err)
{
	struct qjob job = { .be = be, .w = w };
	const uint32_t step = cpu_rows_per_tile(w->slots);
	/* x copied to slots, and sums by group for the dot kernels */
	uint32_t copied = least(x->rows, w->map ? GATHER_ROWS : MOST_FEW);
	size_t all = (size_t)copied * w->slots + (size_t)MOST_FEW * w->groups;
	size_t own = (size_t)2 * CPU_ROWS * w->groups;

	if (be_shape_qgemm(x, w->in, w->out, y, err))
		return -1;
	if (w->halves)
		return cpu_qgemm16(be, x, w, y, err);
	if (cpu_scratch(be, own * sizeof(float), all * sizeof(float), err))
		return -1;
	for (uint32_t r = 0, n; r < x->rows; r += n) {
		n = least(GATHER_ROWS, x->rows - r);
		qjob_rows(&job, x, y, (const uint32_t[]){ r, n });
		if (job.xsum)
			cpu_run(be, (w->out - 1) / step + 1,
				 qdot_tile, &job);
		else if (qgemm_wide(&job, be, err))
			return -1;
	}
	return 0;
}
