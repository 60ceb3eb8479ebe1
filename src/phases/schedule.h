/* phases/schedule.h - learning rates over updates, as transformers' get_scheduler makes them (spelled the same). */
#ifndef TUNEUP_PHASES_SCHEDULE_H
#define TUNEUP_PHASES_SCHEDULE_H

#include <stdint.h>

enum schedule {
    SCHEDULE_LINEAR,
    SCHEDULE_COSINE,
    SCHEDULE_COSINE_WITH_RESTARTS,
    SCHEDULE_POLYNOMIAL,
    SCHEDULE_CONSTANT,
    SCHEDULE_CONSTANT_WITH_WARMUP,
};
#define SCHEDULE_NAMES "linear|cosine|cosine_with_restarts|polynomial|constant|constant_with_warmup"

/* The factor on the base rate of update u (from 0) of n, with w warm-up updates. rate is the base rate itself: the polynomial
 * schedule (power 1) ends at 1e-7, whatever it is. */
double schedule_factor(enum schedule s, int64_t u, int64_t w, int64_t n, double rate);

#endif
