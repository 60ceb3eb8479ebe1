/* In order: what repeats or contains another channel stops counting, a source that never could be read is not claimed where
 * another one can be, and then every channel that still counts must have a number. */
#include "measure/energy_total.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static void uncount(struct energy_domain *d, const char *why)
{
    d->counted = false;
    snprintf(d->reason, sizeof d->reason, "%s", why);
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');

    return slash ? slash + 1 : name;
}

/* "package-0-die-1" and "package-0-die-0" are of one socket. */
static bool same_socket(const char *a, const char *b)
{
    const char *die = strstr(a, "-die-");

    return die && strncmp(a, b, (size_t)(die - a) + 5) == 0 && !strchr(a, '/') && !strchr(b, '/');
}

/* On some AMD parts every die shows the counter of the whole socket. */
static void drop_mirrors(const struct channel_set *set, struct energy_result *out)
{
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < i; k++) {
            const struct channel *a = &set->items[k], *b = &set->items[i];
            struct energy_domain *d = &out->domains[i];

            if (!out->domains[k].counted || !d->counted || !same_socket(a->name, b->name) ||
                !energy_mirrored(a->start_uj, 1e-6 * (double)a->used_uj, b->start_uj, 1e-6 * (double)b->used_uj))
                continue;
            d->counted = false;
            snprintf(d->reason, sizeof d->reason, "mirrors the counter of %.60s", a->name);
        }
}

/* Many client machines list dram and never move it: memory is then not claimed. */
static void drop_still_dram(const struct channel_set *set, struct energy_result *out)
{
    for (int i = 0; i < set->n; i++) {
        const struct channel *c = &set->items[i];

        if (strcmp(last_part(c->name), "dram") == 0 && c->first_error == 0 && c->worst == ENERGY_STEP_GOOD &&
            c->last_error == 0 && c->used_uj == 0)
            out->domains[i].counted = false;
    }
}

static int find_role(const struct channel_set *set, const struct energy_result *out, enum channel_role role)
{
    for (int i = 0; i < set->n; i++)
        if (out->domains[i].counted && set->items[i].role == role &&
            (set->items[i].first_error == 0 || role == CHANNEL_CONTAINS_ALL))
            return i;
    return -1;
}

/* A meter that contains others, or stands in for them, never counts beside them. */
static void drop_by_role(const struct channel_set *set, struct energy_result *out)
{
    const int wall = find_role(set, out, CHANNEL_CONTAINS_ALL);

    for (int i = 0; i < set->n && wall >= 0; i++)
        if (out->domains[i].counted && i != wall)
            uncount(&out->domains[i], "is inside what the wall meter reads");
    const bool others = find_role(set, out, CHANNEL_ADDS) >= 0 || wall >= 0;
    const int first = find_role(set, out, CHANNEL_STANDS_IN);
    for (int i = 0; i < set->n; i++) /* the first source alone: two of them may be one sensor */
        if (out->domains[i].counted && set->items[i].role == CHANNEL_STANDS_IN &&
            (others || set->items[i].source != set->items[first].source))
            uncount(&out->domains[i], "covers what others measure more finely");
}

/* ---- what cannot be read from the start ---- */

static bool readable_elsewhere(const struct channel_set *set, const struct energy_result *out, int i)
{
    for (int k = 0; k < set->n; k++)
        if (out->domains[k].counted && set->items[k].first_error == 0 && set->items[k].source != set->items[i].source)
            return true;
    return false;
}

/* A GPU's joules are worth having although the processor's counters are for root alone; the total then says what it lacks.
 * Half a source is no such thing: a package without its twin would look like a whole machine. */
static void drop_unreadable(const struct channel_set *set, struct energy_result *out, int *missing)
{
    *missing = -1;
    for (int i = 0; i < set->n; i++) {
        if (!out->domains[i].counted || set->items[i].first_error == 0 || !readable_elsewhere(set, out, i))
            continue;
        *missing = i;
        for (int k = 0; k < set->n; k++)
            if (set->items[k].source == set->items[i].source && set->items[k].first_error == 0 &&
                out->domains[k].counted)
                uncount(&out->domains[k], "is of a source that cannot be read as a whole");
    }
    for (int i = 0; i < set->n && *missing >= 0; i++)
        if (set->items[i].first_error != 0)
            out->domains[i].counted = false;
}

/* ---- words ---- */

