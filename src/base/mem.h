/* base/mem.h - the only door to the heap: sizes are checked before they are multiplied, bytes are counted by kind, and
 * tests can make the n-th allocation fail. Tensors do not come from here but from exec's blocks. Thread safe. */
#ifndef TUNEUP_BASE_MEM_H
#define TUNEUP_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum mem_kind { MEM_OTHER, MEM_TEXT, MEM_DATA, MEM_BATCH, MEM_STORE, MEM_PLAN, MEM_RECORD, MEM_N_KINDS };

/* Zeroed memory for n*m elements of size bytes; n*m*size = 0 gives a valid pointer. NULL and ERR_MEMORY on overflow
 * or when there is none. Release with mem_free. */
void *mem_array(int64_t n, int64_t m, size_t size, enum mem_kind kind, struct err *err);
/* Grows or shrinks an array made by mem_array to n elements of size bytes (old may be NULL); new bytes are zero. On
 * error NULL, and old stays valid. */
void *mem_resize(void *old, int64_t n, size_t size, enum mem_kind kind, struct err *err);
/* A copy of a string, or of its first n bytes (a terminating zero is added). */
char *mem_strdup(const char *s, enum mem_kind kind, struct err *err);
char *mem_strndup(const char *s, size_t n, enum mem_kind kind, struct err *err);
/* printf into a new string. */
char *mem_printf(enum mem_kind kind, struct err *err, const char *format, ...) ERR_PRINTF(3, 4);
void mem_free(void *p); /* accepts NULL */

size_t mem_live_bytes(enum mem_kind kind);
size_t mem_peak_bytes(enum mem_kind kind);
/* For tests: the n-th allocation from now on fails (1 = the next one), and all after it; 0 = none fails. */
void mem_fail_at(int64_t n);

/* *out = a*b; false when that does not fit. */
bool mem_mul(size_t a, size_t b, size_t *out);

#endif
