/* comm/comm.h - collectives between ranks: the seam. One process a rank; alone.c is the case of one rank, mpi.c any number.
 * Every call is made by all ranks in the same order. Sums of bf16 and of fp16 are made in fp32 and rounded once a pair. */
#ifndef TUNEUP_COMM_COMM_H
#define TUNEUP_COMM_COMM_H

#include <stdint.h>

#include "base/err.h"
#include "tensor/dtype.h"

enum collective { COMM_ALL_REDUCE, COMM_REDUCE_SCATTER, COMM_ALL_GATHER, COMM_COLLECTIVES };

/* Of one sort of collective: what one rank sends in its ring form, the least there is ((R-1)/R of the vector, twice that for
 * an all-reduce). */
struct comm_sent {
    int64_t calls;
    double elements, bytes;
};

struct comm {
    const char *name; /* "alone" or "mpi" */
    int rank, ranks;
    int local_ranks; /* ranks on this machine: threads are cores / local_ranks */
    void *own; /* the implementation's */
    bool agreed; /* the last failure came from comm_agree: every rank has it, none waits */
    int64_t piece; /* elements of one call of MPI at most, whose counts are int; tests lower it */
    double timeout_s; /* after so long a collective that lacks a rank is an error, which names the rank; 0: never */
    struct comm_sent sent[COMM_COLLECTIVES]; /* by comm_run alone */
    /* x[n] becomes the sum over the ranks, in place. F32, F64, BF16, F16. */
    int (*all_reduce)(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err);
    /* x[ranks*n]: own part x[rank*n ..] becomes the sum of that part; the other parts are undefined after. */
    int (*reduce_scatter)(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err);
    /* x[ranks*n]: every rank's own part x[rank*n ..] becomes known to all. */
    int (*all_gather)(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err);
    /* The same of a reduce_scatter or an all_gather, but only begun: x is the communicator's until the end of it. At most
     * COMM_MAX_PENDING at a time; progress lets them go on, where they do so in calls alone. */
    int (*begin)(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err);
    int (*end)(struct comm *c, void *x, struct err *err);
    void (*progress)(struct comm *c);
    int (*gather_bytes)(struct comm *c, const void *own, void *all, int64_t n, struct err *err); /* all: on rank 0 */
    int (*broadcast)(struct comm *c, void *bytes, int64_t n, struct err *err); /* from rank 0 */
    int (*send)(struct comm *c, const void *bytes, int64_t n, int to, struct err *err); /* to a rank that receives n */
    int (*receive)(struct comm *c, void *bytes, int64_t n, int from, struct err *err);
    int (*barrier)(struct comm *c, struct err *err);
    void (*abort)(struct comm *c, int status); /* ends every rank; does not return */
    void (*close)(struct comm *c);
};

/* MPI when this process was started by mpirun or srun, else alone. The communicator is one for the process. */
int comm_open(struct comm *c, struct err *err);
void comm_alone(struct comm *c);
int comm_mpi(struct comm *c, struct err *err);
bool comm_launched(void); /* started by mpirun or srun? */

#define COMM_MAX_PENDING 8

/* A collective of a plan, n as above, or its begin: it is counted in c->sent. */
int comm_run(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err);
int comm_begin(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err);
const char *comm_word(enum collective what); /* "all_reduce" ... */

/* All ranks agree on an outcome, where none of them is inside another collective: result 0 or -1 of this rank, with its err.
 * If any failed, all return -1, *err is the first failed rank's, with the rank named, and c->agreed is set. */
int comm_agree(struct comm *c, int result, struct err *err);
/* All ranks hold the same n bytes? Else an error that names the ranks which differ from rank 0, in `what`. */
int comm_same(struct comm *c, uint64_t value, const char *what, struct err *err);

#endif
