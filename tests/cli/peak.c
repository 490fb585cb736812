/* peak.c - run a command and say when it took too much memory.
 *
 *	peak MIB COMMAND...
 *
 * Resident memory counts, pages of mapped files included.  The exit status is
 * the command's. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage used;
	int status = 0;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "peak MIB COMMAND...\n");
		return 2;
	}
	pid = fork();
	if (pid == 0) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &used) < 0) {
		perror("peak");
		return 2;
	}
	if (used.ru_maxrss / 1024 > atol(argv[1]))
		fprintf(stderr, "too much: %ld MiB, not %s\n",
			used.ru_maxrss / 1024, argv[1]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
