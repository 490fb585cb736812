/* ui.c - signals, the terminal, progress, messages, and the two standard
 * streams (ui.h).  Numbers and tables are in report.c. */
#include "ui.h"

#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* The one mutable global of the house: what a signal handler may touch. */
static volatile sig_atomic_t ui_interrupt;

static void on_signal(int sig)
{
	if (ui_interrupt) { /* asked twice: now */
		signal(sig, SIG_DFL);
		raise(sig);
	}
	ui_interrupt = 1;
}

void ui_signals(void)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa, old;

	memset(&sa, 0, sizeof(sa));
	/* no SA_RESTART: reading from a terminal must end too */
	sa.sa_handler = on_signal;
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (!sigaction(ends[i], NULL, &old) &&
		    old.sa_handler != SIG_IGN) /* nohup stays nohup */
			sigaction(ends[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file-size limit is a write error */
}

int ui_interrupted(void)
{
	return ui_interrupt != 0;
}

void ui_resume(void)
{
	ui_interrupt = 0;
}

double ui_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- the terminal ---- */

/* A terminal that does not tell its width counts as 80 columns. */
int ui_width(FILE *f)
{
	struct winsize ws;

	if (!isatty(fileno(f)))
		return 0;
	if (ioctl(fileno(f), TIOCGWINSZ, &ws) || !ws.ws_col)
		return 80;
	return ws.ws_col;
}

/* Whether block characters can be shown.  setlocale is not called: numbers are
 * to be printed with a point everywhere. */
static bool locale_is_utf8(void)
{
	static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (size_t i = 0; i < 3; i++) {
		const char *v = getenv(names[i]);

		if (v && *v) /* the first that is set decides */
			return strstr(v, "UTF-8") || strstr(v, "utf8") ||
			       strstr(v, "UTF8") || strstr(v, "utf-8");
	}
	return false;
}

static int bar_step(void *ctx, const char *what, uint64_t done, uint64_t total);

void ui_init(struct ui *ui, const char *applet, const struct opt_common *c)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");
	bool dumb = !term || !strcmp(term, "dumb");
	bool plain = dumb || (no && *no);

	memset(ui, 0, sizeof(*ui));
	snprintf(ui->applet, sizeof(ui->applet), "%s%s",
		 *applet ? "gptq-" : "gptq", applet);
	ui->quiet = c->quiet;
	ui->json = c->json;
	ui->verbose = c->verbose;
	ui->tty_out = isatty(STDOUT_FILENO);
	ui->tty_err = isatty(STDERR_FILENO) && !dumb;
	ui->color_out = c->color == 1 ||
			(c->color == 0 && ui->tty_out && !plain);
	ui->color_err = c->color == 1 ||
			(c->color == 0 && ui->tty_err && !plain);
	ui->utf8 = locale_is_utf8();
	ui->progress = (struct progress) { bar_step, ui };
}

const char *ui_paint(const struct ui *ui, FILE *f, enum ui_color c)
{
	static const char *const code[] = { "\033[0m", "\033[1m", "\033[2m",
		"\033[31m", "\033[32m", "\033[33m", "\033[34m" };

	return (f == stderr ? ui->color_err : ui->color_out) ? code[c] : "";
}

/* ---- progress ---- */

#define BAR_FIRST 1.0      /* seconds of silence before the first bar */
#define BAR_EVERY 0.17     /* at most six times a second */
#define LINE_EVERY 5.0     /* where stderr is no terminal */

/* "what  ####....  12/50, 24 %, 3.2/s, 12 s left", redrawn in place.  The bar
 * takes what the words leave, up to 40 columns, perhaps nothing. */
static void draw_bar(struct ui *ui, const char *left, const char *right,
		     double share)
{
	int columns = ui_width(stderr), room;
	char bar[3 * 64 + 1] = "";

	room = columns - (int)strlen(left) - (int)strlen(right) - 6;
	room = room > 40 ? 40 : room;
	for (int i = 0; i < room; i++)
		strcat(bar, (double)i + 0.5 < share * room ?
			    (ui->utf8 ? "\u2588" : "#") :
			    (ui->utf8 ? "\u2591" : "."));
	fprintf(stderr, "\r\033[K%s  %s%s%s%s%s", left,
		ui_paint(ui, stderr, UI_BLUE), bar,
		ui_paint(ui, stderr, UI_OFF), room > 0 ? "  " : "", right);
	fflush(stderr);
	ui->drawn = true;
}

