/* What is made from the option tables: the help page, the completions, the
 * list that the man pages are checked against. */
#include "applets.h"

#include "../libfmt/base/err.h"

#include <stdio.h>
#include <string.h>

/* ---- the help page ---- */

#define HELP_LEFT 28   /* columns of "  -o, --output DIR" */
#define HELP_WIDTH 79

/* Words of text from column `at`, wrapped to the help column. */
static void wrap(const char *text, int at)
{
	while (*text) {
		int n = (int)strcspn(text, " ");

		if (at > HELP_LEFT && at + 1 + n > HELP_WIDTH) {
			printf("\n%*s", HELP_LEFT, "");
			at = HELP_LEFT;
		}
		if (at > HELP_LEFT)
			at += printf(" ");
		at += printf("%.*s", n, text);
		text += n;
		text += strspn(text, " ");
	}
	putchar('\n');
}

/* "  -o, --output DIR      help text", the text in its own column; a name that
 * is too wide for the left column gets a line of its own. */
static void help_row(const struct opt *o)
{
	char text[400], dash[4] = "    ";
	int n;

	if (o->letter)
		snprintf(dash, sizeof(dash), "-%c,", o->letter);
	n = printf("  %-3s --%s%s%s%s", o->letter ? dash : "", o->name,
		   !o->arg ? "" : o->maybe ? " [" : " ",
		   !o->arg ? "" : o->kind == OPT_CHOICE ? o->names : o->arg,
		   o->maybe ? "]" : "");
	/* a default of a flag is told by its help text */
	snprintf(text, sizeof(text), "%s%s%s%s", o->help,
		 o->arg && o->def ? " (default: " : "",
		 o->arg && o->def ? o->def : "", o->arg && o->def ? ")" : "");
	if (n >= HELP_LEFT) {
		putchar('\n');
		n = 0;
	}
	printf("%*s", HELP_LEFT - n, "");
	wrap(text, HELP_LEFT);
}

/* Rows of what is there; the others are named at the end of the page. */
static void help_rows(const struct opt *o)
{
	for (; o->kind; o++)
		if (o->kind == OPT_HEAD)
			printf("\n%s:\n", o->help);
		else if (!o->absent)
			help_row(o);
}

/* Options that a script may meet in the manual, named on a few lines. */
static void help_absent(const struct opt *o)
{
	int at = 0;

	for (; o->kind; o++) {
		if (!o->absent)
			continue;
		if (at == 0)
			at = printf("\nNot in this version:") - 1;
		if (at + 3 + (int)strlen(o->name) > HELP_WIDTH)
			at = printf("\n ") - 1;
		at += printf(" --%s", o->name);
	}
	if (at)
		putchar('\n');
}

void applet_help(const struct applet *a)
{
	printf("Usage: gptq-%s %s\n%s.\n", a->name, a->usage, a->summary);
	help_rows(a->options);
	help_rows(opt_common_table);
	help_absent(a->options);
	printf("\nExamples:\n  %s\n  %s\n", a->examples[0], a->examples[1]);
}

/* ---- the plain list ---- */

/* The form that tests/lint reads. */
static void list_options(const char *applet, const struct opt *o)
{
	for (; o->kind; o++)
		if (o->kind != OPT_HEAD)
			printf("%s\t--%s\n", applet, o->name);
}

void applet_options(void)
{
	for (uint32_t i = 0; i < applet_count; i++) {
		list_options(applets[i]->name, applets[i]->options);
		list_options(applets[i]->name, opt_common_table);
	}
}

/* ---- completion ---- */

/* Paths are completed by the shell's own rules. */
static bool takes_path(const struct opt *o)
{
	return o->arg && (!strcmp(o->arg, "FILE") || !strcmp(o->arg, "DIR") ||
			  !strcmp(o->arg, "MODEL"));
}

/* "a|b|c" with another character between the names. */
static void put_names(const char *names, char between)
{
	for (; *names; names++)
		putchar(*names == '|' ? between : *names);
}

/* One case per option that takes a value: the words that may follow. */
static void bash_cases(const char *applet, const struct opt *o)
{
	for (; o->kind; o++) {
		if (!o->arg || takes_path(o))
			continue; /* paths are what is completed otherwise */
		printf("\t%s:--%s", applet, o->name);
		if (o->letter)
			printf("|%s:-%c", applet, o->letter);
		printf(") words='");
		if (o->kind == OPT_CHOICE)
			put_names(o->names, ' ');
		printf("'; return 0 ;;\n");
	}
}

static void put_long(const struct opt *o)
{
	for (; o->kind; o++)
		if (o->kind != OPT_HEAD)
			printf(" --%s", o->name);
}

/* Two functions of data, made from the tables, and one that looks at the
 * command line: which applet, is a value wanted, is an option begun, else a
 * path. */
