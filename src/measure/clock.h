/* measure/clock.h - seconds that only go forward. Every meter reads time here, so that a test can let an hour pass in
 * no time. */
#ifndef TUNEUP_MEASURE_CLOCK_H
#define TUNEUP_MEASURE_CLOCK_H

double clock_seconds(void); /* CLOCK_MONOTONIC; the zero point has no meaning */
double clock_thread_cpu_seconds(void); /* CPU time of the calling thread: what a meter itself costs */
double clock_suspended_seconds(void); /* how long the machine has slept since it was started */
/* For tests: clock_seconds returns now() from here on; NULL brings the real clock back. */
void clock_fake(double (*now)(void));
void clock_fake_suspended(double (*now)(void));

#endif
