#include "measure/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* POSIX has it that an object's pointer, copied, is the function's. */
static bool find(void *library, const struct library_symbol *s)
{
    void *symbol = NULL;

    for (int i = 0; i < COUNT_OF(s->names) && s->names[i] && !symbol; i++)
        symbol = dlsym(library, s->names[i]);
    memcpy(s->out, &symbol, sizeof symbol);
    return symbol != NULL;
}

void *library_open(const char *variable, const char *standard, const struct library_symbol *symbols, int n,
                   struct energy_finding *f)
{
    const char *named = getenv(variable);

    if (named && strcmp(named, "none") == 0)
        return NULL;
    void *library = dlopen(named && *named ? named : standard, RTLD_NOW | RTLD_LOCAL);
    if (!library && named && *named)
        snprintf(f->why, sizeof f->why, "%.100s cannot be loaded, which %s names", named, variable);
    if (!library)
        return NULL;
    for (int i = 0; i < n; i++) {
        if (!find(library, &symbols[i]) && symbols[i].needed) {
            snprintf(f->why, sizeof f->why, "%s lacks %s", standard, symbols[i].names[0]);
            dlclose(library);
            return NULL;
        }
    }
    return library;
}

void library_close(void *library)
{
    if (library)
        dlclose(library);
}
