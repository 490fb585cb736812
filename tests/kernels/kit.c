#include "kit.h"

#include "../../libfmt/base/half.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* SplitMix64; G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom
 * number generators", 2014. */
uint32_t kit_rand(struct kit *k)
{
	uint64_t z = k->rng += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)((z ^ z >> 31) >> 32);
}

uint32_t kit_below(struct kit *k, uint32_t n)
{
	return (uint32_t)((uint64_t)kit_rand(k) * n >> 32);
}

float kit_normal(struct kit *k)
{
	double sum = -6;

	for (int i = 0; i < 12; i++)
		sum += kit_rand(k) / 4294967296.0;
	return (float)sum;
}

uint32_t kit_count(const struct kit *k, uint32_t n)
{
	return k->quick ? n / 6 + 1 : n;
}

void kit_fail(struct kit *k, const char *fmt, ...)
{
	va_list ap;

	k->bad++;
	if (k->bad > 20)
		return;
	printf("FAILED  %s: %s %s: ", k->name, k->what, k->shape);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

void kit_case(struct kit *k, const char *fmt, ...)
{
	va_list ap;

	k->cases++;
	va_start(ap, fmt);
	vsnprintf(k->shape, sizeof(k->shape), fmt, ap);
	va_end(ap);
}

int kit_ran(struct kit *k, int ref, int dev)
{
	if (ref == 0 && dev == 0)
		return 1;
	kit_fail(k, "returned %d, the reference %d: %s", dev, ref, k->err.msg);
	return 0;
}

static void die(const char *what)
{
	fprintf(stderr, "check: %s\n", what);
	exit(5);
}

/* `bytes` that end at, or start behind, a page without access. */
static void *guarded(size_t bytes, int back, void **map, size_t *len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t body = (bytes + page - 1) / page * page;
	char *p;

	*len = body + 2 * page;
	p = mmap(NULL, *len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) ||
	    mprotect(p + page + body, page, PROT_NONE))
		die("not enough memory");
	*map = p;
	return p + page + (back ? body - bytes : 0);
}

static void arr_init(struct arr *a)
{
	struct kit *k = a->kit;

	a->ref.p = guarded(a->bytes, k->back, &a->map_ref, &a->len);
	if (k->host)
		a->dev.p = guarded(a->bytes, k->back, &a->map_dev, &a->len);
	else if (k->api->alloc(k->be, a->bytes, &a->dev.p, &k->err))
		die(k->err.msg);
	a->got = malloc(a->bytes + 1);
	if (!a->got)
		die("not enough memory");
}

struct arr arr_mat(struct kit *k, uint32_t rows, uint32_t cols, uint32_t pad,
		   enum dtype type)
{
	struct arr a = { .kit = k, .elem = be_elem(type) };

	a.ref = (struct be_mat){ NULL, rows, cols, cols + pad, type };
	a.dev = a.ref;
	if (rows && cols)
		a.bytes = (((size_t)rows - 1) * a.ref.ld + cols) * a.elem;
	arr_init(&a);
	/* NaN in every type; the test fills what is inside the view */
	if (a.bytes)
		memset(a.ref.p, 0xff, a.bytes);
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			arr_set(&a, r, c, 0);
	arr_up(&a);
	return a;
}

struct arr arr_raw(struct kit *k, size_t n, size_t elem)
{
	struct arr a = { .kit = k, .elem = elem, .bytes = n * elem };

	arr_init(&a);
	arr_up(&a);
	return a;
}

void arr_free(struct arr *a)
{
	munmap(a->map_ref, a->len);
	if (a->map_dev)
		munmap(a->map_dev, a->len);
	else
		a->kit->api->free(a->kit->be, a->dev.p);
	free(a->got);
}

static double read_at(const struct arr *a, const void *base, uint32_t r,
		      uint32_t c)
{
	size_t i = (size_t)r * a->ref.ld + c;

	switch (a->ref.type) {
	case DT_F16:
		return (double)half_to_f32(((const uint16_t *)base)[i]);
	case DT_BF16:
		return (double)half_bf16_to_f32(((const uint16_t *)base)[i]);
	case DT_F64:
		return ((const double *)base)[i];
	case DT_I8:
		return ((const int8_t *)base)[i];
	default:
		return (double)((const float *)base)[i];
	}
}