static void bash(void)
{
	puts("# bash completion for gptq; made by `gptq --completion bash`\n"
	     "_gptq_value() {\n\tcase $1:$2 in");
	for (uint32_t i = 0; i < applet_count; i++) {
		bash_cases(applets[i]->name, applets[i]->options);
		bash_cases(applets[i]->name, opt_common_table);
	}
	puts("\tesac\n\treturn 1\n}\n_gptq_options() {\n\tcase $1 in");
	for (uint32_t i = 0; i < applet_count; i++) {
		printf("\t%s) words='", applets[i]->name);
		put_long(applets[i]->options);
		put_long(opt_common_table);
		puts("' ;;");
	}
	puts("\tesac\n}\n_gptq() {\n"
	     "\tlocal words='' cur=${COMP_WORDS[COMP_CWORD]}\n"
	     "\tlocal prev=${COMP_WORDS[COMP_CWORD-1]} applet\n"
	     "\tapplet=${COMP_WORDS[0]##*/}\n"
	     "\tif [[ $applet == gptq-* ]]; then\n"
	     "\t\tapplet=${applet#gptq-}\n"
	     "\telif ((COMP_CWORD == 1)); then");
	printf("\t\tCOMPREPLY=($(compgen -W '");
	for (uint32_t i = 0; i < applet_count; i++)
		printf("%s ", applets[i]->name);
	puts("help --help --list --version --completion' -- \"$cur\"))\n"
	     "\t\treturn\n"
	     "\telse\n\t\tapplet=${COMP_WORDS[1]}\n\tfi\n"
	     "\tif _gptq_value \"$applet\" \"$prev\"; then\n"
	     "\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	     "\telif [[ $cur == -* ]]; then\n"
	     "\t\t_gptq_options \"$applet\"\n"
	     "\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	     "\telse\n"
	     "\t\tcompopt -o filenames 2>/dev/null\n"
	     "\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n"
	     "\tfi\n}");
	printf("complete -F _gptq gptq");
	for (uint32_t i = 0; i < applet_count; i++)
		printf(" gptq-%s", applets[i]->name);
	putchar('\n');
}

/* Text inside single quotes of a shell script; also what zsh's _arguments
 * takes for its own signs is put behind a backslash. */
static void quoted(const char *s, bool zsh)
{
	for (; *s; s++) {
		if (*s == '\'')
			printf("'\\''");
		else if (zsh && strchr("[]:", *s))
			printf("\\%c", *s);
		else
			putchar(*s);
	}
}

/* A row as _arguments takes it: '{-o,--output}[help]:DIR:_files'. */
static void zsh_rows(const struct opt *o)
{
	for (; o->kind; o++) {
		if (o->kind == OPT_HEAD)
			continue;
		if (o->letter)
			printf(" \\\n\t\t{-%c,--%s}'[", o->letter, o->name);
		else
			printf(" \\\n\t\t'--%s[", o->name);
		quoted(o->help, true);
		putchar(']');
		if (o->arg)
			printf("%s%s:", o->maybe ? "::" : ":", o->arg);
		if (o->kind == OPT_CHOICE) {
			putchar('(');
			put_names(o->names, ' ');
			putchar(')');
		} else if (takes_path(o)) {
			printf("_files");
		}
		putchar('\'');
	}
}

/* zsh has the better machinery: its _arguments does what bash's function has to
 * do by hand. */
static void zsh(void)
{
	printf("#compdef gptq");
	for (uint32_t i = 0; i < applet_count; i++)
		printf(" gptq-%s", applets[i]->name);
	puts("\n# zsh completion for gptq; made by `gptq --completion zsh`\n"
	     "_gptq() {\n"
	     "\tlocal applet=${${words[1]:t}#gptq-}\n"
	     "\tif [[ ${words[1]:t} == gptq ]]; then\n"
	     "\t\tif ((CURRENT == 2)); then\n"
	     "\t\t\t_values applet \\");
	for (uint32_t i = 0; i < applet_count; i++) {
		printf("\t\t\t\t'%s[", applets[i]->name);
		quoted(applets[i]->summary, true);
		printf("]'%s\n", i + 1 < applet_count ? " \\" : "");
	}
	puts("\t\t\treturn\n\t\tfi\n"
	     "\t\tapplet=${words[2]}\n"
	     "\t\tshift words\n"
	     "\t\t((CURRENT--))\n"
	     "\tfi\n"
	     "\tcase $applet in");
	for (uint32_t i = 0; i < applet_count; i++) {
		printf("\t%s) _arguments -s", applets[i]->name);
		zsh_rows(applets[i]->options);
		zsh_rows(opt_common_table);
		puts(" \\\n\t\t'*:file:_files' ;;");
	}
	puts("\tesac\n}\n_gptq \"$@\"");
}

/* fish takes one `complete` command per option. */
static void fish_rows(const char *applet, const struct opt *o)
{
	for (; o->kind; o++) {
		if (o->kind == OPT_HEAD)
			continue;
		/* both ways of calling: gptq APPLET and gptq-APPLET */
		for (int way = 0; way < 2; way++) {
			if (way)
				printf("complete -c gptq-%s", applet);
			else
				printf("complete -c gptq -n "
				       "'__fish_seen_subcommand_from %s'",
				       applet);
			if (o->letter)
				printf(" -s %c", o->letter);
			printf(" -l %s", o->name);
			if (o->arg && !o->maybe)
				printf(takes_path(o) ? " -r" : " -x");
			if (o->kind == OPT_CHOICE) {
				printf(" -a '");
				put_names(o->names, ' ');
				putchar('\'');
			}
			printf(" -d '");
			quoted(o->help, false);
			puts("'");
		}
	}
}

static void fish(void)
{
	puts("# fish completion for gptq; made by `gptq --completion fish`");
	for (uint32_t i = 0; i < applet_count; i++) {
		printf("complete -c gptq -n __fish_use_subcommand -a %s -d '",
		       applets[i]->name);
		quoted(applets[i]->summary, false);
		puts("'");
		fish_rows(applets[i]->name, applets[i]->options);
		fish_rows(applets[i]->name, opt_common_table);
	}
}

/* The scripts go to stdout: the user or the package decides where they live. */
int applet_completion(const char *shell, struct err *err)
{
	if (!strcmp(shell, "bash"))
		bash();
	else if (!strcmp(shell, "zsh"))
		zsh();
	else if (!strcmp(shell, "fish"))
		fish();
	else
		return err_set(err, ERR_USAGE, "--completion: '%s' is none of "
			       "bash, zsh, fish", shell);
	return 0;
}
