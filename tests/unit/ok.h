/* ok.h - a call that must succeed; what it says goes to the test's `err`. */
#ifndef TESTS_UNIT_OK_H
#define TESTS_UNIT_OK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define OK(call)                                                              \
	do {                                                                  \
		err.msg[0] = '\0';                                            \
		if (call)                                                     \
			fail_msg("%s: %s", #call, err.msg);                   \
	} while (0)

#endif
