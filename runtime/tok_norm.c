/* tokenizer.json, first stage: the normalizer, a list of rewrites. */
#include "tok_impl.h"

#include "../libfmt/base/err.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <stdlib.h>
#include <string.h>

static int content(struct tok_norm *n, const struct cJSON *j,
		   const char *key, struct err *err)
{
	const char *s = json_text(json_find(j, key));

	if (!s)
		return err_set(err, ERR_INPUT, "\"%s\" is not a string", key);
	n->len = strlen(s);
	n->content = mem_text(s, n->len, err);
	return n->content ? 0 : -1;
}

static int load_one(struct tok_bpe *b, const struct cJSON *j,
		    const char *type, struct err *err)
{
	struct tok_norm *n = &b->norm[b->norms];

	if (b->norms == TOK_STEPS)
		return err_set(err, ERR_UNSUP, "more than %d steps",
			       TOK_STEPS);
	b->norms++;
	if (strcmp(type, "Prepend") == 0) {
		n->kind = TOK_NORM_PREPEND;
		return content(n, j, "prepend", err);
	}
	if (strcmp(type, "Replace") == 0) {
		n->kind = TOK_NORM_REPLACE;
		return content(n, j, "content", err) ||
				       tok_pattern_json(
					       &n->pattern,
					       json_find(j, "pattern"), err) ?
			       -1 :
			       0;
	}
	if (strcmp(type, "NFC") == 0) {
		n->kind = TOK_NORM_NFC;
		return 0;
	}
	return err_set(err, ERR_UNSUP, "type \"%s\" is not supported", type);
}

int tok_norm_load(struct tok_bpe *b, const struct cJSON *j, struct err *err)
{
	const char *type = json_text(json_find(j, "type"));
	const struct cJSON *k;

	if (!j || json_is_null(j))
		return 0;
	if (!type)
		return err_set(err, ERR_INPUT, "normalizer: it has no type");
	if (strcmp(type, "Sequence") != 0)
		return load_one(b, j, type, err) ?
			       err_ctx(err, "normalizer") :
			       0;
	for (k = json_first(json_find(j, "normalizers")); k; k = json_next(k))
		if (tok_norm_load(b, k, err))
			return -1;
	return 0;
}

static int replace(const struct tok_norm *m, struct tok_search *f,
		   struct tok_buf *out, struct err *err)
{
	size_t done = 0;
	int rc;

	while ((rc = tok_search_next(f, err)) > 0) {
		if (tok_buf_add(out, f->text.s + done, f->start - done, err) ||
		    tok_buf_add(out, m->content, m->len, err)) {
			rc = -1;
			break;
		}
		done = f->end;
	}
	tok_search_end(f);
	if (rc < 0)
		return -1;
	return tok_buf_add(out, f->text.s + done, f->text.n - done, err);
}

int tok_norm_run(const struct tok_bpe *b, struct tok_match **match,
		 struct tok_buf scratch[2], struct tok_span *text,
		 struct err *err)
{
	for (unsigned i = 0; i < b->norms; i++) {
		const struct tok_norm *m = &b->norm[i];
		struct tok_buf *out = &scratch[i & 1];
		struct tok_search f = { .p = &m->pattern, .scratch = match,
					.text = *text };
		int rc = 0;

		if (text->n == 0)
			return 0;
		out->len = 0;
		switch (m->kind) {
		case TOK_NORM_PREPEND:
			rc = tok_buf_add(out, m->content, m->len, err) ||
			     tok_buf_add(out, text->s, text->n, err);
			break;
		case TOK_NORM_REPLACE:
			rc = replace(m, &f, out, err);
			break;
		case TOK_NORM_NFC:
			rc = tok_nfc(text->s, text->n, out, err);
			break;
		}
		if (rc)
			return -1;
		text->s = out->p;
		text->n = out->len;
	}
	return 0;
}

void tok_norm_release(struct tok_bpe *b)
{
	for (unsigned i = 0; i < b->norms; i++) {
		tok_pattern_release(&b->norm[i].pattern);
		free(b->norm[i].content);
	}
}
