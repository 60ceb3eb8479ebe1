/* measure/energy.h - joules of the machine from its cumulative counters (RAPL, through Linux's powercap files).
 * It covers the whole machine during the window, not "the process"; and package + memory only: power supply, fans,
 * disks and network are outside of RAPL. Counters are read at both ends of a window and once a second in between, by
 * one thread, so that no wrap-around is missed.
 * What counts is chosen by a domain's name: packages and dram add up. psys contains the packages, core and uncore are
 * inside them, the mmio zones are the same counters seen another way, and the dies of some AMD parts mirror one socket's
 * counter: these are listed and not added. No joule twice, and an unknown one is never 0. */
#ifndef TUNEUP_MEASURE_ENERGY_H
#define TUNEUP_MEASURE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "measure/meter.h"

#define ENERGY_MAX_DOMAINS 16

struct energy_domain {
    char name[64]; /* "package-0", "package-0/dram" */
    double joules; /* NAN when unavailable */
    enum meter_state state;
    char reason[128]; /* why it is unavailable, or why it is not counted */
    bool counted; /* part of the total */
};
struct energy_result {
    enum meter_state state; /* measured only if every domain that the total claims is */
    double joules; /* NAN when unavailable, else > 0 */
    double window_s; /* each end is uncertain by one counter update, about 1 ms */
    char reason[256]; /* unavailable: why; estimated: why no measurement; measured: what it covers */
    char hint[512]; /* the mend, whole sentences; may be empty */
    int n_domains;
    struct energy_domain domains[ENERGY_MAX_DOMAINS];
};

struct energy_meter;
/* A machine without counters is no error: the result says unavailable. Errors: ERR_MEMORY, ERR_SYSTEM (thread). */
int energy_start(struct energy_meter **out, struct err *err);
void energy_read(struct energy_meter *m, struct energy_result *out); /* since start; any thread, any number of times */
void energy_stop(struct energy_meter *m); /* accepts NULL */
/* Would a measurement work here? A result over 50 ms; the joules have no meaning. */
int energy_check(struct energy_result *out, struct err *err);

/* The rules, as pure functions. */
enum energy_step {
    ENERGY_STEP_GOOD,
    ENERGY_STEP_JUMP, /* it moved further than the part can have drawn: a reset, a reload, another machine */
    ENERGY_STEP_LOST, /* it fell and its range is unknown, or it may have wrapped more than once */
};
/* From reading `last_uj` to `now_uj`, at most elapsed_s apart, of a counter whose highest value is range_uj (0 = unknown) on a
 * part that cannot draw more than limit_w. *joules is >= 0, and 0 unless the step is good. */
enum energy_step energy_delta(int64_t last_uj, int64_t now_uj, int64_t range_uj, double limit_w, double elapsed_s,
                              double *joules);
/* Two counters that started at these values and moved by these joules are one counter seen twice. */
bool energy_mirrored(int64_t a_start_uj, double a_joules, int64_t b_start_uj, double b_joules);

#endif
