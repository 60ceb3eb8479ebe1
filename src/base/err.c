/* Errors carry their text by value, so that they outlive whatever they speak of and need no freeing. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;

    err->code = code;
    err->exit_status = 0;
    err->where[0] = err->hint[0] = '\0';
    va_start(args, format);
    vsnprintf(err->what, sizeof err->what, format, args);
    va_end(args);
    return -1;
}

int err_where(struct err *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(err->where, sizeof err->where, format, args);
    va_end(args);
    return -1;
}

int err_hint(struct err *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(err->hint, sizeof err->hint, format, args);
    va_end(args);
    return -1;
}

int err_errno(struct err *err, const char *format, ...)
{
    const int number = errno;
    va_list args;

    err->code = ERR_SYSTEM;
    err->exit_status = 0;
    err->where[0] = err->hint[0] = '\0';
    va_start(args, format);
    vsnprintf(err->what, sizeof err->what, format, args);
    va_end(args);

    const size_t n = strlen(err->what);
    snprintf(err->what + n, sizeof err->what - n, ": %s", strerror(number));
    return -1;
}

int err_exit_code(enum err_code code)
{
    switch (code) {
    case ERR_NONE:
        return 0;
    case ERR_USAGE:
    case ERR_INPUT:
        return 2;
    case ERR_INFEASIBLE:
        return 3;
    case ERR_UNAVAILABLE:
        return 4;
    case ERR_STOPPED:
        return 130;
    case ERR_MEMORY:
    case ERR_SYSTEM:
    case ERR_RUN:
        return 1;
    }
    return 1;
}

void err_must_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "tuneup: internal error: %s does not hold at %s:%d; please report this\n", expression, file, line);
    abort();
}
