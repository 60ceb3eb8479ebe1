/* run/stop.h - signals as wishes: the first SIGINT or SIGTERM (SIGUSR2 from a launcher, for all ranks) asks the loop to save
 * and leave after the step; a second one ends the process at once. SIGUSR1 asks for a line of status. No handler is installed:
 * see stop.c for why a thread that computes must not run any. */
#ifndef TUNEUP_RUN_STOP_H
#define TUNEUP_RUN_STOP_H

#include <stdbool.h>

/* Before there is anything to save, and before any thread is made: from now on threads inherit that signals are blocked, but
 * for the one made here; a file size limit is an error, not a signal. */
void stop_prepare(void);
void stop_watch(void); /* from now on the first stop signal is a wish */
int stop_wanted(void); /* 0, or the signal that asked first */
bool stop_status_wanted(void); /* true once after each SIGUSR1 */

#endif
