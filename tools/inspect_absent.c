/* gptq-inspect of a folder whose weights are not here: what the small files
 * tell, marked as such, and in the end the failure that opening it was. */
#include "inspect.h"

#include "../libfmt/base/io_place.h"
#include "../libfmt/base/net_addr.h"

#include <stdio.h>
#include <string.h>

/* The family in the words of `format`; as the config has it. */
static const char *said_format(const struct config_quant *q)
{
	if (!q->tree)
		return "dense";
	return q->format ? q->format : q->method ? q->method : "gptq";
}

/* The survey as the config would have it. */
static void fill_survey(struct inspect *r)
{
	const struct config_quant *q = &r->model->quant;
	const struct llama_config *c = model_llama(r->model);
	struct survey *s = &r->survey;

	s->format = said_format(q);
	s->bits = q->bits;
	s->group_size = q->group_size;
	s->desc_act = q->desc_act == 1;
	s->sym = q->sym != 0; /* as every reader takes it where it is silent */
	s->bytes = r->absent.bytes;
	s->parameters = c ? llama_parameters(c) : 0;
}

int inspect_absent_gather(struct inspect *r, const char *path,
			  const struct err *why, struct err *err)
{
	struct io_place *place;

	r->failure = *why;
	/* a server is not asked twice */
	if (why->code != ERR_INPUT || net_is_address(path) ||
	    io_place_open(path, &r->ui->progress, &place, err) ||
	    model_open_place(place, MODEL_NO_WEIGHTS, &r->model, err) ||
	    absent_find(r->model, &r->absent, err) || !r->absent.is ||
	    (!r->model->config && !r->model->quant.tree)) {
		*err = *why;
		return -1;
	}
	fill_survey(r);
	return 0;
}

void inspect_absent_size(const struct inspect *r, char buf[96])
{
	const struct absent *a = &r->absent;
	char n[32];

	if (a->pointers)
		snprintf(buf, 96, "%s in %u file%s, here only as Git-LFS "
			 "pointer%s", ui_bytes(a->bytes, n), a->pointers,
			 ui_plural(a->pointers), ui_plural(a->pointers));
	else if (r->estimate.weights)
		snprintf(buf, 96, "%s by the config; weights are missing here",
			 ui_bytes(r->estimate.weights, n));
	else
		snprintf(buf, 96, "not known; weights are missing here");
}

int inspect_absent_end(struct inspect *r, bool examined, struct err *err)
{
	/* the doctor has said it, and its status stands */
	if (examined)
		return r->doctor.errors ? ERR_CHECK : 0;
	*err = r->failure;
	return -1;
}
