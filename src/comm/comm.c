/* The choice of a communicator, agreement on errors, and the communicator of one. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static int keep(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    (void)c;
    (void)x;
    (void)n;
    (void)t;
    (void)err;
    return 0; /* of one rank the sum is its own value */
}

static int copy_bytes(struct comm *c, const void *own, void *all, int64_t n, struct err *err)
{
    (void)c;
    (void)err;
    memcpy(all, own, (size_t)n);
    return 0;
}

static int keep_bytes(struct comm *c, void *bytes, int64_t n, struct err *err)
{
    (void)c;
    (void)bytes;
    (void)n;
    (void)err;
    return 0;
}

static int nobody_there(struct comm *c, const void *bytes, int64_t n, int to, struct err *err)
{
    (void)c;
    (void)bytes;
    (void)n;
    (void)to;
    (void)err;
    MUST(!"a message to another rank");
    return -1;
}

static int nobody_sends(struct comm *c, void *bytes, int64_t n, int from, struct err *err)
{
    return nobody_there(c, bytes, n, from, err);
}

static int begin_alone(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err)
{
    (void)what;
    return keep(c, x, n, t, err);
}

static int end_alone(struct comm *c, void *x, struct err *err)
{
    (void)c;
    (void)x;
    (void)err;
    return 0;
}

static int no_wait(struct comm *c, struct err *err)
{
    (void)c;
    (void)err;
    return 0;
}

static void end_process(struct comm *c, int status)
{
    (void)c;
    fflush(NULL);
    _exit(status);
}

static void nothing(struct comm *c)
{
    (void)c;
}

void comm_alone(struct comm *c)
{
    *c = (struct comm){ .name = "alone",
                        .rank = 0,
                        .ranks = 1,
                        .local_ranks = 1,
                        .all_reduce = keep,
                        .reduce_scatter = keep,
                        .all_gather = keep,
                        .begin = begin_alone,
                        .end = end_alone,
                        .progress = nothing,
                        .gather_bytes = copy_bytes,
                        .broadcast = keep_bytes,
                        .send = nobody_there,
                        .receive = nobody_sends,
                        .barrier = no_wait,
                        .abort = end_process,
                        .close = nothing };
}

bool comm_launched(void)
{
    static const char *const marks[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS" };

    for (int i = 0; i < COUNT_OF(marks); i++)
        if (getenv(marks[i]))
            return true;
    return false;
}

int comm_open(struct comm *c, struct err *err)
{
    if (comm_launched())
        return comm_mpi(c, err);
    comm_alone(c);
    return 0;
}

const char *comm_word(enum collective what)
{
    static const char *const words[COMM_COLLECTIVES] = { "all_reduce", "reduce_scatter", "all_gather" };

    return words[what];
}

static void count(struct comm *c, enum collective what, int64_t n, enum dtype t)
{
    struct comm_sent *sent = &c->sent[what];
    const double others = (double)(c->ranks - 1);
    const double elements = what == COMM_ALL_REDUCE ? 2 * others / c->ranks * (double)n : others * (double)n;

    sent->calls++;
    sent->elements += elements;
    sent->bytes += elements * (double)dtype_bytes(t);
}

int comm_begin(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err)
{
    MUST(what == COMM_REDUCE_SCATTER || what == COMM_ALL_GATHER);
    count(c, what, n, t);
    return c->begin(c, what, x, n, t, err);
}

int comm_run(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err)
{
    int (*const run[COMM_COLLECTIVES])(struct comm *, void *, int64_t, enum dtype,
                                       struct err *) = { c->all_reduce, c->reduce_scatter, c->all_gather };

    count(c, what, n, t);
    return run[what](c, x, n, t, err);
}

int comm_agree(struct comm *c, int result, struct err *err)
{
    struct err own = result < 0 ? *err : (struct err){ 0 };
    double failed = result < 0 ? 1.0 : 0.0;
    struct err failure;

    if (c->ranks == 1) {
        c->agreed = result < 0;
        return result;
    }
    if (c->all_reduce(c, &failed, 1, F64, &failure) != 0) {
        *err = failure;
        return -1;
    }
    if (failed < 0.5)
        return result;

    /* Who failed first tells everybody why: rank 0 picks it from a table of all errors' words. */
    struct err *all = c->rank == 0 ? mem_array(c->ranks, 1, sizeof *all, MEM_OTHER, &failure) : NULL;
    if (c->rank == 0 && !all) {
        c->abort(c, 1);
        *err = failure;
        return -1;
    }
    int status = c->gather_bytes(c, &own, all, (int64_t)sizeof own, &failure);
    if (all)
        for (int r = 0; r < c->ranks; r++)
            if (all[r].code != ERR_NONE) {
                own = all[r];
                const size_t n = strlen(own.where);
                snprintf(own.where + n, sizeof own.where - n, "%srank %d of %d", n ? ", " : "", r, c->ranks);
                break;
            }
    mem_free(all);
    status = status == 0 ? c->broadcast(c, &own, (int64_t)sizeof own, &failure) : status;
    c->agreed = status == 0;
    *err = status == 0 ? own : failure;
    return -1;
}

int comm_same(struct comm *c, uint64_t value, const char *what, struct err *err)
{
    uint64_t first = value;
    int result = c->broadcast(c, &first, (int64_t)sizeof first, err);

    if (result == 0 && first != value) {
        result = err_set(err, ERR_RUN, "%s differs from that of rank 0", what);
        err_hint(err, "Give every rank the same files and options.");
    }
    return comm_agree(c, result, err);
}
