/* io_place.h - where a checkpoint lies: a directory or a file here, or an
 * address (net_addr.h).
 *
 * A local place is only a path; nothing is read before it is asked for.  Of a
 * remote one io_place_gather fetches the list of names and small files in one
 * round; a server that lists nothing is asked for names one by one. */
#ifndef LIBFMT_BASE_IO_PLACE_H
#define LIBFMT_BASE_IO_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct err;
struct io_place;
struct progress;
struct src;

/* A path that is neither a file nor a directory is ERR_INPUT.  *p is used by
 * remote places, outlives them, and may be NULL. */
int io_place_open(const char *path, const struct progress *p,
		  struct io_place **out, struct err *err);
/* The files opened in it are closed first.  Accepts NULL. */
void io_place_close(struct io_place *pl);

/* As given, without trailing slashes (and without an address's query). */
const char *io_place_path(const struct io_place *pl);
/* The directory; for an address, what stands in front of names in messages. */
const char *io_place_dir(const struct io_place *pl);
/* The one file that is meant; NULL: the whole directory. */
const char *io_place_file(const struct io_place *pl);
bool io_place_is_local(const struct io_place *pl);

/* Remote: the list of names and these small files, whichever there are.
 * Local: nothing. */
int io_place_gather(struct io_place *pl, const char *const *names,
		    uint32_t count, struct err *err);
/* Remote: which of these names are there, where no list has told it. */
int io_place_probe(struct io_place *pl, const char *const *names,
		   uint32_t count, struct err *err);

/* The names that are known, sorted by byte value, as io_list does. */
int io_place_list(const struct io_place *pl, char ***names, uint32_t *count,
		  struct err *err);
/* Is it a file there?  Remote: as far as is known; a name that no list could
 * have told counts as there. */
bool io_place_has(const struct io_place *pl, const char *name);
/* A JSON file there, as json_read_file has it; *out stays NULL where there is
 * no such file. */
int io_place_json(struct io_place *pl, const char *name, struct cJSON **out,
		  struct err *err);
/* Open files; remote ones with their first bytes, side by side.  On failure
 * none is open. */
int io_place_files(struct io_place *pl, const char *const *names,
		   uint32_t count, struct src **out, struct err *err);

#endif
