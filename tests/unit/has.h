/* has.h - what an error must say. */
#ifndef TESTS_UNIT_HAS_H
#define TESTS_UNIT_HAS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define HAS(err, text)                                                 \
	do {                                                           \
		if (!strstr((err).msg, (text)))                        \
			fail_msg("\"%s\" does not say \"%s\"",         \
				 (err).msg, (text));                   \
	} while (0)

#endif
