/* base/hash.h - XXH3 with 64 bits: slots of tables, and whether a file is the one that was written. Fast, and no secret:
 * whoever may choose the bytes can choose the hash. */
#ifndef TUNEUP_BASE_HASH_H
#define TUNEUP_BASE_HASH_H

#include <stdint.h>

#include "base/err.h"

uint64_t hash_bytes(const void *bytes, size_t n);

/* The same hash of bytes that come in pieces. */
struct hash_stream;
struct hash_stream *hash_open(struct err *err); /* NULL: ERR_MEMORY */
void hash_step(struct hash_stream *h, const void *bytes, size_t n);
uint64_t hash_value(const struct hash_stream *h); /* of all so far */
void hash_close(struct hash_stream *h); /* NULL is fine */

#endif
