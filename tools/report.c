/* report.c - numbers and tables as a person reads them (ui.h).
 *
 * Units of memory and files are binary and say so (KiB, MiB); counts of
 * parameters and tokens are decimal. */
#include "ui.h"

#include "../libfmt/base/mem.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Three significant digits and a unit; below the first step, a whole number. */
static const char *scaled(double v, double step, const char *const *unit,
			  char buf[32])
{
	int i = 0;

	/* 1023.99 must not print as "1024.0 KiB" */
	while (v >= step * 0.9995 && unit[i + 1]) {
		v /= step;
		i++;
	}
	if (i == 0)
		snprintf(buf, 32, "%.0f%s%s", v, *unit[0] ? " " : "", unit[0]);
	else
		snprintf(buf, 32, "%.*f %s", v < 9.995 ? 2 : v < 99.95 ? 1 : 0,
			 v, unit[i]);
	return buf;
}

const char *ui_bytes(uint64_t n, char buf[32])
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB",
		"PiB", NULL };

	return scaled((double)n, 1024, unit, buf);
}

const char *ui_count(uint64_t n, char buf[32])
{
	static const char *const unit[] = { "", "k", "M", "G", "T", NULL };

	return scaled((double)n, 1000, unit, buf);
}

/* Under ten seconds a decimal matters, above that a clock reads better. */
const char *ui_time(double seconds, char buf[32])
{
	unsigned long s = (unsigned long)(seconds + 0.5);

	if (seconds < 9.95)
		snprintf(buf, 32, "%.1f s", seconds > 0 ? seconds : 0);
	else if (s < 60)
		snprintf(buf, 32, "%lu s", s);
	else if (s < 3600)
		snprintf(buf, 32, "%lu:%02lu", s / 60, s % 60);
	else
		snprintf(buf, 32, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60,
			 s % 60);
	return buf;
}

const char *ui_plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

/* ---- small pictures ---- */

const char *ui_spark(const struct ui *ui, const uint64_t *count, uint32_t n,
		     uint32_t width, char buf[3 * UI_SPARK + 1])
{
	static const char ascii[] = ".:-=+*%#";
	uint32_t each = (n + width - 1) / width, columns;
	uint64_t sum[UI_SPARK] = { 0 }, top = 1;
	char *to = buf;

	columns = (n + each - 1) / each;
	for (uint32_t i = 0; i < n; i++)
		sum[i / each] += count[i];
	for (uint32_t i = 0; i < columns; i++)
		top = sum[i] > top ? sum[i] : top;
	for (uint32_t i = 0; i < columns; i++) {
		double share = (double)sum[i] / (double)top;
		int level = (int)(share * 7.999);

		if (!sum[i])
			to += sprintf(to, " ");
		else if (ui->utf8) /* U+2581 to U+2588 */
			to += sprintf(to, "\xe2\x96%c", 0x81 + level);
		else
			to += sprintf(to, "%c", ascii[level]);
	}
	*to = '\0';
	return buf;
}

/* In UTF-8 the last column is filled by eighths. */
const char *ui_bar(const struct ui *ui, double share, uint32_t width,
		   char buf[3 * UI_SPARK + 1])
{
	uint32_t parts = ui->utf8 ? 8 : 1;
	uint32_t n = (uint32_t)(share * width * parts + 0.5);
	char *to = buf;

	if (!n && share > 0) /* something is not nothing */
		n = 1;
	for (; n >= parts; n -= parts)
		to += sprintf(to, "%s", ui->utf8 ? "\xe2\x96\x88" : "#");
	if (n) /* U+2589 is seven eighths, U+258F one */
		to += sprintf(to, "\xe2\x96%c", 0x90 - (int)n);
	*to = '\0';
	return buf;
}

/* ---- text from files ---- */

/* Nothing in it may steer a terminal: control characters of both kinds, and
 * those that turn the direction of writing, become '?'. */
static char *tame(char *text)
{
	unsigned char *p = (unsigned char *)text;
	size_t n;

	for (; *p; p += n) {
		bool turns = p[0] == 0xe2 &&
			((p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae) ||
			 (p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9));
		bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f;

		n = turns ? 3 : c1 ? 2 : 1;
		if (turns || c1 || *p < 0x20 || *p == 0x7f)
			memset(p, '?', n);
	}
	return text;
}

void ui_put(FILE *f, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	fputs(tame(text), f);
	free(text);
}

