/* What gptq-quantize tells of its work: a CSV line per linear as it is done,
 * and a few lines at the end. */
#include "quantize.h"

#include "../libfmt/base/mem.h"

#include <errno.h>
#include <string.h>

/* ---- the log ---- */

int quantize_log_open(struct quantize *j, struct err *err)
{
	if (!j->args->log)
		return 0;
	j->log = fopen(j->args->log, "we");
	if (!j->log)
		return err_errno(err, ERR_OUTPUT, "%s", j->args->log);
	fputs("module,in,out,loss,rel_error,damp,seconds,out_error,"
	      "rtn_error\n", j->log);
	return 0;
}

int quantize_log_close(struct quantize *j, struct err *err)
{
	if (!j->log)
		return 0;
	if (fclose(j->log) && !j->log_error)
		j->log_error = errno;
	j->log = NULL;
	errno = j->log_error;
	return errno ? err_errno(err, ERR_OUTPUT, "%s", j->args->log) : 0;
}

void quantize_on_layer(void *ctx, const struct gq_layer_report *r)
{
	struct quantize *j = ctx;
	void *grown = j->layer;
	struct err err;

	if (mem_grow(&grown, &j->cap, j->layers + 1, sizeof(*r), &err)) {
		j->lost = true;
	} else {
		j->layer = grown;
		j->layer[j->layers++] = *r;
	}
	if (j->method->needs_hessian)
		ui_detail(j->call->ui, "%s: relative error %.5f, of the "
			  "outputs %.5f (rounding %.5f), damping %g, %.2f s",
			  r->name, r->r.rel_error, r->r.out_error,
			  r->r.rtn_error, r->r.damp, r->seconds);
	else
		ui_detail(j->call->ui, "%s: relative error %.5f, %.2f s",
			  r->name, r->r.rel_error, r->seconds);
	if (!j->log)
		return;
	fprintf(j->log, "%s,%u,%u,%.9g,%.9g,%g,%.3f,%.6g,%.6g\n", r->name,
		r->in, r->out, r->r.loss, r->r.rel_error, r->r.damp,
		r->seconds, r->r.out_error, r->r.rtn_error);
	/* told at the end: the work is worth more than its log */
	if (fflush(j->log) && !j->log_error)
		j->log_error = errno;
}

/* ---- the end ---- */

/* Verdicts that are printed; the report has all. */
#define VERDICTS 3

static void say_verdict(const struct quantize *j, const struct gq_verdict *v)
{
	char why[160], try[LLAMA_NAME + 64] = "";

	if (v->odd)
		snprintf(why, sizeof(why), "lost %.1f times what its like in "
			 "other blocks lose (%.3g; rounding %.3g)", v->worse,
			 v->error, v->layer->r.rtn_error);
	else
		snprintf(why, sizeof(why), "lost about as much as rounding "
			 "would (%.3g of %.3g): more calibration text may help",
			 v->error, v->layer->r.rtn_error);
	if (v->rule[0])
		snprintf(try, sizeof(try), "; try --rule '%s'", v->rule);
	ui_note(j->call->ui, "%s %s%s", v->layer->name, why, try);
}

static void say_verdicts(const struct quantize *j)
{
	size_t shown = j->call->ui->verbose ? j->verdicts : VERDICTS;

	for (size_t i = 0; i < j->verdicts && i < shown; i++)
		say_verdict(j, &j->verdict[i]);
	if (shown < j->verdicts)
		ui_note(j->call->ui, "%zu more lost unusually much: -v or "
			"--report tells", j->verdicts - shown);
}

/* The mean is over linears, not weighted by their size: it is a number to
 * compare two runs by. */
void quantize_summary(const struct quantize *j)
{
	char from[32], to[32], time[32];
	double mean = 0, worst = 0;

	for (size_t i = 0; i < j->layers; i++) {
		mean += j->layer[i].r.rel_error / (double)j->layers;
		if (j->layer[i].r.rel_error > worst)
			worst = j->layer[i].r.rel_error;
	}
	ui_note(j->call->ui, "%zu linears to %d bits in %s: %s -> %s, "
		"relative error %.4f (largest %.4f)", j->layers,
		j->job.params.bits, ui_time(j->seconds, time),
		ui_bytes(j->before, from), ui_bytes(j->after, to), mean,
		worst);
	say_verdicts(j);
}
