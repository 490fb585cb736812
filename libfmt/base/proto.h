/* proto.h - protobuf on the wire: fields one after the other, read and written
 * without a schema.  Source: the encoding guide of protobuf. */
#ifndef LIBFMT_BASE_PROTO_H
#define LIBFMT_BASE_PROTO_H

#include <stddef.h>
#include <stdint.h>

struct err;

enum proto_wire {
	PROTO_VARINT = 0,
	PROTO_64 = 1,
	PROTO_BYTES = 2,
	PROTO_32 = 5
};

/* A message: the bytes that are left of it. */
struct proto {
	const uint8_t *p, *end;
};

struct proto_field {
	uint64_t number;
	unsigned wire;    /* enum proto_wire */
	uint64_t value;   /* varint, 32 or 64 bits; bytes: their number */
	const uint8_t *p; /* bytes, in the message */
	size_t len;
};

/* 1: a field, 0: the end, -1: broken (ERR_INPUT). */
int proto_next(struct proto *m, struct proto_field *f, struct err *err);

/* Append a field at *at; NULL only counts.  Each returns the bytes it takes. */
size_t proto_put_int(uint8_t *at, unsigned number, uint64_t v);
size_t proto_put_f32(uint8_t *at, unsigned number, float v);
size_t proto_put_bytes(uint8_t *at, unsigned number, const void *data,
		       size_t len);

#endif
