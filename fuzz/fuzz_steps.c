/* steps_parse on any line: what it accepts lies within its bounds, the rest is refused in words. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "measure/steps.h"
#include "measure/wall.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct steps_one one;
    int64_t rank;
    char why[160] = "", line[256];
    double time_s, watts;

    if (size > STEPS_MAX_LINE)
        return 0;
    if (steps_parse((const char *)bytes, (int64_t)size, &one, &rank, why, sizeof why))
        MUST(one.step >= 0 && one.tokens >= -1 && one.allocated_bytes >= -1 && rank >= 0 && rank < STEPS_MAX_RANKS);
    else
        MUST(why[0] != '\0');
    snprintf(line, sizeof line, "%.*s", (int)size, (const char *)bytes);
    if (wall_parse(line, &time_s, &watts))
        MUST(watts >= 0 && watts <= 1e6 && (isnan(time_s) || time_s >= 0));
    return 0;
}
