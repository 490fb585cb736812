/* chat.h - the form in which a chat model has learnt to read turns.
 *
 * Models ship their form as a program in the Jinja language.  It is not run
 * here: the forms in common use are few, so the program's text is only looked
 * at for the marks of one of them, and a form that is not known is ERR_UNSUP.
 * A turn becomes ids piece by piece: marks become the tokens they name, all
 * else is plain text, so that no message can forge a mark.
 *
 * Differences from the originals: dates in a system text are the template's
 * fixed ones; a system text of the Mistral forms stands with the first message,
 * not the last; an answer is kept as the model gave it, not trimmed.
 * A struct rt_chat is immutable after rt_chat_open. */
#ifndef RUNTIME_CHAT_H
#define RUNTIME_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct model;
struct rt_chat;
struct tok;

/* The form that the model's files speak of: chat_template.jinja,
 * tokenizer_config.json, chat_template.json, or a GGUF file's own.  `name`, one
 * of rt_chat_form's, takes that form instead; NULL: none.  The tokenizer is
 * borrowed and outlives the result. */
int rt_chat_open(const struct model *m, const struct tok *t, const char *name,
		 struct rt_chat **out, struct err *err);
void rt_chat_close(struct rt_chat *c); /* accepts NULL */

/* The name of the i-th form known; NULL behind the last. */
const char *rt_chat_form(uint32_t i);
/* Of this one: its name, and the file it was found in ("" when named). */
const char *rt_chat_name(const struct rt_chat *c);
const char *rt_chat_source(const struct rt_chat *c);
/* The token that ends an answer; -1 when the vocabulary has none, then the
 * text that does, or NULL. */
int64_t rt_chat_end(const struct rt_chat *c);
const char *rt_chat_stop(const struct rt_chat *c);

/* What stands between the end of the last answer (or nothing) and the next
 * answer. */
struct rt_turn {
	bool first;         /* the conversation begins here */
	const char *system; /* with `first` only; NULL: the form's own */
	const char *user;
};
/* *ids is the caller's to free. */
int rt_chat_turn(const struct rt_chat *c, const struct rt_turn *turn,
		 uint32_t **ids, size_t *count, struct err *err);

#endif
