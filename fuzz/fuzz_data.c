/* Any bytes as a data file: read with and without skipping, then looked at as a prompt by the judge of the task data. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/source.h"
#include "data/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct record_text *r)
{
    if (r->prompt && r->chosen)
        task_right(r->prompt, r->chosen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int skip_bad = 0; skip_bad < 2; skip_bad++) {
        struct source s;
        struct err err = { 0 };
        if (source_parse(&s, (const char *)data, size, "fuzz", skip_bad, &err) == 0)
            for (int64_t i = 0; i < s.n_records; i++)
                judge(&s.records[i]);
        source_free(&s);
    }
    return 0;
}
