/* check.c - every operation of each backend against the scalar reference, on
 * random and edge shapes, between guard pages; and their speed.
 *
 *	check [--quick] [--only linear|rows|attend|quant|refuse]
 *	      [--device NAME] [--kernel NAME] [--seed N]
 *	check --bench [--only qgemm|gemm|attend|rows|quant|layer]
 *	      [--device NAME] [--kernel NAME] [--threads N]
 *
 * Without --device: all CPU kernels this machine runs, and the GPU where there
 * is one.  The CPU is run with one thread and with three, whose results must
 * be the same to the bit.  The exit status is 1 when a check failed. */
#include "kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct args {
	const char *device, *kernel, *only;
	uint64_t seed;
	uint32_t threads;
	int bench, quick;
};

static const struct {
	const char *name;
	void (*run)(struct kit *k);
} parts[] = {
	{ "linear", kit_linear }, { "rows", kit_rows },
	{ "attend", kit_attend }, { "step", kit_step },
	{ "quant", kit_quant }, { "refuse", kit_refusals },
};

static void run_all(struct kit *k, const struct args *a)
{
	/* where guard pages do not exist, both passes would be the same */
	for (k->back = !k->host; k->back < 2; k->back++) {
		k->rng = a->seed;
		for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
			if (!a->only || !strcmp(a->only, parts[i].name))
				parts[i].run(k);
	}
}

/* One opened backend; the sum of failures.  *hash is of all results. */
static unsigned run_backend(const struct args *a, const struct be_open *how,
			    const struct be_api *api, uint64_t *hash)
{
	struct be_open scalar = { 1, -1, NULL };
	struct kit k = { .api = api, .hash = 0xcbf29ce484222325u,
			 .quick = a->quick };

	if (be_ref.open(&scalar, &k.ref, &k.err) ||
	    api->open(how, &k.be, &k.err)) {
		printf("FAILED  %s\n", k.err.msg);
		be_ref.close(k.ref);
		return 1;
	}
	k.host = api == &be_cpu;
	k.exact = 1;
	k.half = !k.host;
	snprintf(k.name, sizeof(k.name), "%s", api->describe(k.be));
	run_all(&k, a);
	if (!k.bad)
		printf("ok      %s: %u cases\n", k.name, k.cases);
	else
		printf("FAILED  %s: %u faults in %u cases\n", k.name, k.bad,
		       k.cases);
	api->close(k.be);
	be_ref.close(k.ref);
	*hash = k.hash;
	return k.bad;
}

/* A CPU kernel with one thread and with three. */
static unsigned run_cpu(const struct args *a, const char *kernel)
{
	struct be_open one = { 1, -1, kernel }, three = { 3, -1, kernel };
	uint64_t h1 = 0, h3 = 0;
	unsigned bad = run_backend(a, &one, &be_cpu, &h1);

	bad += run_backend(a, &three, &be_cpu, &h3);
	if (!bad && h1 != h3) {
		printf("FAILED  %s: results depend on the threads\n", kernel);
		bad++;
	}
	return bad;
}

static unsigned check_cpu(const struct args *a)
{
	static const char *const names[] = { "generic", "avx2", "avx512",
					     "vnni" };
	unsigned bad = 0, ran = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct be_open how = { 1, -1, names[i] };
		struct be *be = NULL;
		struct err err;

		if (a->kernel && strcmp(a->kernel, names[i]))
			continue;
		if (be_cpu.open(&how, &be, &err)) {
			printf("skipped %s: %s\n", names[i], err.msg);
			continue;
		}
		be_cpu.close(be);
		bad += run_cpu(a, names[i]);
		ran++;
	}
	if (!ran)
		printf("FAILED  no CPU kernel was checked\n");
	return ran ? bad : bad + 1;
}

static unsigned check_cuda(const struct args *a, const char *device)
{
	const struct be_api *api;
	struct be_open how = { 1, -1, a->kernel };
	struct be *be = NULL;
	struct err err;
	uint64_t hash;
	const char *colon = strchr(device, ':');

	if (be_select(device, 1, a->kernel, &api, &be, NULL, &err)) {
		printf("%s %s\n", a->device ? "FAILED " : "skipped", err.msg);
		return a->device != NULL;
	}
	api->close(be);
	if (colon)
		how.device = atoi(colon + 1);
	return run_backend(a, &how, api, &hash);
}

static unsigned check_ref(const struct args *a)
{
	struct be_open how = { 1, -1, NULL };
	struct kit k = { .api = &be_ref, .host = 1, .name = "reference",
			 .rng = a->seed, .back = 1 };

	if (be_ref.open(&how, &k.ref, &k.err)) {
		printf("FAILED  %s\n", k.err.msg);
		return 1;
	}
	k.be = k.ref;
	kit_anchors(&k);
	kit_tiles(&k);
	if (!k.bad)
		printf("ok      reference: %u cases\n", k.cases);
	be_ref.close(k.ref);
	return k.bad;
}

static int usage(void)
{
	fprintf(stderr, "usage: check [--bench] [--quick] [--only PART] "
		"[--device NAME] "
		"[--kernel NAME] [--threads N] [--seed N]\n");
	return 2;
}

static int parse(int argc, char **argv, struct args *a)
{
	for (int i = 1; i < argc; i++) {
		const char *v = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--bench") == 0) {
			a->bench = 1;
			continue;
		}
		if (strcmp(argv[i], "--quick") == 0) {
			a->quick = 1;
			continue;
		}
		if (!v)
			return -1;
		if (strcmp(argv[i], "--device") == 0)
			a->device = v;
		else if (strcmp(argv[i], "--kernel") == 0)
			a->kernel = v;
		else if (strcmp(argv[i], "--only") == 0)
			a->only = v;
		else if (strcmp(argv[i], "--threads") == 0)
			a->threads = (uint32_t)strtoul(v, NULL, 10);
		else if (strcmp(argv[i], "--seed") == 0)
			a->seed = strtoull(v, NULL, 10);
		else
			return -1;
		i++;
	}
	return a->device && !be_device_valid(a->device) ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct args a = { .seed = 20221031 };
	unsigned bad = 0;

	if (parse(argc, argv, &a))
		return usage();
	if (a.bench)
		return kit_bench(a.device ? a.device : "cpu", a.kernel,
				 a.threads, a.only);
	if (!a.device || strcmp(a.device, "ref") == 0)
		bad += check_ref(&a);
	if (!a.device || strcmp(a.device, "cpu") == 0)
		bad += check_cpu(&a);
	if (!a.device && !a.kernel)
		bad += check_cuda(&a, "cuda");
	else if (a.device && strncmp(a.device, "cuda", 4) == 0)
		bad += check_cuda(&a, a.device);
	return bad ? 1 : 0;
}
