/* server.c - an HTTP server for the tests of remote reading, good and bad.
 *
 *	server ROOT LOG
 *
 * Listens on two ports of 127.0.0.1, prints them on one line and serves until
 * its standard input ends.  The first word of a path says how to behave, the
 * rest is a file below ROOT:
 *
 *	/ok/...       ranges, and pages that list directories
 *	/bare/...     ranges, no pages
 *	/norange/...  the whole file whatever was asked for
 *	/endless/...  the same without a length and without an end
 *	/slow/...     a few bytes at a time
 *	/stall/...    half of the body, then nothing
 *	/cut/...      half of the body, then the end; /cutonce/: only once
 *	/long/...     says twice the length; /shift/: another range than asked
 *	/short/...    half of the range; /grow/: another total each time
 *	/zip/...      says that the body is compressed
 *	/busy/...     429 once for each path; /down/: 503 always
 *	/wait/...     429 and a long Retry-After
 *	/401/... /403/... /404/...
 *	/moved/...    on to /bare/ of the second port
 *	/far/...      on to another host by http; /loop/: on to itself
 *	/hub/...      OWNER/NAME/resolve/REV/FILE goes on to
 *	              /bare/OWNER/NAME/FILE of the second port,
 *	              api/models/OWNER/NAME/revision/REV lists; OWNER "gated"
 *	              and "private" want a token
 *
 * LOG gets a line for each request: port (1 or 2), path, Range, and whether
 * there was an Authorization field. */
#include <dirent.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEEN_MAX 256

struct server {
	const char *root;
	FILE *log;
	int fd[2], port[2];
	pthread_mutex_t lock;
	char *seen[SEEN_MAX]; /* paths of /busy/, /cutonce/, /grow/ */
	int seen_count;
};

struct request {
	struct server *s;
	int fd, which;      /* which: port 0 or 1 */
	char head[8192];
	char path[1024];    /* decoded enough: names of tests are plain */
	char mode[32], rest[1024];
	char auth[256];
	int has_range;
	unsigned long long first, last;
};

