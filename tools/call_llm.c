/* The devices of a model: one, or a GPU and the CPU for what it has no room
 * for. */
#include "call.h"

#include "../libfmt/base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int call_gpu_layers(const char *text, uint32_t *out, struct err *err)
{
	char *end;
	long n;

	*out = LLM_FIT;
	if (!strcmp(text, "auto"))
		return 0;
	n = strtol(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || n < 0 || n > 1 << 20)
		return err_set(err, ERR_USAGE, "--gpu-layers %s: expected auto "
			       "or a number of blocks", text);
	*out = (uint32_t)n;
	return 0;
}

int call_llm_devices(const struct call *c, const char *kernel,
		     struct llm_open *how, struct err *err)
{
	const struct be_open cpu = { .threads = c->threads, .device = -1 };

	if (!how->dev.api && call_device(c, kernel, &how->dev, err))
		return -1;
	if (how->dev.api == &be_cpu) {
		if (how->layers != LLM_FIT && how->layers)
			ui_warn(c->ui, "--gpu-layers %u: no GPU is in use, all "
				"blocks run on the CPU", how->layers);
		return 0;
	}
	if (how->rest.api)
		return 0;
	how->rest.api = &be_cpu;
	if (be_cpu.open(&cpu, &how->rest.be, err)) {
		how->rest.api = NULL;
		return -1;
	}
	return 0;
}

/* Where the split is, and why there. */
static void say_split(const struct call *c, const struct llm *l, bool asked)
{
	const struct llm_fit *f = &l->fit;
	char need[32], each[32], room[32];

	if (asked)
		ui_detail(c->ui, "%u of %u blocks on the GPU, as --gpu-layers "
			  "says", f->layers, l->cfg.layers);
	else if (f->layers < l->cfg.layers)
		ui_detail(c->ui, "%u of %u blocks on the GPU: %s each with "
			  "the cache, beside %s for the head and work space, "
			  "%s free", f->layers, l->cfg.layers,
			  ui_bytes(f->block, each), ui_bytes(f->fixed, need),
			  ui_bytes(f->avail, room));
}

#define KINDS 16 /* most kernels of a part that are told apart */
#define MANY 512 /* rows of a prompt, against one of decoding */

/* Linears that the same kernels run. */
struct kind {
	const char *one, *many;
	const char *first;  /* the name of one of them */
	uint32_t count;
};

static void count_linear(struct kind kind[KINDS], const struct rt_dev *d,
			 const struct rt_linear *l)
{
	struct kind k = { rt_linear_kernel(d, l, 1), NULL, l->name, 1 };
	uint32_t i = 0;

	k.many = l->quant ? d->api->qw_kernel(d->be, l->quant, MANY) : k.one;
	while (i < KINDS - 1 && kind[i].count &&
	       (strcmp(kind[i].one, k.one) || strcmp(kind[i].many, k.many)))
		i++;
	if (kind[i].count)
		kind[i].count++;
	else
		kind[i] = k;
}

static void say_kernels(const struct call *c, const struct llm *l,
			const struct llm_part *p)
{
	struct kind kind[KINDS] = { { .count = 0 } };

	for (uint32_t i = 0; i < p->count; i++)
		for (int j = 0; j < LLAMA_LINEARS; j++)
			count_linear(kind, &p->dev,
				     &l->block[p->first + i].lin[j]);
	if (p == &l->part[l->parts - 1])
		count_linear(kind, &p->dev, &l->head);
	for (uint32_t i = 0; i < KINDS && kind[i].count; i++) {
		bool same = !strcmp(kind[i].one, kind[i].many);

		ui_detail(c->ui, "  %u linear%s (%s%s): %s%s%s", kind[i].count,
			  ui_plural(kind[i].count), kind[i].first,
			  kind[i].count > 1 ? ", ..." : "", kind[i].one,
			  same ? "" : "; prompts: ",
			  same ? "" : kind[i].many);
	}
}

void call_llm_say(const struct call *c, const struct llm *l, bool asked)
{
	for (uint32_t i = 0; i < l->parts; i++) {
		const struct llm_part *p = &l->part[i];

		const char *head = i == l->parts - 1 ? " and the head" : "";
		const char *on = p->dev.api->describe(p->dev.be);

		if (p->count == 1)
			ui_detail(c->ui, "block %u%s on %s:", p->first, head,
				  on);
		else
			ui_detail(c->ui, "blocks %u to %u%s on %s:", p->first,
				  p->first + p->count - 1, head, on);
		say_kernels(c, l, p);
	}
	if (l->parts > 1 || l->fit.layers < l->cfg.layers)
		say_split(c, l, asked);
}

const char *call_llm_where(const struct llm *l, char buf[256])
{
	const struct rt_dev *a = &l->part[0].dev, *b = &l->part[1].dev;

	if (l->parts == 1)
		return a->api->describe(a->be);
	snprintf(buf, 256, "%.120s + %.120s", a->api->describe(a->be),
		 b->api->describe(b->be));
	return buf;
}
