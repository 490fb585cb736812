#include "err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Names from hostile files end up in messages: no control characters reach a
 * terminal, and a cut message does not end inside a UTF-8 sequence. */
static void tidy(char *msg, size_t size)
{
	size_t n = strlen(msg);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)msg[i] < 0x20 || msg[i] == 0x7f)
			msg[i] = '?';
	if (n + 1 < size)
		return;
	while (n > 0 && ((unsigned char)msg[n - 1] & 0xc0) == 0x80)
		n--;
	if (n > 0 && ((unsigned char)msg[n - 1] & 0x80))
		n--;
	msg[n] = '\0';
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	tidy(err->msg, sizeof(err->msg));
	return -1;
}

int err_ctx(struct err *err, const char *fmt, ...)
{
	char old[sizeof(err->msg)];
	va_list ap;
	int n;

	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n + 3 < sizeof(err->msg))
		snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %.*s",
			 (int)(sizeof(err->msg) - (size_t)n - 3), old);
	tidy(err->msg, sizeof(err->msg));
	return -1;
}

static int is_resource(int e)
{
	return e == ENOSPC || e == EDQUOT || e == ENOMEM || e == EMFILE ||
	       e == ENFILE;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
	int e = errno;
	size_t n;
	va_list ap;

	err->code = is_resource(e) ? ERR_RESOURCE : code;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	n = strlen(err->msg);
	snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", strerror(e));
	tidy(err->msg, sizeof(err->msg));
	return -1;
}

int prog_step(const struct progress *p, const char *what, uint64_t done,
	      uint64_t total, struct err *err)
{
	if (p && p->step && p->step(p->ctx, what, done, total))
		return err_set(err, ERR_INTR, "interrupted");
	return 0;
}
