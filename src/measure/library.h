/* measure/library.h - a vendor's library that may or may not be there: loaded at run time, so that the program neither needs
 * it to start nor its headers to be built. */
#ifndef TUNEUP_MEASURE_LIBRARY_H
#define TUNEUP_MEASURE_LIBRARY_H

#include <stdbool.h>

#include "measure/energy.h"

/* One function: the names are tried in turn, newest first. */
struct library_symbol {
    void *out; /* address of the pointer to the function; NULL goes there when there is none */
    const char *names[3]; /* NULL at the end */
    bool needed;
};
/* The library that the variable names by its path ("none": do not look), else `standard` from where the loader looks. NULL
 * without a word where it is not installed; f->why says so when it is there and cannot be used. */
void *library_open(const char *variable, const char *standard, const struct library_symbol *symbols, int n,
                   struct energy_finding *f);
void library_close(void *library); /* accepts NULL */

#endif
