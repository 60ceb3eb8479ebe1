/* The one door to xxHash. Its state must be aligned to 64 bytes, so it is the library that allocates it. */
#include "base/hash.h"

#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

struct hash_stream *hash_open(struct err *err)
{
    XXH3_state_t *state = XXH3_createState();

    if (!state)
        err_set(err, ERR_MEMORY, "could not allocate the state of a hash");
    else
        XXH3_64bits_reset(state);
    return (struct hash_stream *)state;
}

void hash_step(struct hash_stream *h, const void *bytes, size_t n)
{
    XXH3_64bits_update((XXH3_state_t *)h, bytes, n);
}

uint64_t hash_value(const struct hash_stream *h)
{
    return XXH3_64bits_digest((const XXH3_state_t *)h);
}

void hash_close(struct hash_stream *h)
{
    XXH3_freeState((XXH3_state_t *)h);
}
