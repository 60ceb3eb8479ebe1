/* The table of backends: a new one is a folder and a line here. */
#include "backend/backend.h"

#include <string.h>

static const struct {
    const char *name;
    int (*open)(struct backend *b, int threads, struct err *err);
} backends[] = {
    { "cpu", backend_cpu_open },
    { "ref", backend_ref_open },
};

int backend_open(struct backend *b, const char *name, int threads, struct err *err)
{
    *b = (struct backend){ 0 };
    for (int i = 0; i < COUNT_OF(backends); i++)
        if (strcmp(name, backends[i].name) == 0)
            return backends[i].open(b, threads, err);
    err_set(err, ERR_USAGE, "there is no backend \"%s\"", name);
    return err_hint(err, "Use cpu, or ref, which is slow and exact.");
}
