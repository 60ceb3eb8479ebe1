/* measure/energy.h - joules of the machine from its meters: cumulative counters where there are any (RAPL through powercap
 * or performance events, NVIDIA and AMD GPUs, hwmon), power integrated over time where there are none.
 * It covers the whole machine during the window, not "the process". Counters are read at both ends of a window and in
 * between by one thread, so that no wrap-around is missed: once a second, and ten times where power is integrated.
 * No joule twice, and an unknown one is never 0: what counts is chosen by what a channel is (channel.h), packages, dram and
 * GPUs add up, what lies inside of them or repeats them is listed and not added. */
#ifndef TUNEUP_MEASURE_ENERGY_H
#define TUNEUP_MEASURE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "measure/meter.h"

#define ENERGY_MAX_DOMAINS 64
#define ENERGY_MAX_SOURCES 10
#define ENERGY_REASON_MAX 160

struct energy_domain {
    char name[64]; /* "package-0", "package-0/dram", "gpu0" */
    double joules; /* NAN when unavailable */
    enum meter_state state;
    char reason[ENERGY_REASON_MAX]; /* why it is unavailable, why it is not counted, or what to know of it */
    bool counted; /* part of the total */
    const char *source; /* "rapl", "nvml" */
    bool integrated; /* from power readings, not from a counter */
    double integrated_j; /* what the power readings alone give; NAN = none */
};
/* What became of a source. */
struct energy_finding {
    const char *source;
    int n_channels;
    char why[200], hint[400]; /* where there is none although one looks for it here; else empty */
};
struct energy_result {
    enum meter_state state; /* measured only if every domain that the total claims is */
    double joules; /* NAN when unavailable, else > 0 */
    double window_s;
    double update_s; /* each end is uncertain by one update of the slowest counted meter */
    char reason[400]; /* unavailable: why; estimated: why no measurement; measured: what it covers */
    char hint[512]; /* the mend, whole sentences; may be empty */
    int n_domains;
    struct energy_domain domains[ENERGY_MAX_DOMAINS];
    int n_findings;
    struct energy_finding findings[ENERGY_MAX_SOURCES];
};

struct energy_options {
    bool devices; /* GPUs and board controllers too */
    const char
        *wall; /* a wall meter: a file that grows by lines, or "cmd:PROGRAM ARG..." that prints them; NULL = none */
};

struct energy_meter;
/* The processor's and memory's counters. A machine without any is no error: the result says unavailable. Errors:
 * ERR_MEMORY, ERR_SYSTEM (thread). */
int energy_start(struct energy_meter **out, struct err *err);
int energy_open(struct energy_meter **out, const struct energy_options *o, struct err *err); /* o may be NULL */
void energy_read(struct energy_meter *m, struct energy_result *out); /* since start; any thread, any number of times */
void energy_stop(struct energy_meter *m); /* accepts NULL */
/* "package-0 + gpu0 (integrated)": what the total is made of. Two totals compare only where this is equal. */
void energy_covers(const struct energy_result *r, char *out, size_t size);
pid_t energy_helper(const struct energy_meter *m); /* the process of a wall command, no part of any run; 0 = none */
/* Would a measurement work here? A result over a short window; the joules have no meaning. */
int energy_check(const struct energy_options *o, struct energy_result *out, struct err *err);

/* ---- GPUs, which are read in the same look ---- */

#define ENERGY_MAX_GPUS 32
struct energy_gpu {
    char name[64]; /* of its channel */
    int64_t memory_bytes, start_bytes, peak_bytes; /* of the device: what it has, used at the start, at most; -1 */
    int64_t process_bytes; /* at most, of the run's own processes, where the driver's process ids are ours; -1 */
    double busy; /* mean; NAN */
    int n_others; /* processes of others seen on it: their joules are in our number */
};
struct energy_gpus {
    int n;
    int64_t peak_bytes; /* highest sum, over the devices, of what was used beyond the start; -1 = unknown */
    struct energy_gpu gpus[ENERGY_MAX_GPUS];
};
void energy_read_gpus(struct energy_meter *m, struct energy_gpus *out);
int64_t energy_gpu_bytes(struct energy_meter *m); /* used now beyond the start, all devices; -1 = unknown */
/* Tells which processes are the run's, from time to time. */
void energy_note_processes(struct energy_meter *m, const pid_t *pids, int n);

/* ---- the rules, as pure functions ---- */

enum energy_step {
    ENERGY_STEP_GOOD,
    ENERGY_STEP_JUMP, /* it moved further than the part can have drawn: a reset, a reload, another machine */
    ENERGY_STEP_LOST, /* it fell and its range is unknown, or it may have wrapped more than once */
};
/* From reading `last_uj` to `now_uj`, at most elapsed_s apart, of a counter whose highest value is range_uj (0 = unknown) on a
 * part that cannot draw more than limit_w, and that moves every update_s. *used_uj is >= 0, and 0 unless the step is good. */
enum energy_step energy_delta(int64_t last_uj, int64_t now_uj, int64_t range_uj, double limit_w, double elapsed_s,
                              double update_s, int64_t *used_uj);
/* Two counters that started at these values and moved by these joules are one counter seen twice. */
bool energy_mirrored(int64_t a_start_uj, double a_joules, int64_t b_start_uj, double b_joules);

#endif