/* Rate and time left come from the whole phase so far: they move slowly, and
 * every unit of a walk costs about the same. */
static void show(struct ui *ui, double now, uint64_t done, uint64_t total)
{
	double spent = now - ui->began, share, rate;
	char right[128], left_time[32] = "", n[32], m[32], speed[32] = "";

	share = total ? (double)done / (double)total : 0;
	rate = spent > 0 ? (double)done / spent : 0;
	if (rate >= 10)
		snprintf(speed, sizeof(speed), ", %s/s",
			 ui_count((uint64_t)rate, n));
	else if (rate > 0)
		snprintf(speed, sizeof(speed), ", %.2g/s", rate);
	if (share > 0)
		snprintf(left_time, sizeof(left_time), ", %s left",
			 ui_time(spent / share - spent, n));
	snprintf(right, sizeof(right), "%s/%s, %.0f %%%s%s",
		 ui_count(done, n), ui_count(total, m), 100 * share, speed,
		 left_time);
	if (ui->tty_err)
		draw_bar(ui, ui->what, right, share);
	else
		fprintf(stderr, "%s: %s %s\n", ui->applet, ui->what, right);
	ui->shown = now;
}

/* Libraries call this as often as they like; what is drawn is limited here.
 * The answer is whether to stop. */
static int bar_step(void *ctx, const char *what, uint64_t done, uint64_t total)
{
	struct ui *ui = ctx;
	double now;

	if (ui_interrupted())
		return 1;
	if (ui->quiet)
		return 0;
	now = ui_now();
	if (ui->started == 0) /* waiting for a model's path is no work */
		ui->started = now;
	if (strncmp(ui->what, what, sizeof(ui->what) - 1) || done == 0) {
		snprintf(ui->what, sizeof(ui->what), "%s", what);
		ui->began = now;
	}
	if (now - ui->started < BAR_FIRST || done == 0)
		return 0;
	if (ui->shown == 0 && !ui->tty_err)
		ui->shown = ui->started; /* the first line waits as well */
	if (now - ui->shown >= (ui->tty_err ? BAR_EVERY : LINE_EVERY))
		show(ui, now, done, total);
	return 0;
}

/* Wipe the bar, so that a line can be written in its place. */
void ui_done(struct ui *ui)
{
	if (ui->drawn)
		fputs("\r\033[K", stderr);
	ui->drawn = false;
}

/* ---- messages ---- */

ERR_PRINTF(3, 0)
static void line(struct ui *ui, const char *kind, const char *fmt, va_list ap)
{
	ui_done(ui);
	fprintf(stderr, "%s: %s", ui->applet, kind);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void ui_note(struct ui *ui, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!ui->quiet)
		line(ui, "", fmt, ap);
	va_end(ap);
}

void ui_detail(struct ui *ui, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!ui->quiet && ui->verbose)
		line(ui, "", fmt, ap);
	va_end(ap);
}

void ui_warn(struct ui *ui, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!ui->quiet)
		line(ui, "warning: ", fmt, ap);
	va_end(ap);
}

void ui_hint(struct ui *ui, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(ui->hint, sizeof(ui->hint), fmt, ap);
	va_end(ap);
}

/* The one place where a failure is told.  With --json the document on stdout
 * carries the same words. */
int ui_fail(struct ui *ui, const struct err *err)
{
	struct cJSON *j, *e;
	struct err ignored;

	ui_done(ui);
	if (err->msg[0])
		fprintf(stderr, "%s%s%s: %s\n", ui_paint(ui, stderr, UI_RED),
			ui->applet, ui_paint(ui, stderr, UI_OFF), err->msg);
	if (err->msg[0] && ui->hint[0])
		fprintf(stderr, "%s: %s\n", ui->applet, ui->hint);
	if (ui->json && !ui->shut) {
		j = cJSON_CreateObject();
		if (ui->path)
			ui_json_text(j, "path", ui->path);
		e = cJSON_AddObjectToObject(j, "error");
		cJSON_AddNumberToObject(e, "code", err->code);
		ui_json_text(e, "message", err->msg);
		if (ui->hint[0])
			ui_json_text(e, "hint", ui->hint);
		if (!ui_json(stdout, j, &ignored))
			fflush(stdout);
	}
	return err->code;
}