static int send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);

		if (w <= 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static void answer(struct request *r, const char *status, const char *fields,
		   const char *body)
{
	char text[9000];
	int n = snprintf(text, sizeof(text), "HTTP/1.1 %s\r\n%s"
			 "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
			 status, fields, strlen(body), body);

	send_all(r->fd, text, (size_t)n);
}

static unsigned is(const struct request *r, const char *mode)
{
	return !strcmp(r->mode, mode);
}

/* How often this path was asked for before. */
static int times_seen(struct request *r)
{
	struct server *s = r->s;
	int n = 0;

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->seen_count; i++)
		n += !strcmp(s->seen[i], r->path);
	if (s->seen_count < SEEN_MAX)
		s->seen[s->seen_count++] = strdup(r->path);
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- files ---- */

static char *map(const char *path, unsigned long long *size)
{
	FILE *f = fopen(path, "rb");
	struct stat sb;
	char *p;

	if (!f || fstat(fileno(f), &sb) || !S_ISREG(sb.st_mode)) {
		if (f)
			fclose(f);
		return NULL;
	}
	*size = (unsigned long long)sb.st_size;
	p = mmap(NULL, (size_t)*size, PROT_READ, MAP_PRIVATE, fileno(f), 0);
	fclose(f);
	return p == MAP_FAILED ? NULL : p;
}

static void send_slowly(struct request *r, const char *p, size_t n)
{
	size_t step = n / 40 + 1;

	while (n) {
		size_t part = n < step ? n : step;

		if (send_all(r->fd, p, part))
			return;
		usleep(20000);
		p += part;
		n -= part;
	}
}

static void send_body(struct request *r, const char *p, size_t n)
{
	if (is(r, "slow")) {
		send_slowly(r, p, n);
	} else if (is(r, "stall")) {
		send_all(r->fd, p, n / 2);
		sleep(30);
	} else if (is(r, "cut") || (is(r, "cutonce") && !times_seen(r))) {
		send_all(r->fd, p, n / 2);
	} else if (is(r, "endless")) {
		while (!send_all(r->fd, p, n))
			;
	} else {
		send_all(r->fd, p, n);
	}
}

static void send_file(struct request *r, const char *p,
		      unsigned long long size)
{
	int part = r->has_range && !is(r, "norange") && !is(r, "endless");
	unsigned long long from = part ? r->first : 0, n = size;
	char head[512], range[200] = "", length[64] = "";
	unsigned long long total = size;

	if (part && r->first >= size) {
		snprintf(range, sizeof(range), "Content-Range: bytes */%llu"
			 "\r\n", size);
		answer(r, "416 Range Not Satisfiable", range, "");
		return;
	}
	if (part) {
		n = (r->last < size ? r->last + 1 : size) - from;
		n = is(r, "short") && n > 1 ? n / 2 : n;
		total += is(r, "grow") ? (unsigned)times_seen(r) : 0;
		snprintf(range, sizeof(range), "Content-Range: bytes "
			 "%llu-%llu/%llu\r\n", from + is(r, "shift"),
			 from + n - 1 + is(r, "shift"), total);
	}
	if (!is(r, "endless"))
		snprintf(length, sizeof(length), "Content-Length: %llu\r\n",
			 is(r, "long") ? 2 * n : n);
	snprintf(head, sizeof(head), "HTTP/1.1 %s\r\n%s%s%sConnection: close"
		 "\r\n\r\n", part ? "206 Partial Content" : "200 OK", range,
		 length, is(r, "zip") ? "Content-Encoding: gzip\r\n" : "");
	if (!send_all(r->fd, head, strlen(head)))
		send_body(r, p + from, (size_t)n);
}

static void send_page(struct request *r, const char *path)
{
	DIR *d = opendir(path);
	char body[8192] = "<html><a href=\"../\">up</a>\n";
	struct dirent *e;

	while (d && (e = readdir(d)) != NULL) {
		size_t n = strlen(body);

		if (e->d_name[0] != '.')
			snprintf(body + n, sizeof(body) - n,
				 "<a href=\"%s\">%s</a>\n", e->d_name,
				 e->d_name);
	}
	if (d)
		closedir(d);
	answer(r, d ? "200 OK" : "404 Not Found",
	       "Content-Type: text/html\r\n", body);
}

static void serve_file(struct request *r)
{
	char path[2200];
	unsigned long long size = 0;
	size_t n = strlen(r->rest);
	char *p;

	snprintf(path, sizeof(path), "%s/%s", r->s->root, r->rest);
	if (n && r->rest[n - 1] == '/') {
		if (is(r, "ok"))
			send_page(r, path);
		else
			answer(r, "403 Forbidden", "", "no page");
		return;
	}
	p = map(path, &size);
	if (p)
		send_file(r, p, size);
	else
		answer(r, "404 Not Found", "", "not there");
	if (p)
		munmap(p, (size_t)size);
}

/* ---- the hub ---- */

static void hub_list(struct request *r, const char *repo)
{
	char path[2200], body[8192] = "";
	DIR *d;
	struct dirent *e;

	snprintf(path, sizeof(path), "%s/%s", r->s->root, repo);
	d = opendir(path);
	if (!d) {
		answer(r, "404 Not Found", "X-Error-Code: RepoNotFound\r\n",
		       "{}");
		return;
	}
	strcat(body, "{\"sha\":\"0123456789abcdef0123456789abcdef01234567\","
	       "\"siblings\":[{\"rfilename\":\"onnx/model.onnx\"}");
	while ((e = readdir(d)) != NULL) {
		size_t n = strlen(body);

		if (e->d_name[0] != '.')
			snprintf(body + n, sizeof(body) - n,
				 ",{\"rfilename\":\"%s\"}", e->d_name);
	}
	closedir(d);
	strcat(body, "]}");
	answer(r, "200 OK", "Content-Type: application/json\r\n", body);
}

static void serve_hub(struct request *r)
{
	char *repo = r->rest, *rev, to[2300];
	int api = !strncmp(repo, "api/models/", 11);

	repo += api ? 11 : 0;
	rev = strstr(repo, api ? "/revision/" : "/resolve/");
	if (!rev) {
		answer(r, "404 Not Found", "", "");
		return;
	}
	*rev++ = '\0';
	if (!strncmp(repo, "gated/", 6) && !api && !r->auth[0]) {
		answer(r, "401 Unauthorized", "X-Error-Code: GatedRepo\r\n",
		       "");
		return;
	}
	if (!strncmp(repo, "private/", 8) && strcmp(r->auth, "Bearer right")) {
		answer(r, "401 Unauthorized", "X-Error-Code: RepoNotFound\r\n",
		       "");
		return;
	}
	if (api) {
		hub_list(r, repo);
		return;
	}
	rev = strchr(rev + 8, '/');
	snprintf(to, sizeof(to), "Location: http://127.0.0.1:%d/bare/%s%s\r\n",
		 r->s->port[1], repo, rev ? rev : "/");
	answer(r, "302 Found", to, "");
}

/* ---- requests ---- */

static void dispatch(struct request *r)
{
	char to[2300];

	if (is(r, "hub")) {
		serve_hub(r);
	} else if (is(r, "401") || is(r, "403") || is(r, "404")) {
		snprintf(to, sizeof(to), "%s No", r->mode);
		answer(r, to, "", "no");
	} else if (is(r, "down")) {
		answer(r, "503 Service Unavailable", "", "no");
	} else if (is(r, "wait")) {
		answer(r, "429 Too Many Requests", "Retry-After: 900\r\n",
		       "no");
	} else if (is(r, "busy") && !times_seen(r)) {
		answer(r, "429 Too Many Requests", "Retry-After: 0\r\n", "no");
	} else if (is(r, "moved") || is(r, "far") || is(r, "loop")) {
		snprintf(to, sizeof(to), "Location: http://%s:%d/%s/%s\r\n",
			 is(r, "far") ? "localhost" : "127.0.0.1",
			 r->s->port[!is(r, "loop")],
			 is(r, "loop") ? "loop" : "bare", r->rest);
		answer(r, "302 Found", to, "");
	} else {
		serve_file(r);
	}
}

/* The field's value up to the end of its line, or "". */
static void find_field(const char *head, const char *name, char *out,
		       size_t size)
{
	const char *p = strstr(head, name);
	size_t n;

	out[0] = '\0';
	if (!p)
		return;
	p += strlen(name);
	n = strcspn(p, "\r\n");
	if (n < size) {
		memcpy(out, p, n);
		out[n] = '\0';
	}
}

static int read_request(struct request *r)
{
	size_t n = 0;
	char range[128], *slash;

	while (n + 1 < sizeof(r->head) && !strstr(r->head, "\r\n\r\n")) {
		ssize_t got = recv(r->fd, r->head + n,
				   sizeof(r->head) - 1 - n, 0);

		if (got <= 0)
			return -1;
		n += (size_t)got;
		r->head[n] = '\0';
	}
	if (sscanf(r->head, "GET %1000s", r->path) != 1)
		return -1;
	slash = strchr(r->path + 1, '/');
	snprintf(r->mode, sizeof(r->mode), "%.*s",
		 slash ? (int)(slash - r->path - 1) : 0, r->path + 1);
	snprintf(r->rest, sizeof(r->rest), "%s", slash ? slash + 1 : "");
	r->rest[strcspn(r->rest, "?")] = '\0';
	find_field(r->head, "\r\nAuthorization: ", r->auth, sizeof(r->auth));
	find_field(r->head, "\r\nRange: ", range, sizeof(range));
	r->has_range = sscanf(range, "bytes=%llu-%llu", &r->first,
			      &r->last) == 2;
	pthread_mutex_lock(&r->s->lock);
	fprintf(r->s->log, "%d %s%s%s%s\n", r->which + 1, r->path,
		range[0] ? " " : "", range, r->auth[0] ? " token" : "");
	fflush(r->s->log);
	pthread_mutex_unlock(&r->s->lock);
	return 0;
}

static void *serve(void *arg)
{
	struct request *r = arg;

	if (!read_request(r))
		dispatch(r);
	shutdown(r->fd, SHUT_WR);
	close(r->fd);
	free(r);
	return NULL;
}

struct port {
	struct server *s;
	int which;
};

static void *take(void *arg)
{
	struct port *p = arg;
	pthread_t t;

	for (;;) {
		struct request *r = calloc(1, sizeof(*r));

		if (!r)
			return NULL;
		r->s = p->s;
		r->which = p->which;
		r->fd = accept(p->s->fd[p->which], NULL, NULL);
		if (r->fd < 0 || pthread_create(&t, NULL, serve, r)) {
			free(r);
			return NULL;
		}
		pthread_detach(t);
	}
}

static int listen_on(struct server *s, int i)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof(a);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	s->fd[i] = socket(AF_INET, SOCK_STREAM, 0);
	if (s->fd[i] < 0 || bind(s->fd[i], (struct sockaddr *)&a, n) ||
	    listen(s->fd[i], 64) ||
	    getsockname(s->fd[i], (struct sockaddr *)&a, &n))
		return -1;
	s->port[i] = ntohs(a.sin_port);
	return 0;
}

int main(int argc, char **argv)
{
	struct server s = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct port port[2] = { { &s, 0 }, { &s, 1 } };
	pthread_t t;

	if (argc != 3)
		return 2;
	s.root = argv[1];
	s.log = fopen(argv[2], "a");
	if (!s.log || listen_on(&s, 0) || listen_on(&s, 1)) {
		perror("server");
		return 1;
	}
	for (int i = 0; i < 2; i++)
		if (pthread_create(&t, NULL, take, &port[i]))
			return 1;
	printf("%d %d\n", s.port[0], s.port[1]);
	fflush(stdout);
	while (getchar() != EOF)
		;
	_exit(0);
}
