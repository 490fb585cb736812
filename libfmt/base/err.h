/* err.h - the one error pattern of the house.
 *
 * A function that can fail returns 0, or -1 with *err filled.  The record
 * lives on the caller's stack and is the last argument.  `code` IS the exit
 * status of the program, so nothing is ever mapped:
 *
 *	1 a check did not pass        4 valid, but we cannot do that
 *	2 the command line is wrong   5 not enough memory, disk or device memory
 *	3 the input is at fault       6 writing failed        130 interrupted
 *
 * The message is complete, lower case, without a full stop.  Who finds the
 * fault calls err_set; callers that know more put it in front with err_ctx,
 * so that contexts add up to "file: tensor: what is wrong, what was
 * expected".  Bad input is never an assert; assert is for our own bugs. */
#ifndef LIBFMT_BASE_ERR_H
#define LIBFMT_BASE_ERR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum err_code {
	ERR_OK = 0,
	ERR_CHECK = 1,
	ERR_USAGE = 2,
	ERR_INPUT = 3,
	ERR_UNSUP = 4,
	ERR_RESOURCE = 5,
	ERR_OUTPUT = 6,
	ERR_INTR = 130
};

struct err {
	int code; /* enum err_code */
	char msg[508];
};

#if defined(__GNUC__)
#define ERR_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define ERR_PRINTF(f, a)
#endif

/* Fill the record.  A message that does not fit is cut on a character
 * boundary.  Control characters that came from a file are shown as '?'.
 * Always returns -1, for `return err_set(...)`. */
int err_set(struct err *err, int code, const char *fmt, ...) ERR_PRINTF(3, 4);

/* Put "context: " in front of the message and keep the code.
 * Always returns -1. */
int err_ctx(struct err *err, const char *fmt, ...) ERR_PRINTF(2, 3);

/* err_set with ": " and the text of errno behind the message.  ENOSPC, EDQUOT,
 * ENOMEM, EMFILE and ENFILE turn the code into ERR_RESOURCE. */
int err_errno(struct err *err, int code, const char *fmt, ...) ERR_PRINTF(3, 4);

/* Progress of long work, and the way it is stopped.  The callback of the
 * program draws a bar and says whether the user wants to go on; libraries call
 * prog_step now and then, from one thread at a time. */
struct progress {
	/* `what` is a short word for the current phase; done <= total, in
	 * units of the caller's choice.  Non-zero means: stop cleanly. */
	int (*step)(void *ctx, const char *what, uint64_t done, uint64_t total);
	void *ctx;
};

/* Report, and fail with ERR_INTR when told to stop.  `p` may be NULL. */
int prog_step(const struct progress *p, const char *what, uint64_t done,
	      uint64_t total, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
