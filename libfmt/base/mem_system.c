/* mem_system.c - the memory of this process and this machine, as the system
 * tells it. */
#include "mem.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* From this size on blocks are maps of their own, as freed ones go back to the
 * system at once: glibc would raise the limit to 32 MiB by itself. */
#define OWN_MAP (1 << 20)

/* The number behind `key` and one more character, ':' or ' '; 0: not there. */
static uint64_t field(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	size_t n = strlen(key);
	uint64_t value = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, n) &&
		    (line[n] == ':' || line[n] == ' ')) {
			value = strtoull(line + n + 1, NULL, 10);
			break;
		}
	if (f)
		fclose(f);
	return value;
}

/* The same where the file counts in kB. */
static uint64_t kib_field(const char *path, const char *key)
{
	return field(path, key) << 10;
}

/* A file of one number; UINT64_MAX: not there, or "max". */
static uint64_t number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t n = UINT64_MAX;
	char line[64];

	if (f && fgets(line, sizeof(line), f) && line[0] >= '0' &&
	    line[0] <= '9')
		n = strtoull(line, NULL, 10);
	if (f)
		fclose(f);
	return n;
}

/* Control groups, with what is asked of them.  Source: kernel documentation,
 * cgroup-v2.rst (memory.max, memory.current, memory.stat) and
 * cgroup-v1/memory.rst. */
struct groups {
	const char *root, *controller, *limit, *used, *idle;
};

/* What one group leaves of its limit, files that it has not used of late
 * counted as free. */
static uint64_t room_in(const struct groups *g, const char *group)
{
	char path[PATH_MAX + 64]; /* the group, and the names around it */
	uint64_t limit, used, idle;

	snprintf(path, sizeof(path), "%s%s/%s", g->root, group, g->limit);
	limit = number_in(path);
	snprintf(path, sizeof(path), "%s%s/%s", g->root, group, g->used);
	used = number_in(path);
	snprintf(path, sizeof(path), "%s%s/memory.stat", g->root, group);
	idle = field(path, g->idle);
	if (limit == UINT64_MAX || used == UINT64_MAX)
		return UINT64_MAX;
	used -= idle < used ? idle : used;
	return limit > used ? limit - used : 0;
}

/* The group that this process is in, "" for the root: of lines as
 * "4:memory:/user/job" that of the controller.  In a container the path can be
 * the host's, and then only its root is there to be read. */
static void own_group(const char *controller, char *group, size_t room)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX], *name, *path;

	group[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		name = strchr(line, ':');
		path = name ? strchr(name + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!strcmp(name + 1, controller) && !strstr(path, "/.."))
			snprintf(group, room, "%s", path);
	}
	if (f)
		fclose(f);
}

/* What control groups leave: the one that the process is in, and all that this
 * one is in. */
static uint64_t group_room(void)
{
	static const struct groups kind[] = {
		{ "/sys/fs/cgroup", "", "memory.max", "memory.current",
		  "inactive_file" },
		{ "/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes",
		  "memory.usage_in_bytes", "total_inactive_file" },
	};
	uint64_t least = UINT64_MAX, n;
	char group[PATH_MAX], *end;

	for (int i = 0; i < 2; i++) {
		own_group(kind[i].controller, group, sizeof(group));
		do {
			end = strrchr(group, '/');
			n = room_in(&kind[i], group);
			least = n < least ? n : least;
			if (end)
				*end = '\0';
		} while (end);
	}
	return least;
}

/* What "ulimit -v" leaves. */
static uint64_t address_room(void)
{
	uint64_t used = kib_field("/proc/self/status", "VmSize");
	struct rlimit r;

	if (getrlimit(RLIMIT_AS, &r) || r.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return r.rlim_cur > used ? r.rlim_cur - used : 0;
}

uint64_t mem_available(void)
{
	uint64_t n = kib_field("/proc/meminfo", "MemAvailable");
	uint64_t group = group_room(), address = address_room();
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	if (!n && pages > 0 && size > 0)
		n = (uint64_t)pages * (uint64_t)size;
	n = n ? n : UINT64_MAX;
	n = group < n ? group : n;
	return address < n ? address : n;
}

uint64_t mem_resident(void)
{
	return kib_field("/proc/self/status", "VmRSS");
}

uint64_t mem_peak(void)
{
	return kib_field("/proc/self/status", "VmHWM");
}

void mem_give_back(void)
{
#ifdef __GLIBC__
	mallopt(M_MMAP_THRESHOLD, OWN_MAP);
	/* a thread's arena would take 64 MiB of what "ulimit -v" leaves */
	mallopt(M_ARENA_MAX, 1);
	malloc_trim(0);
#endif
}
