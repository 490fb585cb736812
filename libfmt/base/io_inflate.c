#include "io.h"

#include "err.h"

#define ZLIB_CONST
#include <limits.h>
#include <string.h>
#include <zlib.h>

/* As much as zlib's counters hold. */
static unsigned piece(uint64_t n)
{
	return n < UINT_MAX / 2 ? (unsigned)n : UINT_MAX / 2;
}

uint32_t io_crc32(uint32_t crc, const void *p, size_t n)
{
	const uint8_t *at = p;

	for (unsigned part; n; at += part, n -= part) {
		part = piece(n);
		crc = (uint32_t)crc32(crc, at, part);
	}
	return crc;
}

int io_inflate(const void *from, uint64_t n, void *to, uint64_t size,
	       struct err *err)
{
	const uint8_t *in = from;
	uint8_t *out = to, one;
	z_stream z;
	int code;

	memset(&z, 0, sizeof(z));
	if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
		return err_set(err, ERR_RESOURCE, "out of memory for zlib");
	do {
		unsigned gave = piece(n), room = piece(size);

		z.next_in = in;
		z.avail_in = gave;
		/* one byte more than planned shows that there is more */
		z.next_out = room ? out : &one;
		z.avail_out = room ? room : 1;
		code = inflate(&z, Z_NO_FLUSH);
		in += gave - z.avail_in;
		n -= gave - z.avail_in;
		if (!room && !z.avail_out)
			code = Z_DATA_ERROR;
		else if (room)
			size -= room - z.avail_out;
		if (room)
			out += room - z.avail_out;
	} while (code == Z_OK); /* without progress it is not */
	inflateEnd(&z);
	if (code != Z_STREAM_END || n || size)
		return err_set(err, ERR_INPUT, "damaged compressed data");
	return 0;
}
