/* What metering costs: milliseconds that `tuneup measure` adds to a command, and the share of a CPU that the meter takes beside
 * 8 processes of 32 MiB each. Arguments: the program (else build/release/tuneup), seconds (else 10). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure/clock.h"
#include "measure/job.h"

#define RUNS 31

static double time_of(char *const argv[])
{
    const double before_s = clock_seconds();
    const pid_t pid = fork();

    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
    return clock_seconds() - before_s;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* In turn, so that both sides see the same machine. */
static void added_time(const char *program)
{
    char *plain[] = { (char *)"true", NULL };
    char *metered[] = { (char *)program, (char *)"measure", (char *)"-q", (char *)"--", (char *)"true", NULL };
    double a[RUNS], b[RUNS];

    for (int i = 0; i < RUNS; i++) {
        a[i] = time_of(plain);
        b[i] = time_of(metered);
    }
    qsort(a, RUNS, sizeof *a, ascending);
    qsort(b, RUNS, sizeof *b, ascending);
    printf("true: %.2f ms; metered: %.2f ms; added: %.2f ms (medians of %d)\n", 1e3 * a[RUNS / 2], 1e3 * b[RUNS / 2],
           1e3 * (b[RUNS / 2] - a[RUNS / 2]), RUNS);
}

static int share(const char *seconds)
{
    char script[256];
    char *argv[] = { (char *)"sh", (char *)"-c", script, NULL };
    const struct job_options o = { .own_group = true };
    struct job_record r;
    struct err err = { 0 };

    snprintf(
        script, sizeof script,
        "for i in 1 2 3 4 5 6 7 8; do (head -c 32M /dev/zero; sleep %.8s) | dd of=/dev/null bs=32M iflag=fullblock "
        "2>/dev/null & done; wait",
        seconds);
    if (job_measure(argv, &o, &r, &err) != 0) {
        fprintf(stderr, "%s\n", err.what);
        return 1;
    }
    printf("%d processes, %.1f MiB, %.1f s: %lld readings, %.2f %% of a CPU\n", r.n_processes,
           (double)r.peak_bytes / (1 << 20), r.seconds, (long long)r.n_samples, 100 * r.meter_cpu_seconds / r.seconds);
    return 0;
}

int main(int argc, char **argv)
{
    added_time(argc > 1 ? argv[1] : "build/release/tuneup");
    return share(argc > 2 ? argv[2] : "10");
}
