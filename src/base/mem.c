/* Each allocation is preceded by a 16-byte note of its size and kind, which is what lets mem_free count. */
#include "base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct note {
    size_t bytes;
    size_t kind;
};

static_assert(sizeof(struct note) == 16, "keeps malloc's alignment");

static _Atomic size_t live[MEM_N_KINDS], peak[MEM_N_KINDS];
static _Atomic int64_t fail_countdown;

static bool told_to_fail(void)
{
    int64_t n = atomic_load(&fail_countdown);

    if (n == 0)
        return false;
    if (n > 1) {
        atomic_fetch_sub(&fail_countdown, 1);
        return false;
    }
    return true;
}

static void count_up(enum mem_kind kind, size_t bytes)
{
    const size_t now = atomic_fetch_add(&live[kind], bytes) + bytes;
    size_t before = atomic_load(&peak[kind]);

    while (now > before && !atomic_compare_exchange_weak(&peak[kind], &before, now)) {
    }
}

bool mem_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static void *no_memory(size_t bytes, struct err *err)
{
    err_set(err, ERR_MEMORY, "could not allocate %zu bytes", bytes);
    err_hint(err, "Free memory on this machine, or use smaller batches or a smaller model.");
    return NULL;
}

void *mem_array(int64_t n, int64_t m, size_t size, enum mem_kind kind, struct err *err)
{
    size_t count, bytes;

    if (n < 0 || m < 0 || !mem_mul((size_t)n, (size_t)m, &count) || !mem_mul(count, size, &bytes) ||
        bytes > PTRDIFF_MAX - sizeof(struct note)) {
        err_set(err, ERR_MEMORY, "an array of %lld x %lld elements of %zu bytes is larger than memory can be",
                (long long)n, (long long)m, size);
        return NULL;
    }
    struct note *note = told_to_fail() ? NULL : calloc(1, bytes + sizeof *note);
    if (!note)
        return no_memory(bytes, err);
    *note = (struct note){ .bytes = bytes, .kind = kind };
    count_up(kind, bytes);
    return note + 1;
}

void *mem_resize(void *old, int64_t n, size_t size, enum mem_kind kind, struct err *err)
{
    if (!old)
        return mem_array(n, 1, size, kind, err);

    struct note *note = (struct note *)old - 1;
    const size_t old_bytes = note->bytes;
    size_t bytes;

    if (n < 0 || !mem_mul((size_t)n, size, &bytes) || bytes > PTRDIFF_MAX - sizeof *note)
        return no_memory(SIZE_MAX, err);
    note = told_to_fail() ? NULL : realloc(note, bytes + sizeof *note);
    if (!note)
        return no_memory(bytes, err);
    if (bytes > old_bytes)
        memset((char *)(note + 1) + old_bytes, 0, bytes - old_bytes);
    atomic_fetch_sub(&live[note->kind], old_bytes);
    note->bytes = bytes;
    count_up((enum mem_kind)note->kind, bytes);
    return note + 1;
}

char *mem_strndup(const char *s, size_t n, enum mem_kind kind, struct err *err)
{
    char *copy = mem_array((int64_t)n + 1, 1, 1, kind, err);

    if (copy)
        memcpy(copy, s, n);
    return copy;
}

char *mem_strdup(const char *s, enum mem_kind kind, struct err *err)
{
    return mem_strndup(s, strlen(s), kind, err);
}

char *mem_printf(enum mem_kind kind, struct err *err, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    MUST(n >= 0);
    char *s = mem_array((int64_t)n + 1, 1, 1, kind, err);
    if (s)
        vsnprintf(s, (size_t)n + 1, format, again);
    va_end(again);
    return s;
}

void mem_free(void *p)
{
    if (!p)
        return;
    struct note *note = (struct note *)p - 1;
    atomic_fetch_sub(&live[note->kind], note->bytes);
    free(note);
}

size_t mem_live_bytes(enum mem_kind kind)
{
    return atomic_load(&live[kind]);
}

size_t mem_peak_bytes(enum mem_kind kind)
{
    return atomic_load(&peak[kind]);
}

void mem_fail_at(int64_t n)
{
    atomic_store(&fail_countdown, n);
}
