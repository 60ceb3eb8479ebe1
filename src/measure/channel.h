/* measure/channel.h - the seam between the energy meter and what it reads. A source (RAPL, a GPU's library, a wall meter) is
 * a const descriptor in a file of its own and a line in the table of energy.c; it finds its channels once, and then tells a
 * channel's cumulative counter, its power, or both. What becomes of the readings is the same for all of them: counters are
 * subtracted in whole microjoules, power without a counter is integrated by the trapezoid rule.
 * Sources never decide what adds up: they say what a channel is, and energy_total.c decides. */
#ifndef TUNEUP_MEASURE_CHANNEL_H
#define TUNEUP_MEASURE_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "measure/energy.h"

#define CHANNEL_LIMIT_W 1000.0 /* of a part that does not tell its own limit */
#define CHANNEL_GAP_S 5.0 /* power that was not read for longer than this is not known in between */

enum channel_role {
    CHANNEL_ADDS, /* its joules are in no other channel */
    CHANNEL_LISTED, /* shown and not added; the note says why */
    CHANNEL_STANDS_IN, /* coarser, of a part or of the whole machine: counts where no other channel does */
    CHANNEL_CONTAINS_ALL, /* a wall meter that the user named: it is the total */
};

/* What one look at a channel gives. */
struct channel_reading {
    int64_t uj; /* cumulative; -1 = there is no counter */
    double power_w; /* now; NAN = not told */
    int64_t used_bytes; /* memory of a GPU; -1 = not told */
    double busy; /* share of the time in which a GPU worked, 0 to 1; NAN */
    double joules; /* of a source that integrates by timestamps of its own, since it was opened; NAN */
};

struct energy_source;
struct channel {
    const struct energy_source *source;
    void *own; /* the source's state; owned by it */
    int index; /* the source's own numbering */
    char name[64]; /* "package-0/dram", "gpu1": equal names are what makes two runs comparable */
    char note[ENERGY_REASON_MAX]; /* why it is only listed, or what to know about it */
    enum channel_role role;
    bool counter; /* else its power is integrated */
    bool gpu;
    int64_t memory_bytes; /* that a GPU has; -1 */
    int64_t range_uj; /* highest value of the counter, 0 = unknown */
    double limit_w; /* more than this it cannot draw */
    double update_s; /* how often its value changes */
    double every_s; /* how often to look */
    int first_error; /* errno of the reading at the start: never usable */

    /* ---- gathered by channel_poll ---- */
    struct channel_reading last;
    int64_t start_uj, used_uj;
    double start_s, last_s, power_s; /* power_s: when power was last told */
    double integral_j; /* of the power readings */
    double longest_gap_s; /* between two of them */
    int64_t n_power;
    int last_error; /* errno of the latest reading */
    enum energy_step worst;
    int64_t start_bytes, peak_bytes;
    double busy_sum;
    int64_t n_busy;
};

/* What the sources have found. */
struct channel_set {
    struct channel items[ENERGY_MAX_DOMAINS];
    int n;
    bool truncated; /* there are more */
    struct energy_finding findings[ENERGY_MAX_SOURCES]; /* one a source, in the table's order */
    int n_findings;
};

struct channel_process {
    pid_t pid;
    int64_t bytes;
};

struct energy_source {
    const char *name;
    bool device; /* opened only when devices are asked for: a GPU, a board's controller */
    /* Adds its channels, and says in *f why there are none. *own goes to read and close. */
    void (*open)(struct channel_set *set, const struct energy_options *o, void **own, struct energy_finding *f);
    int (*read)(const struct channel *c, struct channel_reading *out); /* 0 or -errno; *out is empty before */
    /* Processes on a GPU and their memory, by the driver's process ids. How many, -errno. NULL: not told. */
    int (*processes)(const struct channel *c, struct channel_process *out, int max);
    void (*close)(void *own); /* NULL: nothing to close */
};

extern const struct energy_source rapl_source, perf_source, nvml_source, amdsmi_source, rocm_source, hwmon_source,
    ipmi_source, wall_source;

/* A new channel with usual limits, or NULL when there is no room (set->truncated). */
struct channel *channel_add(struct channel_set *set, const struct energy_source *source, void *own, const char *name);
/* Whether a source that is no bystander has a channel in the set that counts, and all of those can be read. */
bool channel_source_whole(const struct channel_set *set, const struct energy_source *source);
void channel_start(struct channel *c); /* the first reading */
void channel_poll(struct channel *c); /* looks again; a slow meter only after update_s */
void channel_judge(const struct channel *c, double now_s, struct energy_domain *out);
/* Joules so far by the channel's own way. */
double channel_joules(const struct channel *c, double now_s);
/* Copies text with everything but printable ASCII replaced: names come from files and libraries. */
void channel_word(char *out, size_t size, const char *text);

#endif
