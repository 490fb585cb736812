/* How many blocks of a model a device has room for.
 *
 * What a block takes there is what its tensors take in the files (devices keep
 * codes as narrow as files do) and its share of the caches.  Beside the blocks
 * there are the head, the table of embeddings, scratch for one pass, and what
 * kernels need: a weight as f16 and work space.  An estimate that is too low
 * is caught when the memory runs out (llm_open). */
#include "llm.h"

#include "../libfmt/base/err.h"
#include "../libfmt/model.h"

/* Work space of a device's kernels, and what else is not counted. */
#define SPARE (UINT64_C(256) << 20)

/* Bytes of all tensors of a module; 0 when it is missing, which the loader will
 * complain about. */
static uint64_t module_bytes(const struct model *m, const char *name)
{
	const struct qf_module *q = model_module(m, name);
	uint64_t n = 0;

	for (uint32_t i = 0; q && i < q->count; i++)
		n += q->part[i].size;
	return n;
}

/* The largest block's linears; norms are small.  *weight: the most that one
 * weight takes as f16. */
static uint64_t block_bytes(const struct model *m,
			    const struct llama_config *c, uint64_t *weight)
{
	char name[LLAMA_NAME];
	uint64_t most = 0;
	uint32_t in, out;

	*weight = 0;
	for (uint32_t i = 0; i < c->layers; i++) {
		uint64_t n = 0, f16;

		for (int j = 0; j < LLAMA_LINEARS; j++) {
			enum llama_linear which = (enum llama_linear)j;

			n += module_bytes(m, llama_linear_name(i, which, name));
			llama_linear_shape(c, which, &in, &out);
			f16 = 2 * (uint64_t)in * out;
			*weight = f16 > *weight ? f16 : *weight;
		}
		most = n > most ? n : most;
	}
	return most;
}

/* Scratch of a pass (block.h, llm.h) and the tables of positions. */
static uint64_t work_bytes(const struct llama_config *c,
			   const struct llm_open *how)
{
	uint64_t heads = (uint64_t)c->heads * c->head_dim;
	uint64_t kv = (uint64_t)c->kv_heads * c->head_dim;
	uint64_t row = 2 * (c->hidden + heads + kv + (uint64_t)c->inter);

	return be_elem(DT_F32) * (row * how->batch +
				  (uint64_t)how->context * c->head_dim +
				  (uint64_t)how->sequences * c->vocab);
}

int llm_fit(const struct model *m, const struct llama_config *c,
	    const struct llm_open *how, struct llm_fit *fit, struct err *err)
{
	const struct kv_shape one = {
		.layers = 1, .sequences = how->sequences,
		.capacity = how->context,
		.kv_heads = c->kv_heads, .head_dim = c->head_dim,
		.type = kv_type(&how->dev, how->kv_type),
	};
	uint64_t weight, head, room, cache = kv_bytes(&one);

	*fit = (struct llm_fit){ .layers = c->layers, .avail = UINT64_MAX };
	if (how->dev.api->avail(how->dev.be, &fit->avail, err))
		return -1;
	fit->block = block_bytes(m, c, &weight);
	fit->block = fit->block < UINT64_MAX - cache ? fit->block + cache :
						       UINT64_MAX;
	head = module_bytes(m, c->tied ? LLAMA_TABLE : LLAMA_HEAD);
	fit->fixed = head + weight + work_bytes(c, how) + SPARE;
	if (!how->rest.api)
		return 0;
	if (how->layers != LLM_FIT) {
		if (how->layers < c->layers)
			fit->layers = how->layers;
		return 0;
	}
	/* the table goes there only with the first block */
	room = fit->avail > fit->fixed ? fit->avail - fit->fixed : 0;
	if (room / c->layers < fit->block ||
	    room - c->layers * fit->block < module_bytes(m, LLAMA_TABLE))
		fit->layers = (uint32_t)(room / fit->block < c->layers ?
					 room / fit->block : c->layers - 1);
	return 0;
}