void arr_set(struct arr *a, uint32_t r, uint32_t c, double v)
{
	size_t i = (size_t)r * a->ref.ld + c;

	switch (a->ref.type) {
	case DT_F16:
		((uint16_t *)a->ref.p)[i] = half_from_f32((float)v);
		break;
	case DT_BF16:
		((uint16_t *)a->ref.p)[i] = half_bf16_from_f32((float)v);
		break;
	case DT_F64:
		((double *)a->ref.p)[i] = v;
		break;
	case DT_I8:
		((int8_t *)a->ref.p)[i] = (int8_t)v;
		break;
	default:
		((float *)a->ref.p)[i] = (float)v;
		break;
	}
}

double arr_get(const struct arr *a, uint32_t r, uint32_t c)
{
	return read_at(a, a->ref.p, r, c);
}

double arr_got(const struct arr *a, uint32_t r, uint32_t c)
{
	return read_at(a, a->got, r, c);
}

void arr_random(struct arr *a, double scale)
{
	for (uint32_t r = 0; r < a->ref.rows; r++)
		for (uint32_t c = 0; c < a->ref.cols; c++)
			arr_set(a, r, c, (double)kit_normal(a->kit) * scale);
}

void arr_up(struct arr *a)
{
	struct kit *k = a->kit;

	if (a->bytes &&
	    k->api->put(k->be, a->dev.p, a->ref.p, a->bytes, &k->err))
		die(k->err.msg);
}

/* FNV-1a over the results. */
static void add_hash(struct kit *k, const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		k->hash = (k->hash ^ p[i]) * 0x100000001b3u;
}

void arr_down(struct arr *a)
{
	struct kit *k = a->kit;

	if (a->bytes &&
	    k->api->get(k->be, a->got, a->dev.p, a->bytes, &k->err))
		die(k->err.msg);
	add_hash(k, a->got, a->bytes);
}

void arr_same(struct arr *a, const char *name)
{
	const unsigned char *got = a->got, *want = a->ref.p;

	arr_down(a);
	for (size_t i = 0; i < a->bytes; i++)
		if (got[i] != want[i]) {
			i /= a->elem;
			kit_fail(a->kit, "%s differs at element %zu%s", name, i,
				 a->ref.ld ? "" : " (raw)");
			if (a->ref.ld)
				printf("\t[%zu][%zu]: %.9g, expected %.9g\n",
				       i / a->ref.ld, i % a->ref.ld,
				       arr_got(a, (uint32_t)(i / a->ref.ld),
					       (uint32_t)(i % a->ref.ld)),
				       arr_get(a, (uint32_t)(i / a->ref.ld),
					       (uint32_t)(i % a->ref.ld)));
			return;
		}
}

/* The gaps between rows must hold what they held: NaNs. */
static int gaps_kept(const struct arr *a)
{
	const unsigned char *p = a->got;
	size_t row = a->ref.ld * a->elem, cols = a->ref.cols * a->elem;

	for (uint32_t r = 0; a->bytes && r + 1 < a->ref.rows; r++)
		for (size_t i = cols; i < row; i++)
			if (p[r * row + i] != 0xff)
				return 0;
	return 1;
}

static double largest(const struct arr *a)
{
	double max = 1e-30;

	for (uint32_t r = 0; r < a->ref.rows; r++)
		for (uint32_t c = 0; c < a->ref.cols; c++)
			max = fmax(max, fabs(arr_get(a, r, c)));
	return max;
}

void arr_near(struct arr *a, const char *name, const double *mag, double tol)
{
	double top = mag ? 0 : largest(a);

	arr_down(a);
	for (uint32_t r = 0; r < a->ref.rows; r++)
		for (uint32_t c = 0; c < a->ref.cols; c++) {
			double got = arr_got(a, r, c), want = arr_get(a, r, c);
			double room = tol * (mag ? mag[(size_t)r *
						       a->ref.cols + c] : top);

			/* written so that NaN fails */
			if (fabs(got - want) <= room)
				continue;
			kit_fail(a->kit,
				 "%s[%u][%u] is %.9g, expected %.9g +- %.2g",
				 name, r, c, got, want, room);
			return;
		}
	if (!gaps_kept(a))
		kit_fail(a->kit, "%s: written between its rows", name);
}
