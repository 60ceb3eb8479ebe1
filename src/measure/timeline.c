#include "measure/timeline.h"

#include <math.h>

double timeline_every(const struct timeline *t)
{
    return t->every_s > 0 ? t->every_s : TIMELINE_FIRST_S;
}

static int64_t higher(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Power is a mean, so that both keep their seconds of it; one that is unknown leaves the other's. */
static double mean_of(double a, double a_s, double b, double b_s)
{
    if (isnan(a) || isnan(b))
        return isnan(a) ? b : a;
    return a_s + b_s > 0 ? (a * a_s + b * b_s) / (a_s + b_s) : b;
}

static void halve(struct timeline *t)
{
    double from_s = 0;

    for (int i = 0; i + 1 < t->n; i += 2) {
        const struct timeline_point *a = &t->points[i], *b = &t->points[i + 1];
        const struct timeline_point both = { .seconds = b->seconds,
                                             .memory_bytes = higher(a->memory_bytes, b->memory_bytes),
                                             .gpu_bytes = higher(a->gpu_bytes, b->gpu_bytes),
                                             .watts = mean_of(a->watts, a->seconds - from_s, b->watts,
                                                              b->seconds - a->seconds) };

        from_s = b->seconds;
        t->points[i / 2] = both;
    }
    t->n /= 2;
    t->every_s = 2 * timeline_every(t);
}

void timeline_add(struct timeline *t, const struct timeline_point *p)
{
    if (t->n == TIMELINE_MAX)
        halve(t);
    t->points[t->n++] = *p;
}