/* ---- standard output ---- */

/* stdio forgets errno of an earlier write; the pipe itself still knows. */
static bool pipe_is_broken(FILE *f)
{
	struct pollfd p = { .fd = fileno(f), .events = POLLOUT };

	return poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
}

int ui_flush(struct err *err)
{
	int e = 0;

	errno = 0;
	if (fflush(stdout))
		e = errno;
	else if (!ferror(stdout))
		return 0;
	if (e == EPIPE || pipe_is_broken(stdout)) {
		/* who reads us has seen enough: no message */
		err_set(err, ERR_OUTPUT, "%s", "");
		return -1;
	}
	return err_set(err, ERR_OUTPUT, "standard output: %s",
		       e ? strerror(e) : "writing failed");
}

/* Indented: it is read by people as often as by programs. */
int ui_json(FILE *f, struct cJSON *j, struct err *err)
{
	char *text = j ? json_print(j, true, err) : NULL;

	if (!j)
		err_set(err, ERR_RESOURCE, "not enough memory");
	json_free(j);
	if (!text)
		return -1;
	fputs(text, f);
	free(text);
	return 0;
}

/* Bytes of the UTF-8 sequence at s; 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
	size_t len = *s < 0x80 ? 1 : *s < 0xc2 ? 0 : *s < 0xe0 ? 2 :
		     *s < 0xf0 ? 3 : *s < 0xf5 ? 4 : 0;

	if (len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* overlong forms, surrogates, beyond U+10FFFF */
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) ||
	    (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

/* cJSON prints bytes as they are, and a document must be UTF-8. */
struct cJSON *ui_json_string(const char *text, size_t n)
{
	static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
	struct cJSON *j = NULL;
	size_t to = 0, three;
	char *clean;

	if (mem_mul(n, 3, &three) || !(clean = malloc(three + 1)))
		return NULL;
	for (size_t i = 0; i < n;) {
		size_t len = utf8_length((const unsigned char *)text + i,
					 n - i);

		/* a NUL cannot stand in a C string */
		if (len == 0 || text[i] == '\0') {
			memcpy(clean + to, replacement, 3);
			to += 3;
			i++;
			continue;
		}
		memcpy(clean + to, text + i, len);
		to += len;
		i += len;
	}
	clean[to] = '\0';
	j = cJSON_CreateString(clean);
	free(clean);
	return j;
}

void ui_json_text(struct cJSON *obj, const char *key, const char *text)
{
	if (text)
		cJSON_AddItemToObject(obj, key,
				      ui_json_string(text, strlen(text)));
	else
		cJSON_AddNullToObject(obj, key);
}

/* ---- standard input ---- */

int ui_model_path(const char *arg, const char **path, char **owned,
		  struct err *err)
{
	size_t n = 0, cap = 0;
	void *grown = NULL;
	ssize_t got;
	char c;

	*owned = NULL;
	*path = arg;
	if (strcmp(arg, "-"))
		return 0;
	/* byte by byte: what follows the line may be the prompt */
	while ((got = read(STDIN_FILENO, &c, 1)) == 1 && c != '\n') {
		if (mem_grow(&grown, &cap, n + 2, 1, err))
			goto fail;
		((char *)grown)[n++] = c;
	}
	if (ui_interrupted()) {
		err_set(err, ERR_INTR, "interrupted");
		goto fail;
	}
	if (got < 0) {
		err_errno(err, ERR_INPUT, "standard input");
		goto fail;
	}
	if (n == 0) {
		/* the command in front has failed and said why */
		err_set(err, ERR_INPUT, "no model path on standard input");
		goto fail;
	}
	((char *)grown)[n] = '\0';
	*path = *owned = grown;
	return 0;
fail:
	free(grown);
	return -1;
}
