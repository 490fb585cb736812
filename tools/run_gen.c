/* The prompt through the model, then token by token. */
#include "run.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/container/st.h"
#include "../runtime/sample.h"

#include <stdlib.h>
#include <string.h>

/* ---- prefill and --logits ---- */

struct rows {
	struct run *run;
	struct st_writer *writer;
	uint32_t id;      /* of the tensor */
};

/* Pour logits [rows][vocab] and keep the last row: it is what the first
 * generated token is chosen from. */
static int on_rows(void *ctx, uint32_t first, uint32_t rows,
		   const float *logits, struct err *err)
{
	struct rows *w = ctx;
	uint64_t vocab = w->run->llm->cfg.vocab, row = vocab * sizeof(float);

	memcpy(w->run->logits, logits + (rows - 1) * vocab, (size_t)row);
	return st_writer_pour(w->writer, w->id, first * row, logits,
			      rows * row, err);
}

/* The file is staged like everything we write: it is there whole or not at
 * all. */
static int prefill_logits(struct run *r, struct err *err)
{
	struct rows w = { .run = r };
	struct llm_rows rows = { on_rows, &w };
	struct io_stage *stage = NULL;
	uint64_t dim[2] = { r->prompt_count, r->llm->cfg.vocab };
	int ret = -1;

	if (io_stage_open(r->args->logits, false, true, &stage, err) ||
	    st_writer_new(&w.writer, err) ||
	    st_writer_add(w.writer, "logits", DT_F32, 2, dim, &w.id, err) ||
	    st_writer_create_file(w.writer, io_stage_path(stage), err) ||
	    llm_forward(r->llm, r->prompt, (uint32_t)r->prompt_count, &rows,
			&r->progress, err) ||
	    st_writer_commit(w.writer, err) || io_stage_commit(stage, err))
		goto out;
	ret = 0;
out:
	st_writer_free(w.writer);
	io_stage_close(stage);
	return ret;
}

/* Without --logits only the last row is computed. */
int run_prefill(struct run *r, struct err *err)
{
	if (!r->logits)
		r->logits = mem_alloc(r->llm->cfg.vocab, sizeof(float), err);
	if (!r->logits)
		return -1;
	if (r->args->logits)
		return prefill_logits(r, err);
	return llm_prefill(r->llm, r->prompt, (uint32_t)r->prompt_count,
			   r->logits, &r->progress, err);
}

/* ---- text out ---- */

/* The i-th stop text: those of --stop, then the chat form's; NULL: no more. */
static const char *stop_text(const struct run *r, uint32_t i)
{
	const struct opt_list *stop = &r->args->stop;

	return i < stop->count ? stop->item[i] :
	       i == stop->count ? r->stop : NULL;
}

/* Where the first stop text begins; len when there is none. */
static size_t find_stop(const struct run *r, size_t from)
{
	size_t first = r->text.len;
	const char *stop;

	if (!r->text.len) /* no data either */
		return 0;
	for (uint32_t i = 0; (stop = stop_text(r, i)); i++) {
		const char *at = memmem(r->text.data + from,
					r->text.len - from, stop,
					strlen(stop));

		if (at && (size_t)(at - r->text.data) < first)
			first = (size_t)(at - r->text.data);
	}
	return first;
}

/* Bytes at the end of the text that begin a stop text. */
static size_t held_back(const struct run *r)
{
	size_t held = 0, open = r->text.len - r->text.shown;
	const char *stop;

	for (uint32_t i = 0; (stop = stop_text(r, i)); i++) {
		size_t n = strlen(stop) - 1;

		for (n = n < open ? n : open; n > held; n--)
			if (!memcmp(r->text.data + r->text.len - n, stop, n))
				held = n;
	}
	return held;
}

/* Print up to byte `end` of the text.  A reader that has gone ends the run. */
static int show(struct run *r, size_t end, struct err *err)
{
	if (r->quiet || end <= r->text.shown) {
		r->text.shown = end > r->text.shown ? end : r->text.shown;
		return 0;
	}
	fwrite(r->text.data + r->text.shown, 1, end - r->text.shown, stdout);
	r->text.shown = end;
	return ui_flush(err);
}

/* Add a piece; *stop when a stop text is complete. */
static int add_text(struct run *r, const char *piece, size_t n, bool *stop,
		    struct err *err)
{
	struct run_text *t = &r->text;
	void *grown = t->data;
	size_t at;

	/* an answer's first word comes with the space before it */
	for (; r->chat && !t->len && n && strchr(" \n", *piece); n--)
		piece++;
	if (mem_grow(&grown, &t->cap, t->len + n, 1, err))
		return -1;
	t->data = grown;
	if (n)
		memcpy(t->data + t->len, piece, n);
	t->len += n;
	/* a stop text that is complete now begins behind what is shown */
	at = find_stop(r, t->shown);
	if (at < t->len) {
		*stop = true;
		t->len = at;
		return show(r, at, err);
	}
	return show(r, t->len - held_back(r), err);
}

/* ---- the loop ---- */