static void no_zones(const struct energy_surroundings *where, struct energy_result *out)
{
    if (where->hypervisor) {
        snprintf(out->reason, sizeof out->reason, "no RAPL counters: this is a virtual machine and none are passed in");
        snprintf(out->hint, sizeof out->hint,
                 "Measure energy on the bare machine. A virtual machine cannot read its host's counters.");
        return;
    }
    snprintf(out->reason, sizeof out->reason, "no RAPL counters: there is no zone in %.180s", where->zones_folder);
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

static void hint_for(const struct channel *c, const struct energy_surroundings *where, struct energy_result *out)
{
    const int error = c->first_error ? c->first_error : c->last_error;

    if ((error == EACCES || error == EPERM) && c->source == &rapl_source)
        permission_hint(out, where->zones_folder);
}

/* The sum of what counts, or the first reason against it. */
static bool add_up(const struct channel_set *set, const struct energy_surroundings *where, struct energy_result *out)
{
    double sum = 0;

    for (int i = 0; i < out->n_domains; i++) {
        const struct energy_domain *d = &out->domains[i];

        if (!d->counted)
            continue;
        if (d->state != METER_MEASURED) {
            snprintf(out->reason, sizeof out->reason, "%s: %s", d->name, d->reason);
            hint_for(&set->items[i], where, out);
            return false;
        }
        sum += d->joules;
        out->update_s = fmax(out->update_s, set->items[i].update_s);
    }
    out->joules = sum;
    return true;
}

static bool counts(const struct channel_set *set, const struct energy_result *out, const char *part, bool gpu)
{
    for (int i = 0; i < set->n; i++) {
        const struct channel *c = &set->items[i];

        if (!out->domains[i].counted)
            continue;
        if (c->role == CHANNEL_CONTAINS_ALL || (gpu ? c->gpu : strncmp(last_part(c->name), part, strlen(part)) == 0))
            return true;
    }
    return false;
}

static bool claims_passed_in(const struct channel_set *set, const struct energy_result *out)
{
    for (int i = 0; i < set->n; i++)
        if (out->domains[i].counted && (set->items[i].source == &rapl_source || set->items[i].source == &perf_source))
            return true;
    return false;
}

/* "the whole machine's package-0, without its memory (no dram counter)" */
static void say_what_it_covers(const struct channel_set *set, const struct energy_surroundings *where, int missing,
                               struct energy_result *out)
{
    char covers[160];
    const bool passed_in = where->hypervisor && claims_passed_in(set, out);
    const bool processor = counts(set, out, "package", false), memory = counts(set, out, "dram", false);
    char lacks[120] = "";

    energy_covers(out, covers, sizeof covers);
    if (missing >= 0) {
        snprintf(lacks, sizeof lacks, ", without %.30s (%.70s)", set->items[missing].name,
                 strerror(set->items[missing].first_error));
        hint_for(&set->items[missing], where, out);
    } else if (!processor && counts(set, out, "", true)) {
        snprintf(lacks, sizeof lacks, ", without processor and memory (no counters%s)",
                 where->hypervisor ? ": a virtual machine" : "");
    } else if (processor && !memory) {
        snprintf(lacks, sizeof lacks, ", without its memory (no dram counter)");
    }
    out->state = passed_in ? METER_ESTIMATED : METER_MEASURED;
    snprintf(out->reason, sizeof out->reason, "%s%s%s%s", passed_in ? "passed in by a hypervisor, so unreliable: " : "",
             processor ? "the whole machine's " : "", covers, lacks);
}

static void note_suspend(double suspended_s, struct energy_result *out)
{
    if (suspended_s < 0.1 || out->state == METER_UNAVAILABLE)
        return;
    out->state = METER_ESTIMATED;
    snprintf(out->reason, sizeof out->reason,
             "the machine slept for %.3g s meanwhile: its joules are in the sum, and its seconds are not", suspended_s);
}

void energy_total(const struct channel_set *set, const struct energy_surroundings *where, struct energy_result *out)
{
    int missing;

    drop_mirrors(set, out);
    drop_still_dram(set, out);
    drop_by_role(set, out);
    drop_unreadable(set, out, &missing);
    drop_by_role(set, out);
    if (set->truncated) {
        snprintf(out->reason, sizeof out->reason, "this machine has more than %d meters", ENERGY_MAX_DOMAINS);
        return;
    }
    if (set->n == 0) {
        no_zones(where, out);
        return;
    }
    if (!add_up(set, where, out)) {
        out->joules = NAN;
    } else if (!(out->joules > 0)) {
        out->joules = NAN;
        snprintf(out->reason, sizeof out->reason, "no package counter among the zones in %.180s", where->zones_folder);
    } else {
        say_what_it_covers(set, where, missing, out);
        note_suspend(where->suspended_s, out);
    }
}
