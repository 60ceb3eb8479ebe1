/* Warm-up rises linearly from 0; what follows is the schedule's own. */
#include "phases/schedule.h"

#include <math.h>

static double at_least_1(int64_t n)
{
    return n < 1 ? 1.0 : (double)n;
}

double schedule_factor(enum schedule s, int64_t u, int64_t w, int64_t n, double rate)
{
    const double pi = 3.14159265358979323846, last_rate = 1e-7;

    if (s == SCHEDULE_CONSTANT)
        return 1;
    if (u < w)
        return (double)u / at_least_1(w);
    const double progress = (double)(u - w) / at_least_1(n - w);
    switch (s) {
    case SCHEDULE_LINEAR:
        return fmax(0, (double)(n - u) / at_least_1(n - w));
    case SCHEDULE_COSINE:
        return fmax(0, 0.5 * (1 + cos(pi * progress)));
    case SCHEDULE_COSINE_WITH_RESTARTS: /* one cycle */
        return progress >= 1 ? 0 : fmax(0, 0.5 * (1 + cos(pi * fmod(progress, 1.0))));
    case SCHEDULE_POLYNOMIAL:
        return u > n || rate <= 0 ? last_rate / fmax(rate, last_rate)
                                  : ((rate - last_rate) * (1 - progress) + last_rate) / rate;
    case SCHEDULE_CONSTANT:
    case SCHEDULE_CONSTANT_WITH_WARMUP:
        break;
    }
    return 1;
}