static bool is_end(const struct run *r, uint32_t id)
{
	const struct llama_config *c = &r->llm->cfg;

	if (r->args->ignore_eos)
		return false;
	for (uint32_t i = 0; i < c->eos_count; i++)
		if (c->eos[i] == id)
			return true;
	if (r->chat && rt_chat_end(r->chat) == (int64_t)id)
		return true;
	return !c->eos_count && r->tok && tok_eos(r->tok) == (int64_t)id;
}

/* Ids are the result of --json; the list grows by doubling. */
static int keep_id(struct run *r, uint32_t id, struct err *err)
{
	void *grown = r->id;

	if (mem_grow(&grown, &r->cap, r->count + 1, sizeof(*r->id), err))
		return -1;
	r->id = grown;
	r->id[r->count++] = id;
	return 0;
}

/* Is there a reason to stop before another token is chosen? */
static const char *enough(const struct run *r)
{
	if (r->most >= 0 && r->count >= (uint64_t)r->most)
		return "length";
	return NULL;
}

/* One token through the model, and what the sampler needs of its logits. */
static int step(struct run *r, struct sampler *s, uint32_t id, struct err *err)
{
	struct be_topk ask = { .best = r->best };

	r->steps++;
	r->bests = rt_sampler_ask(s, &ask);
	if (r->bests)
		return llm_step(r->llm, id, &ask, err);
	return llm_prefill(r->llm, &id, 1, r->logits, NULL, err);
}

/* Choose, keep and show one token; r->stop_reason is set at the end. */
static int one_token(struct run *r, struct sampler *s, struct tok_stream *out,
		     struct err *err)
{
	uint32_t id = r->bests ? rt_sampler_pick(s, r->best, r->bests) :
				 rt_sampler_next(s, r->logits);
	const char *piece = NULL;
	bool stop = false;
	size_t n = 0;

	if (is_end(r, id)) {
		r->stop_reason = "eos";
		return 0;
	}
	rt_sampler_accept(s, id);
	if (keep_id(r, id, err) ||
	    (out && (tok_stream_feed(out, id, &piece, &n, err) ||
		     add_text(r, piece, n, &stop, err))))
		return -1;
	r->stop_reason = stop ? "stop" : enough(r);
	if (!r->stop_reason && r->llm->used[0] == r->llm->context)
		r->stop_reason = "context";
	if (r->stop_reason)
		return 0;
	return step(r, s, id, err);
}

/* Until there is a reason to stop.  Ctrl-C is looked for at every token. */
static int loop(struct run *r, struct sampler *s, struct tok_stream *out,
		struct err *err)
{
	/* while text streams there is no room for a bar */
	const struct progress *p = r->quiet ? &r->progress : NULL;
	uint64_t most = r->most < 0 ? r->llm->context - r->llm->used[0] :
				      (uint64_t)r->most;

	r->stop_reason = enough(r);
	while (!r->stop_reason) {
		if (ui_interrupted())
			return err_set(err, ERR_INTR, "interrupted");
		if (one_token(r, s, out, err) ||
		    prog_step(p, "generate", r->count, most, err))
			return -1;
	}
	return 0;
}

/* What was held back, and a newline for the terminal's sake. */
static int finish_text(struct run *r, struct tok_stream *out, struct err *err)
{
	const char *piece;
	bool stop = false;
	size_t n;

	if (!out)
		return 0;
	if (strcmp(r->stop_reason, "stop")) {
		if (tok_stream_flush(out, &piece, &n, err) ||
		    add_text(r, piece, n, &stop, err))
			return -1;
		if (stop)
			r->stop_reason = "stop";
	}
	if (show(r, r->text.len, err))
		return -1;
	if (!r->quiet && r->text.len &&
	    r->text.data[r->text.len - 1] != '\n')
		putchar('\n');
	return 0;
}

/* The sampler lives as long as the run: a chat goes on with its numbers. */
static int make_sampler(struct run *r, struct err *err)
{
	const struct run_args *a = r->args;
	struct sample_params p = {
		.temp = a->temp, .top_k = (uint32_t)a->top_k,
		.top_p = a->top_p, .min_p = a->min_p,
		.repeat_penalty = a->repeat_penalty, .seed = (uint64_t)a->seed
	};

	return r->sampler ? 0 :
	       rt_sampler_new(&p, r->llm->cfg.vocab, &r->sampler, err);
}

int run_generate(struct run *r, struct err *err)
{
	struct tok_stream *out = NULL;
	int ret = -1;

	r->count = r->text.len = r->text.shown = 0;
	r->steps = r->bests = 0; /* the first is chosen from r->logits */
	if (make_sampler(r, err) ||
	    (r->tok && tok_stream_new(r->tok, r->prompt, r->prompt_count,
				      &out, err)))
		goto out;
	for (size_t i = 0; i < r->prompt_count; i++)
		rt_sampler_accept(r->sampler, r->prompt[i]);
	if (loop(r, r->sampler, out, err) || finish_text(r, out, err)) {
		/* the message starts on a line of its own */
		if (r->text.shown && !r->quiet && err->msg[0])
			putchar('\n');
		goto out;
	}
	ret = 0;
out:
	tok_stream_free(out);
	return ret;
}
