/* repack_cure.h - what gptq-repack --fix has mended, as the doctor sees it:
 * the problems before, and those that the result still has. */
#ifndef TOOLS_REPACK_CURE_H
#define TOOLS_REPACK_CURE_H

#include "../libfmt/doctor.h"

struct cJSON;
struct ui;

struct repack_cure {
	struct doctor before, after;
};

/* Headers only, as gptq-inspect --doctor. */
int repack_cure_before(struct repack_cure *c, const char *model,
		       struct err *err);
int repack_cure_after(struct repack_cure *c, const char *model,
		      struct err *err);
void repack_cure_print(const struct repack_cure *c, struct ui *ui);
/* "mended": codes, "left": codes. */
void repack_cure_json(const struct repack_cure *c, struct cJSON *o);
void repack_cure_release(struct repack_cure *c);

#endif
