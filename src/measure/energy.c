/* Discovery (which zones, what to do with each) happens once; then every poll turns readings into joules by
 * energy_delta; energy_read judges what has been gathered. Zones are known by the text in their `name` file: their
 * numbers depend on the order in which drivers were loaded. */
#include "measure/energy.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/machine.h"
#include "measure/perf.h"
#include "measure/sysfile.h"

#define POLL_S 1.0
#define UPDATE_S 0.001 /* RAPL counters move about once a millisecond */
#define ABSURD_W 1000.0 /* of one zone, where the machine does not tell its own limit */
#define LIMIT_FACTOR 3.0 /* over the zone's own limit, which short bursts pass */

struct zone {
    char folder[64], name[64]; /* "intel-rapl:0:1", "package-0/dram" */
    char path[FILE_PATH_MAX]; /* of energy_uj */
    const struct perf_counter *perf; /* read this instead; borrowed from the meter */
    const char *not_counted; /* why not, or NULL */
    int64_t range_uj;
    double limit_w;
    int64_t start_uj, last_uj;
    double last_s, joules;
    int first_error; /* errno of the reading at the start: never usable */
    int last_error; /* errno of the latest reading */
    enum energy_step worst;
};

struct energy_meter {
    struct zone zones[ENERGY_MAX_DOMAINS];
    int n_zones;
    struct perf_counter perf[ENERGY_MAX_DOMAINS];
    int n_perf;
    bool truncated, hypervisor;
    char folder[FILE_PATH_MAX]; /* where the zones were looked for */
    double start_s, poll_s;
    pthread_t thread;
    bool polling, stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* ---- the rules ---- */

enum energy_step energy_delta(int64_t last_uj, int64_t now_uj, int64_t range_uj, double limit_w, double elapsed_s,
                              double *joules)
{
    /* What can have been used at most: the counter moves in steps, so the window is widened by some of them. */
    const double most_j = limit_w * (elapsed_s + 10 * UPDATE_S);
    double delta_j = ((double)now_uj - (double)last_uj) * 1e-6;

    *joules = 0;
    if (range_uj > 0 && most_j >= 1e-6 * (double)range_uj)
        return ENERGY_STEP_LOST;
    if (now_uj < last_uj) {
        if (range_uj <= 0 || last_uj > range_uj)
            return ENERGY_STEP_LOST;
        delta_j += 1e-6 * ((double)range_uj + 1);
    }
    if (delta_j > most_j)
        return ENERGY_STEP_JUMP;
    *joules = delta_j;
    return ENERGY_STEP_GOOD;
}

bool energy_mirrored(int64_t a_start_uj, double a_joules, int64_t b_start_uj, double b_joules)
{
    const double update_j = 0.5; /* one update at 500 W: the two are not read at the same instant */
    const double larger = a_joules > b_joules ? a_joules : b_joules;
    const double apart_j = fabs(a_joules - b_joules);

    return fabs((double)a_start_uj - (double)b_start_uj) * 1e-6 <= update_j && larger > 0 &&
           apart_j <= fmax(1e-3 * larger, fmin(update_j, 0.1 * larger));
}

/* ---- discovery ---- */

static void read_word(const char *zone, const char *file, char *out, size_t size)
{
    char path[FILE_PATH_MAX];

    out[0] = '\0';
    if (sysfile_path(path, SYSFILE_SYS, "class/powercap/%s/%s", zone, file) == 0 && sysfile_read(path, out, size) > 0)
        out[strcspn(out, "\n")] = '\0';
    for (char *c = out; *c; c++) /* it is printed on terminals */
        if (!isprint((unsigned char)*c))
            *c = '?';
}

static int64_t read_number(const char *zone, const char *file)
{
    char path[FILE_PATH_MAX];
    int64_t value;

    if (sysfile_path(path, SYSFILE_SYS, "class/powercap/%s/%s", zone, file) != 0 || sysfile_read_int(path, &value) != 0)
        return 0;
    return value;
}

static bool is_mmio(const struct zone *z)
{
    return strncmp(z->folder, "intel-rapl-mmio:", 16) == 0;
}

/* Zones of the tree begin with "intel-rapl", AMD's too. Control types themselves have no number. */
static bool is_zone(const char *name)
{
    return (strncmp(name, "intel-rapl:", 11) == 0 || strncmp(name, "intel-rapl-mmio:", 16) == 0) && strlen(name) < 64;
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');

    return slash ? slash + 1 : name;
}

static void describe_zone(struct zone *z)
{
    char own[32], parent[64], above[32] = "";
    const char *colon = strchr(z->folder, ':');
    char *cut;

    read_word(z->folder, "name", own, sizeof own);
    snprintf(parent, sizeof parent, "%s", z->folder);
    cut = strrchr(parent, ':');
    if (cut && cut - parent > colon - z->folder) { /* a second number: a part of another zone */
        *cut = '\0';
        read_word(parent, "name", above, sizeof above);
    }
    snprintf(z->name, sizeof z->name, "%s%s%s", above, above[0] ? "/" : "", own);
    if (strcmp(own, "psys") == 0)
        z->not_counted = "contains the packages";
    else if (strcmp(own, "core") == 0 || strcmp(own, "uncore") == 0)
        z->not_counted = "is inside the package";
    else if (strncmp(own, "package-", 8) != 0 && strcmp(own, "dram") != 0)
        z->not_counted = "is of an unknown kind";
}

static int read_zone(const struct zone *z, int64_t *uj)
{
    return z->perf ? -perf_read(z->perf, uj) : -sysfile_read_int(z->path, uj);
}

static void start_zone(struct zone *z, double now_s)
{
    z->first_error = read_zone(z, &z->start_uj);
    z->last_uj = z->start_uj;
    z->last_s = now_s;
}

static void open_zone(struct zone *z, double now_s)
{
    const double own_w = 1e-6 * (double)read_number(z->folder, "constraint_0_max_power_uw");

    describe_zone(z);
    z->range_uj = read_number(z->folder, "max_energy_range_uj");
    z->limit_w = own_w >= 1 && own_w <= 10 * ABSURD_W ? LIMIT_FACTOR * own_w : ABSURD_W;
    z->first_error = -sysfile_path(z->path, SYSFILE_SYS, "class/powercap/%s/energy_uj", z->folder);
    if (z->first_error == 0)
        start_zone(z, now_s);
}

/* MSR and mmio zones of one name are one counter: the MSR one is taken, the mmio one only where that cannot be read. */
static void drop_twins(struct energy_meter *m)
{
    for (int i = 0; i < m->n_zones; i++)
        for (int k = 0; k < m->n_zones; k++) {
            struct zone *mmio = &m->zones[i], *msr = &m->zones[k];

            if (!is_mmio(mmio) || is_mmio(msr) || strcmp(mmio->name, msr->name) != 0)
                continue;
            if (msr->first_error == 0 && !mmio->not_counted)
                mmio->not_counted = "is the same counter as the zone read by MSR";
            else if (msr->first_error != 0 && mmio->first_error == 0 && !msr->not_counted)
                msr->not_counted = "cannot be read; its mmio twin is";
        }
}

static int by_folder(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int zone_filter(const struct dirent *e)
{
    return is_zone(e->d_name);
}

static void find_zones(struct energy_meter *m)
{
    struct dirent **entries = NULL;
    const int n = sysfile_path(m->folder, SYSFILE_SYS, "class/powercap") == 0
                      ? scandir(m->folder, &entries, zone_filter, by_folder)
                      : 0;

    for (int i = 0; i < n; i++) {
        if (m->n_zones < ENERGY_MAX_DOMAINS) {
            struct zone *z = &m->zones[m->n_zones++];
            snprintf(z->folder, sizeof z->folder, "%.63s", entries[i]->d_name);
            open_zone(z, m->start_s);
        } else {
            m->truncated = true;
        }
        free(entries[i]);
    }
    free(entries);
    drop_twins(m);
}

/* Where a zone that counts cannot be read, performance events may be: they then replace all of them, since a mixture
 * could take one joule from both. */
static void use_perf(struct energy_meter *m)
{
    bool whole = m->n_zones > 0;

    for (int i = 0; i < m->n_zones; i++)
        whole = whole && (m->zones[i].not_counted || m->zones[i].first_error == 0);
    const int n = whole ? 0 : perf_open(m->perf, ENERGY_MAX_DOMAINS);
    if (n <= 0)
        return;
    m->n_perf = m->n_zones = n;
    m->truncated = false;
    for (int i = 0; i < n; i++) {
        char name[sizeof m->zones[i].name]; /* both ends lie in *m, which the compiler suspects of overlapping */
        snprintf(name, sizeof name, "%s", m->perf[i].name);
        m->zones[i] = (struct zone){ .perf = &m->perf[i], .limit_w = ABSURD_W };
        memcpy(m->zones[i].name, name, sizeof name);
        start_zone(&m->zones[i], m->start_s);
    }
}

/* ---- gathering ---- */

/* With the lock held. A reading that fails keeps the last good one: the counter is cumulative, so the next good one
 * makes up for it, unless so much time has passed that energy_delta calls it lost. */
static void poll_zones(struct energy_meter *m)
{
    for (int i = 0; i < m->n_zones; i++) {
        struct zone *z = &m->zones[i];
        const double before_s = clock_seconds(); /* this thread may be held up before and after it has read */
        double joules;
        int64_t now_uj;

        if (z->first_error != 0)
            continue;
        z->last_error = read_zone(z, &now_uj);
        if (z->last_error != 0)
            continue;
        const enum energy_step step =
            energy_delta(z->last_uj, now_uj, z->range_uj, z->limit_w, clock_seconds() - z->last_s, &joules);
        z->joules += joules;
        if (step != ENERGY_STEP_GOOD)
            z->worst = step;
        z->last_uj = now_uj;
        z->last_s = before_s;
    }
}

static void *poll_main(void *data)
{
    struct energy_meter *m = data;

    pthread_mutex_lock(&m->lock);
    while (!m->stopping) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        const int64_t ns = t.tv_nsec + (int64_t)(m->poll_s * 1e9);
        t.tv_sec += (time_t)(ns / 1000000000);
        t.tv_nsec = (long)(ns % 1000000000);
        pthread_cond_timedwait(&m->wake, &m->lock, &t);
        if (!m->stopping)
            poll_zones(m);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* Four readings in the shortest time in which a counter can go round. */
static double poll_interval(const struct energy_meter *m)
{
    double poll_s = POLL_S;

    for (int i = 0; i < m->n_zones; i++)
        if (m->zones[i].range_uj > 0)
            poll_s = fmin(poll_s, 1e-6 * (double)m->zones[i].range_uj / (4 * m->zones[i].limit_w));
    return fmax(poll_s, 0.01);
}

static int start_thread(struct energy_meter *m, struct err *err)
{
    sigset_t all, old;

    sigfillset(&all); /* signals belong to the threads of the run */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    errno = pthread_create(&m->thread, NULL, poll_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    m->polling = errno == 0;
    return m->polling ? 0 : err_errno(err, "could not start the energy meter's thread");
}

int energy_start(struct energy_meter **out, struct err *err)
{
    pthread_condattr_t attr;

    *out = NULL;
    struct energy_meter *m = mem_array(1, 1, sizeof *m, MEM_RECORD, err);
    if (!m)
        return -1;
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    m->start_s = clock_seconds();
    m->hypervisor = machine_is_virtual();
    find_zones(m);
    use_perf(m);
    m->poll_s = poll_interval(m);
    if (m->n_zones > 0 && start_thread(m, err) != 0) {
        energy_stop(m);
        return -1;
    }
    *out = m;
    return 0;
}

void energy_stop(struct energy_meter *m)
{
    if (!m)
        return;
    if (m->polling) {
        pthread_mutex_lock(&m->lock);
        m->stopping = true;
        pthread_cond_signal(&m->wake);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    perf_close(m->perf, m->n_perf);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->wake);
    mem_free(m);
}

/* ---- judging ---- */

static void judge_zone(const struct zone *z, struct energy_domain *d)
{
    *d = (struct energy_domain){ .joules = NAN, .state = METER_UNAVAILABLE, .counted = !z->not_counted };
    snprintf(d->name, sizeof d->name, "%s", z->name);
    if (z->first_error != 0)
        snprintf(d->reason, sizeof d->reason, "cannot be read: %s", strerror(z->first_error));
    else if (z->last_error != 0)
        snprintf(d->reason, sizeof d->reason, "became unreadable: %s; %.3g J until then", strerror(z->last_error),
                 z->joules);
    else if (z->worst == ENERGY_STEP_JUMP)
        snprintf(d->reason, sizeof d->reason, "the counter jumped, as by a reset; at least %.3g J", z->joules);
    else if (z->worst == ENERGY_STEP_LOST)
        snprintf(d->reason, sizeof d->reason, "the counter %s; at least %.3g J",
                 z->range_uj > 0 ? "may have wrapped unseen" : "fell and its range is unknown", z->joules);
    else if (!(z->joules > 0))
        snprintf(d->reason, sizeof d->reason, "the counter did not move");
    else {
        d->joules = z->joules;
        d->state = METER_MEASURED;
    }
    if (z->not_counted)
        snprintf(d->reason, sizeof d->reason, "%s", z->not_counted);
}

/* "package-0-die-1" and "package-0-die-0" are of one socket. */
static bool same_socket(const char *a, const char *b)
{
    const char *die = strstr(a, "-die-");

    return die && strncmp(a, b, (size_t)(die - a) + 5) == 0 && !strchr(a, '/') && !strchr(b, '/');
}

static void drop_mirrors(const struct energy_meter *m, struct energy_result *out)
{
    for (int i = 0; i < m->n_zones; i++)
        for (int k = 0; k < i; k++) {
            const struct zone *a = &m->zones[k], *b = &m->zones[i];

            if (!out->domains[k].counted || !out->domains[i].counted || !same_socket(a->name, b->name) ||
                !energy_mirrored(a->start_uj, a->joules, b->start_uj, b->joules))
                continue;
            out->domains[i].counted = false;
            snprintf(out->domains[i].reason, sizeof out->domains[i].reason, "mirrors the counter of %.60s", a->name);
        }
}

/* Many client machines list dram and never move it: memory is then not claimed. */
static void drop_still_dram(const struct energy_meter *m, struct energy_result *out)
{
    for (int i = 0; i < m->n_zones; i++)
        if (strcmp(last_part(m->zones[i].name), "dram") == 0 && m->zones[i].first_error == 0 &&
            m->zones[i].worst == ENERGY_STEP_GOOD && m->zones[i].last_error == 0 && !(m->zones[i].joules > 0))
            out->domains[i].counted = false;
}

static void no_zones(const struct energy_meter *m, struct energy_result *out)
{
    if (m->hypervisor) {
        snprintf(out->reason, sizeof out->reason, "no RAPL counters: this is a virtual machine and none are passed in");
        snprintf(out->hint, sizeof out->hint,
                 "Measure energy on the bare machine. A virtual machine cannot read its host's counters.");
        return;
    }
    snprintf(out->reason, sizeof out->reason, "no RAPL counters: there is no zone in %.180s", m->folder);
    snprintf(out->hint, sizeof out->hint,
             "Load the driver: modprobe intel_rapl_msr (Intel since Sandy Bridge, AMD since Zen with Linux 5.11). In a "
             "container, mount the host's /sys read-only, say at /host/sys, and set TUNEUP_SYSFS_ROOT=/host/sys.");
}

static void permission_hint(struct energy_result *out, const char *folder)
{
    snprintf(
        out->hint, sizeof out->hint,
        "Since Linux 5.10 only root reads these counters, because they can leak what other programs compute "
        "(CVE-2020-8694). Run as root; or allow performance events: sysctl kernel.perf_event_paranoid=0; or let one "
        "trusted group read: chgrp GROUP %.80s/intel-rapl:*/energy_uj && chmod g+r %.80s/intel-rapl:*/energy_uj (again "
        "after each start of the machine).",
        folder, folder);
}

/* What the total covers, or the first reason against it. */
static void judge_total(const struct energy_meter *m, struct energy_result *out)
{
    char covers[160] = "";
    bool memory = false;
    double sum = 0;

    for (int i = 0; i < out->n_domains; i++) {
        const struct energy_domain *d = &out->domains[i];
        const size_t n = strlen(covers);

        if (!d->counted)
            continue;
        if (d->state != METER_MEASURED) {
            snprintf(out->reason, sizeof out->reason, "%s: %s", d->name, d->reason);
            if (m->zones[i].first_error == EACCES || m->zones[i].first_error == EPERM)
                permission_hint(out, m->folder);
            return;
        }
        sum += d->joules;
        memory = memory || strcmp(last_part(d->name), "dram") == 0;
        snprintf(covers + n, sizeof covers - n, "%s%s", n ? " + " : "", d->name);
    }
    if (!(sum > 0)) {
        snprintf(out->reason, sizeof out->reason, "no package counter among the zones in %.180s", m->folder);
        return;
    }
    out->joules = sum;
    out->state = m->hypervisor ? METER_ESTIMATED : METER_MEASURED;
    snprintf(out->reason, sizeof out->reason, "%sthe whole machine's %.140s%s",
             m->hypervisor ? "passed in by a hypervisor, so unreliable: " : "", covers,
             memory ? "" : ", without its memory (no dram counter)");
}

void energy_read(struct energy_meter *m, struct energy_result *out)
{
    *out = (struct energy_result){ .state = METER_UNAVAILABLE, .joules = NAN };
    pthread_mutex_lock(&m->lock);
    poll_zones(m);
    out->window_s = clock_seconds() - m->start_s;
    out->n_domains = m->n_zones;
    for (int i = 0; i < m->n_zones; i++)
        judge_zone(&m->zones[i], &out->domains[i]);
    drop_mirrors(m, out);
    drop_still_dram(m, out);
    if (m->truncated)
        snprintf(out->reason, sizeof out->reason, "this machine has more than %d RAPL zones", ENERGY_MAX_DOMAINS);
    else if (m->n_zones == 0)
        no_zones(m, out);
    else
        judge_total(m, out);
    pthread_mutex_unlock(&m->lock);
}

int energy_check(struct energy_result *out, struct err *err)
{
    const struct timespec window = { .tv_nsec = 50000000 }; /* tens of updates: a counter that works has moved */
    struct energy_meter *m;

    if (energy_start(&m, err) != 0)
        return -1;
    nanosleep(&window, NULL);
    energy_read(m, out);
    energy_stop(m);
    return 0;
}