/* ---- tables ---- */

struct ui_table {
	const char *const *head;
	uint32_t columns;
	char **cell;    /* [count], row by row */
	size_t count, cap;
	bool lost;      /* a cell found no memory */
};

struct ui_table *ui_table_new(const char *const *heads, uint32_t columns,
			      struct err *err)
{
	struct ui_table *t = mem_alloc(1, sizeof(*t), err);

	if (t) {
		t->head = heads;
		t->columns = columns;
	}
	return t;
}

/* A cell that finds no memory is remembered, and ui_table_print fails: so
 * filling a table needs no checks. */
void ui_cell(struct ui_table *t, const char *fmt, ...)
{
	void *cells = t->cell;
	struct err err;
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0 || mem_grow(&cells, &t->cap, t->count + 1, sizeof(*t->cell),
			      &err)) {
		t->lost = true;
		if (n >= 0)
			free(text);
		return;
	}
	t->cell = cells;
	t->cell[t->count++] = tame(text);
}

void ui_table_free(struct ui_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->count; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t);
}

/* Columns that text takes on the screen: its code points. */
static size_t text_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

/* The first byte of the n-th character. */
static const char *text_at(const char *s, size_t n)
{
	for (; *s; s++)
		if (((unsigned char)*s & 0xc0) != 0x80 && n-- == 0)
			break;
	return s;
}

static void pad(FILE *f, size_t n)
{
	while (n-- > 0)
		fputc(' ', f);
}

/* One cell of `width` columns; `last` cells are not padded on the right. */
static void put_cell(FILE *f, const char *text, char how, size_t width,
		     bool last)
{
	static const char common[] = "model.layers.";
	size_t n = text_width(text);

	/* what the names of all layers begin with gives way first */
	if (how == '~' && n > width &&
	    !strncmp(text, common, sizeof(common) - 1)) {
		text += sizeof(common) - 1;
		n -= sizeof(common) - 1;
	}
	if (how == '~' && n > width && width > 4) {
		size_t front = (width - 2) / 3, back = width - 2 - front;

		fwrite(text, 1, (size_t)(text_at(text, front) - text), f);
		fputs("..", f);
		fputs(text_at(text, n - back), f);
		return;
	}
	if (how == '>' && n < width)
		pad(f, width - n);
	fputs(text, f);
	if (how != '>' && n < width && !last)
		pad(f, width - n);
}

/* The cell of column c and the gap before it; nothing for an empty last one. */
static void next_cell(const struct ui_table *t, FILE *f, const char *text,
		      uint32_t c, const size_t *width)
{
	bool last = c + 1 == t->columns;

	if (last && !*text)
		return;
	pad(f, c ? 2 : 0);
	put_cell(f, text, t->head[c][0], width[c], last);
}

/* Widths of all columns; on a terminal the '~' column gives way. */
static void measure(const struct ui_table *t, size_t *width, int screen)
{
	size_t sum = 0;

	for (uint32_t c = 0; c < t->columns; c++) {
		width[c] = text_width(t->head[c] + 1);
		for (size_t i = c; i < t->count; i += t->columns) {
			size_t n = text_width(t->cell[i]);

			width[c] = n > width[c] ? n : width[c];
		}
		sum += width[c] + (c ? 2 : 0);
	}
	for (uint32_t c = 0; c < t->columns; c++)
		if (screen && t->head[c][0] == '~' && sum > (size_t)screen) {
			size_t over = sum - (size_t)screen;

			width[c] = width[c] > over + 12 ? width[c] - over : 12;
			break;
		}
}

int ui_table_print(const struct ui *ui, FILE *f, const struct ui_table *t,
		   struct err *err)
{
	size_t *width;

	if (t->lost)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	width = mem_alloc(t->columns, sizeof(*width), err);
	if (!width)
		return -1;
	measure(t, width, ui_width(f));
	fputs(ui_paint(ui, f, UI_BOLD), f);
	for (uint32_t c = 0; c < t->columns; c++)
		next_cell(t, f, t->head[c] + 1, c, width);
	fprintf(f, "%s\n", ui_paint(ui, f, UI_OFF));
	for (size_t i = 0; i < t->count; i++) {
		uint32_t c = (uint32_t)(i % t->columns);

		next_cell(t, f, t->cell[i], c, width);
		if (c + 1 == t->columns)
			fputc('\n', f);
	}
	free(width);
	return 0;
}
