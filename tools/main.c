/* Dispatch, and what all applets share: options, --help, --version, the
 * operand, the message of a failure, the last flush. */
#include "applets.h"

#include "../kernels/backend.h"
#include "../kernels/tile.h"
#include "../libfmt/base/mem.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct applet *const applets[] = { &applet_quantize, &applet_inspect,
	&applet_repack, &applet_verify, &applet_run };
const uint32_t applet_count = sizeof(applets) / sizeof(applets[0]);

static const struct applet *find_applet(const char *name)
{
	for (uint32_t i = 0; i < applet_count; i++)
		if (!strcmp(name, applets[i]->name))
			return applets[i];
	return NULL;
}

/* ---- one applet ---- */

static int one_operand(const struct applet *a, const struct opt_parsed *p,
		       struct ui *ui, struct err *err)
{
	const struct opt_list *l;

	if (p->operands == 1)
		return 0;
	if (p->operands > 1)
		return err_set(err, ERR_USAGE,
			       "one MODEL is wanted, but '%s' follows '%s'",
			       p->operand[1], p->operand[0]);
	for (const struct opt *o = a->options; o->kind; o++) {
		if (o->kind != OPT_FILES)
			continue;
		l = (const void *)((const char *)p->base + o->off);
		if (l->count > 1) /* the list has eaten the operand */
			ui_hint(ui, "--%s takes every word that follows: put "
				"MODEL first, or -- in front of it", o->name);
	}
	return err_set(err, ERR_USAGE, "no MODEL is given: gptq-%s %s",
		       a->name, a->usage);
}

/* The device's name is checked before anything is opened, so that a slip costs
 * nothing. */
static int check_common(const struct opt_common *c, struct err *err)
{
	if (be_device_valid(c->device))
		return 0;
	return err_set(err, ERR_USAGE, "--device: '%s' is none of auto, cpu, "
		       "cuda, cuda:N", c->device);
}

/* The applet itself, when there is no --help or --version in the way. */
static int call_applet(const struct applet *a, const struct opt_parsed *p,
		       struct ui *ui, struct err *err)
{
	struct call c = { .ui = ui, .opt = p, .args = p->base };
	char *owned = NULL, say[OPT_SAY];
	uint32_t row = 0;
	int ret = -1;

	while (opt_next_idle(p, &row, say))
		ui_warn(ui, "%s", say);
	c.threads = p->common.threads ? (uint32_t)p->common.threads :
		    tile_cores();
	if (check_common(&p->common, err) || one_operand(a, p, ui, err) ||
	    ui_model_path(p->operand[0], &c.model, &owned, err))
		goto out;
	ui->path = c.model;
	ret = a->run(&c, err);
	ui_done(ui);
	if (ret >= 0 && ui_flush(err)) {
		ui->shut = true;
		ret = -1;
	}
	if (ret < 0)
		ret = ui_fail(ui, err);
	ui->path = NULL;
	free(owned);
	return ret;
out:
	free(owned);
	return ui_fail(ui, err);
}

/* Options first: --help and --version are answered without a model, and a
 * wrong command line never gets as far as opening one. */
static int run_applet(const struct applet *a, int argc, char **argv)
{
	struct err err = { 0, "" };
	struct opt_parsed p;
	struct ui ui;
	void *args;
	int ret;

	args = mem_alloc(1, a->args_size, &err);
	if (!args) {
		p = (struct opt_parsed) { .table = NULL };
		ui_init(&ui, a->name, &p.common);
		return ui_fail(&ui, &err);
	}
	ret = opt_parse(a->options, args, argc, argv, &p, &err);
	ui_init(&ui, a->name, &p.common);
	if (ret) {
		ret = ui_fail(&ui, &err);
	} else if (p.common.help || p.common.version) {
		if (p.common.help)
			applet_help(a);
		else
			applet_version(p.common.verbose);
		ret = ui_flush(&err) ? ui_fail(&ui, &err) : 0;
	} else {
		ret = call_applet(a, &p, &ui, &err);
	}
	opt_release(&p);
	free(args);
	return ret;
}

/* ---- gptq itself ---- */

static void list_applets(void)
{
	for (uint32_t i = 0; i < applet_count; i++)
		printf("%-10s %s\n", applets[i]->name, applets[i]->summary);
}

