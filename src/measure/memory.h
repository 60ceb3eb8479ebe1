/* measure/memory.h - memory that processes really need, from /proc.
 * The resident set counts a shared page once per process and getrusage the largest single descendant only, so what is
 * summed over a tree is the proportional share (PSS) of smaps_rollup, which Linux has since 5.0. MemoryUp uses
 * anon_bytes: how many pages of a mapped model file are resident is the page cache's luck, not the run's need.
 * Cost: smaps_rollup walks the page tables, some milliseconds per GB; statm takes a few microseconds. Sampling therefore
 * watches statm and reads smaps_rollup when that makes a new high, within 1 % of one CPU. */
#ifndef TUNEUP_MEASURE_MEMORY_H
#define TUNEUP_MEASURE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct memory_reading {
    int64_t pss_bytes; /* proportional share of all pages */
    int64_t anon_bytes; /* Pss_Anon + Pss_Shmem + SwapPss: what MemoryUp uses */
    int64_t rss_bytes;
    int n_unreadable; /* of a tree: processes that another user owns, which the sums lack */
};

/* Text of a smaps_rollup file -> *out. false if it lacks a field (an older kernel, or a process that has ended). */
bool memory_parse_rollup(const char *text, struct memory_reading *out);

/* This process, now. Errors: ERR_UNAVAILABLE. */
int memory_self(struct memory_reading *out, struct err *err);

struct memory_foreign {
    pid_t pid;
    uint64_t start; /* clock ticks since boot */
};
/* The processes of a tree. Owned: pids. */
struct memory_members {
    pid_t *pids;
    int n, capacity;
    pid_t except; /* no member, nor are its descendants; 0 = none */
    struct memory_foreign *foreign; /* owned: processes whose environment was read, and is of no interest; by pid */
    int n_foreign, foreign_capacity;
    pid_t *marked; /* owned: found by their environment */
    int n_marked, marked_capacity;
};
/* Finds the descendants of root by parent, and (run_id not NULL) every process with TUNEUP_RUN=run_id in its
 * environment, with their descendants: ranks started by a launcher's daemon, and daemons of their own. root itself
 * belongs to it unless it is the calling process: a meter does not meter itself. Errors: ERR_UNAVAILABLE, ERR_MEMORY. */
int memory_members_scan(struct memory_members *m, pid_t root, const char *run_id, struct err *err);
/* The same from what the last scan found: the descendants of root and of those with the variable, by the kernel's lists of
 * children, at a fraction of the cost. -1: this kernel has no such lists (CONFIG_PROC_CHILDREN), and nothing changed. */
int memory_members_follow(struct memory_members *m, pid_t root);
int64_t memory_members_rss(const struct memory_members *m); /* from statm: cheap, shared pages counted again */
int memory_members_read(const struct memory_members *m, struct memory_reading *sum); /* how many were read */
void memory_members_free(struct memory_members *m);

/* Scan and read in one step. */
int memory_tree(pid_t root, const char *run_id, struct memory_reading *sum, int *n_processes, struct err *err);

/* When is the expensive reading due? Zeroed is a fresh start. */
struct memory_pace {
    double started_s, next_s; /* clock_seconds */
    double spent_s; /* CPU of the meter so far */
    int64_t high_rss, last_rss;
    bool running;
};
/* rss: the cheap reading of this tick. True when the expensive one should follow. */
bool memory_pace_due(struct memory_pace *p, double now_s, int64_t rss);
/* After a tick that cost cost_s of CPU; full tells whether the expensive reading was part of it. */
void memory_pace_spent(struct memory_pace *p, double now_s, double cost_s, bool full);
/* Seconds to the next tick: 0.02 to 0.5, so that ticks alone stay within a quarter of 1 %. */
double memory_pace_wait(double tick_cost_s);

/* A thread that follows this process's own peak of anon_bytes. */
struct memory_sampler;
int memory_sampler_start(struct memory_sampler **out, struct err *err); /* ERR_UNAVAILABLE, ERR_MEMORY, ERR_SYSTEM */
void memory_sampler_note(struct memory_sampler *s); /* take a reading now, at a step boundary; same pace */
int64_t memory_sampler_peak(struct memory_sampler *s); /* bytes, including a reading of now */
void memory_sampler_stop(struct memory_sampler *s); /* accepts NULL */

#endif
