/* measure/wall.h - a meter at the socket, that another program reads: a file that grows by lines "TIME,WATTS" or "WATTS", or a
 * command that prints them. Times are seconds since 1970 (milliseconds are recognised) or 2024-05-01T12:00:00Z; a line
 * without one counts from when it is seen. Everything in it is from outside: what is no reading is skipped and counted. */
#ifndef TUNEUP_MEASURE_WALL_H
#define TUNEUP_MEASURE_WALL_H

#include <stdbool.h>
#include <sys/types.h>

/* One line -> its parts; *time_s is NAN where it has none. */
bool wall_parse(const char *line, double *time_s, double *watts);

/* Joules from a trace, by the trapezoid rule over the readings' own times. */
struct wall_trace {
    double start_s; /* of the window; readings before it only tell the power at its start */
    double time_s, watts; /* the latest reading */
    double joules; /* from start_s to time_s */
    long n;
};
/* Readings that go back in time are left out. */
void wall_add(struct wall_trace *t, double time_s, double watts);
double wall_joules(const struct wall_trace *t,
                   double now_s); /* with the latest power held until now; NAN = no reading */

pid_t wall_helper(const void *own); /* of the source's state: the command's process, 0 = none */

#endif