/* stdout when asked for, stderr when nothing was said at all. */
static void usage(FILE *f)
{
	fputs("Usage: gptq APPLET MODEL [options]   (also: gptq-APPLET ...)\n"
	      "\n"
	      "Quantize Llama-type models to 2, 3, 4 or 8 bits, and inspect, "
	      "repack, verify\nand run them.\n\n", f);
	for (uint32_t i = 0; i < applet_count; i++)
		fprintf(f, "  %-10s %s\n", applets[i]->name,
			applets[i]->summary);
	fputs("\n"
	      "  --list                  the applets\n"
	      "  --version [-v]          the version, and what is built in\n"
	      "  --completion SHELL      a completion script for bash, zsh or "
	      "fish\n"
	      "  --help, help APPLET     this page, the page of an applet\n"
	      "\n"
	      "Examples:\n"
	      "  gptq quantize llama -o llama-4bit --calib text.txt\n"
	      "  gptq inspect llama-4bit\n", f);
}

static int unknown(const char *word, struct err *err)
{
	static const char *const own[] = { "--help", "--version", "--list",
		"--completion", "help" };
	enum { OWN = sizeof(own) / sizeof(own[0]) };
	const char *names[16], *near;
	uint32_t n = 0;

	for (uint32_t i = 0; i < applet_count && n + OWN < 16; i++)
		names[n++] = applets[i]->name;
	for (uint32_t i = 0; i < OWN; i++)
		names[n++] = own[i];
	near = opt_nearest(word, names, n);
	if (near)
		return err_set(err, ERR_USAGE,
			       "there is no applet '%s' (did you mean %s?)",
			       word, near);
	return err_set(err, ERR_USAGE,
		       "there is no applet '%s' (gptq --list names them)",
		       word);
}

/* `gptq help APPLET`. */
static int help_on(const char *name, struct err *err)
{
	const struct applet *a = find_applet(name);

	if (!a)
		return unknown(name, err);
	applet_help(a);
	return 0;
}

/* `gptq` itself has no option table: its few words are looked for by hand. */
static bool has(int argc, char **argv, const char *a, const char *b)
{
	for (int i = 2; i < argc; i++)
		if (!strcmp(argv[i], a) || !strcmp(argv[i], b))
			return true;
	return false;
}

/* What the program does without an applet. */
static int top(int argc, char **argv, struct err *err)
{
	const char *word = argc > 1 ? argv[1] : "";

	if (argc < 2) {
		usage(stderr);
		return err_set(err, ERR_USAGE, "%s", "");
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h") ||
	    !strcmp(word, "help")) {
		if (argc > 2)
			return help_on(argv[2], err);
		usage(stdout);
	} else if (!strcmp(word, "--version")) {
		applet_version(has(argc, argv, "-v", "--verbose"));
	} else if (!strcmp(word, "-v") && has(argc, argv, "--version", "")) {
		applet_version(1);
	} else if (!strcmp(word, "--list")) {
		list_applets();
	} else if (!strcmp(word, "--options")) {
		applet_options();
	} else if (!strcmp(word, "--completion")) {
		if (argc < 3)
			return err_set(err, ERR_USAGE, "--completion needs a "
				       "shell: bash, zsh or fish");
		return applet_completion(argv[2], err);
	} else {
		return unknown(word, err);
	}
	return 0;
}

/* The same ending as an applet's: a full or closed stdout is noticed. */
static int run_top(int argc, char **argv)
{
	struct opt_common none = { .color = 0 };
	struct err err = { 0, "" };
	struct ui ui;

	ui_init(&ui, "", &none);
	if (top(argc, argv, &err) || ui_flush(&err))
		return ui_fail(&ui, &err);
	return 0;
}

/* A descriptor 0..2 that is closed would be given to the first file we open,
 * and a message could land in a model. */
static void hold_standard_files(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) == -1)
			/* for 1 and 2 the wrong mode: writing must fail */
			(void)!open("/dev/null", fd ? O_RDONLY : O_WRONLY);
}

int main(int argc, char **argv)
{
	const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const struct applet *a = NULL;

	name = name ? name + 1 : argc > 0 ? argv[0] : "gptq";
	hold_standard_files();
	ui_signals();
	/* the name it was called by, else the first argument */
	if (!strncmp(name, "gptq-", 5))
		a = find_applet(name + 5);
	if (a)
		return run_applet(a, argc, argv);
	if (argc > 1)
		a = find_applet(argv[1]);
	if (a)
		return run_applet(a, argc - 1, argv + 1);
	return run_top(argc, argv);
}
