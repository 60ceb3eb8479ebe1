/* Any bytes as a data file, read with and without skipping; and as a prompt before the judge of the task data. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/source.h"
#include "data/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const uint8_t *data, size_t size)
{
    char *prompt = malloc(size + 1);

    if (!prompt)
        return;
    memcpy(prompt, data, size);
    prompt[size] = '\0';
    task_right(prompt, prompt);
    free(prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int skip_bad = 0; skip_bad < 2; skip_bad++) {
        struct source s;
        struct err err = { 0 };
        source_parse(&s, (const char *)data, size, "fuzz", skip_bad, &err);
        source_free(&s);
    }
    judge(data, size);
    return 0;
}
