/* Collectives over MPI: the one file that knows mpi.h. Counts are int there, so long vectors go in pieces. MPI itself waits for
 * ever: so all ranks meet, in a barrier that is watched, before each collective. A rank for which it takes too long tells all
 * others that it waits; who has told nothing a moment later is missing. Should one stop later, in the midst of the collective,
 * nobody can ask any more: a thread that does nothing else ends the process then. */
#include "comm/comm.h"

#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define PIECE ((int64_t)1 << 28)
#define HOST_BYTES 64
#define EAGER_TESTS 2000 /* before the processor is left to others between two looks */
#define GRACE_S 2.0
#define TAG_DATA 0
#define TAG_WAITING 1

struct pending {
    char *x; /* NULL: free */
    enum collective what;
    int64_t n;
    enum dtype dtype;
    MPI_Request request;
};

/* What comm.own points to. */
struct world {
    struct pending pending[COMM_MAX_PENDING];
    MPI_Comm calls; /* for barriers and calls for the missing, apart from data */
    char (*hosts)[HOST_BYTES]; /* of each rank */
    bool *waits; /* of each rank: it has told so */
    void *letters; /* room for such messages to all ranks */
    int rank;
    pthread_t watcher;
    bool watched;
    _Atomic(const char *) doing; /* the collective that runs, NULL = none, and: */
    _Atomic double due_s; /* when it has taken too long */
};

static MPI_Datatype half_type; /* of 16 bits: bf16 or fp16 */
static MPI_Op bf16_sum, f16_sum;

static void add_halves(const uint16_t *a, uint16_t *b, int n, enum dtype t)
{
    for (int i = 0; i < n; i++)
        b[i] = half_from_f32(half_to_f32(a[i], t) + half_to_f32(b[i], t), t);
}

static void add_bf16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    add_halves(in, inout, *n, BF16);
}

static void add_f16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    add_halves(in, inout, *n, F16);
}

static MPI_Datatype type_of(enum dtype t)
{
    MUST(t == F32 || t == F64 || t == BF16 || t == F16);
    return t == F32 ? MPI_FLOAT : t == F64 ? MPI_DOUBLE : half_type;
}

static MPI_Op sum_of(enum dtype t)
{
    return t == BF16 ? bf16_sum : t == F16 ? f16_sum : MPI_SUM;
}

static int checked(int code, const char *what, struct err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (code == MPI_SUCCESS)
        return 0;
    MPI_Error_string(code, text, &n);
    return err_set(err, ERR_RUN, "%s failed: %s", what, text);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Tells all others that this rank waits, and listens for those who tell the same. */
static void call_out(const struct comm *c, const struct world *w)
{
    const double end_s = now_s() + GRACE_S;

    memset(w->waits, 0, (size_t)c->ranks * sizeof *w->waits);
    w->waits[c->rank] = true;
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank)
            MPI_Bsend(&c->rank, 1, MPI_INT, r, TAG_WAITING, w->calls); /* whether or not it is taken */
    while (now_s() < end_s) {
        MPI_Status status;
        int there = 0, from;
        MPI_Iprobe(MPI_ANY_SOURCE, TAG_WAITING, w->calls, &there, &status);
        if (there &&
            MPI_Recv(&from, 1, MPI_INT, status.MPI_SOURCE, TAG_WAITING, w->calls, MPI_STATUS_IGNORE) == MPI_SUCCESS)
            w->waits[status.MPI_SOURCE] = true;
        else
            usleep(1000);
    }
}

/* The ranks that do not wait, by name; only the first of those that do speaks, if it can. */
static int missing(struct comm *c, const char *what, struct err *err)
{
    const struct world *w = c->own;
    char list[200] = "";
    int first = 0;

    call_out(c, w);
    while (!w->waits[first])
        first++;
    for (int r = 0; r < c->ranks; r++) {
        const size_t n = strlen(list);
        if (!w->waits[r])
            snprintf(list + n, sizeof list - n, "%srank %d on %s", n ? ", " : "", r, w->hosts[r]);
    }
    if (c->rank != first)
        sleep(2);
    err_set(err, ERR_RUN, "%s has waited %g s for %s", what, c->timeout_s,
            list[0] ? list : "an answer, though all ranks are there");
    return err_hint(err, "Look at what stopped it there. --comm_timeout SECONDS waits longer, 0 for ever.");
}

/* Until the request is done. */
static int await(struct comm *c, MPI_Request *request, const char *what, struct err *err)
{
    const double end_s = now_s() + c->timeout_s;
    int done = 0, code = MPI_SUCCESS;

    for (int64_t n = 0; !done && code == MPI_SUCCESS; n++) {
        code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done || n < EAGER_TESTS)
            continue;
        sched_yield();
        if (n % 256 == 0 && c->timeout_s > 0 && now_s() > end_s)
            return missing(c, what, err);
    }
    return checked(code, what, err);
}

static void *look_on(void *world)
{
    struct world *w = world;

    for (;;) {
        sleep(1); /* where it is cancelled */
        const char *doing = atomic_load(&w->doing);
        if (!doing || now_s() < atomic_load(&w->due_s))
            continue;
        log_set(log_level(), true);
        log_warning("rank %d on %s ends the run: all ranks began %s, and it does not end. --comm_timeout SECONDS waits "
                    "longer, 0 for ever",
                    w->rank, w->hosts[w->rank], doing);
        _exit(1); /* the launcher ends the others */
    }
}

/* From now on until parted. Where there is no thread to be had, nobody watches. */
static void watch(struct comm *c, const char *what)
{
    struct world *w = c->own;

    if (!w->watched)
        w->watched = pthread_create(&w->watcher, NULL, look_on, w) == 0;
    atomic_store(&w->due_s, now_s() + c->timeout_s);
    atomic_store(&w->doing, what);
}

/* All ranks are here, or there is an error that names those who are not. */
static int meet(struct comm *c, const char *what, struct err *err)
{
    const struct world *w = c->own;
    MPI_Request request;

    if (c->timeout_s <= 0)
        return 0;
    if (checked(MPI_Ibarrier(w->calls, &request), what, err) || await(c, &request, what, err) != 0)
        return -1;
    watch(c, what);
    return 0;
}

/* The collective has ended. */
static int parted(struct comm *c, int code, const char *what, struct err *err)
{
    struct world *w = c->own;

    atomic_store(&w->doing, NULL);
    return checked(code, what, err);
}

/* In the functions below up to mpi_*, results are MPI's codes. */

static int sum_all(const struct comm *c, void *x, int64_t n, enum dtype t)
{
    int code = MPI_SUCCESS;

    for (int64_t at = 0; at < n && code == MPI_SUCCESS; at += c->piece) {
        const int count = (int)(n - at < c->piece ? n - at : c->piece);
        char *piece = (char *)x + (size_t)at * dtype_bytes(t);
        code = MPI_Allreduce(MPI_IN_PLACE, piece, count, type_of(t), sum_of(t), MPI_COMM_WORLD);
    }
    return code;
}

/* Too long for one call: each rank's part by pieces, to that rank. */
static int scatter_pieces(const struct comm *c, void *x, int64_t n, enum dtype t)
{
    int code = MPI_SUCCESS;

    for (int r = 0; r < c->ranks; r++)
        for (int64_t at = 0; at < n && code == MPI_SUCCESS; at += c->piece) {
            const int count = (int)(n - at < c->piece ? n - at : c->piece);
            char *piece = (char *)x + (size_t)(r * n + at) * dtype_bytes(t);
            code = MPI_Reduce(c->rank == r ? MPI_IN_PLACE : piece, c->rank == r ? piece : NULL, count, type_of(t),
                              sum_of(t), r, MPI_COMM_WORLD);
        }
    return code;
}

/* In place, MPI leaves the result at the beginning. */
static void to_own_part(const struct comm *c, void *x, int64_t n, enum dtype t)
{
    if (c->rank > 0)
        memcpy((char *)x + (size_t)(c->rank * n) * dtype_bytes(t), x, (size_t)n * dtype_bytes(t));
}

static int scatter(const struct comm *c, void *x, int64_t n, enum dtype t)
{
    if (n > c->piece)
        return scatter_pieces(c, x, n, t);
    const int code = MPI_Reduce_scatter_block(MPI_IN_PLACE, x, (int)n, type_of(t), sum_of(t), MPI_COMM_WORLD);
    to_own_part(c, x, n, t);
    return code;
}

/* Too long for one call: a rank's piece is one element of a type that is as long as a rank's part. */
static int gather_piece(char *piece, int count, size_t part_bytes, enum dtype t)
{
    MPI_Datatype elements, spaced;
    int code = MPI_Type_contiguous(count, type_of(t), &elements);

    if (code == MPI_SUCCESS)
        code = MPI_Type_create_resized(elements, 0, (MPI_Aint)part_bytes, &spaced);
    if (code == MPI_SUCCESS)
        code = MPI_Type_commit(&spaced);
    if (code == MPI_SUCCESS)
        code = MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, piece, 1, spaced, MPI_COMM_WORLD);
    if (code == MPI_SUCCESS)
        code = MPI_Type_free(&spaced);
    return code == MPI_SUCCESS ? MPI_Type_free(&elements) : code;
}

static int gather_all(const struct comm *c, void *x, int64_t n, enum dtype t)
{
    int code = MPI_SUCCESS;

    if (n <= c->piece)
        return MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, (int)n, type_of(t), MPI_COMM_WORLD);
    for (int64_t at = 0; at < n && code == MPI_SUCCESS; at += c->piece) {
        const int count = (int)(n - at < c->piece ? n - at : c->piece);
        code = gather_piece((char *)x + (size_t)at * dtype_bytes(t), count, (size_t)n * dtype_bytes(t), t);
    }
    return code;
}

static int spread(const struct comm *c, void *bytes, int64_t n)
{
    int code = MPI_SUCCESS;

    for (int64_t at = 0; at < n && code == MPI_SUCCESS; at += c->piece) {
        const int count = (int)(n - at < c->piece ? n - at : c->piece);
        code = MPI_Bcast((char *)bytes + at, count, MPI_BYTE, 0, MPI_COMM_WORLD);
    }
    return code;
}

static int mpi_all_reduce(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    static const char what[] = "an all-reduce";

    return meet(c, what, err) == 0 ? parted(c, sum_all(c, x, n, t), what, err) : -1;
}

static int mpi_reduce_scatter(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    static const char what[] = "a reduce-scatter";

    return meet(c, what, err) == 0 ? parted(c, scatter(c, x, n, t), what, err) : -1;
}

static int mpi_all_gather(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    static const char what[] = "an all-gather";

    return meet(c, what, err) == 0 ? parted(c, gather_all(c, x, n, t), what, err) : -1;
}

static struct pending *find_pending(struct comm *c, const char *x)
{
    struct world *w = c->own;

    for (int i = 0; i < COMM_MAX_PENDING; i++)
        if (w->pending[i].x == x)
            return &w->pending[i];
    MUST(!"room for a collective, or the one that is waited for");
    return NULL;
}

/* What is too long for one call is done at once. */
static int mpi_begin(struct comm *c, enum collective what, void *x, int64_t n, enum dtype t, struct err *err)
{
    struct pending *p = find_pending(c, NULL);
    int code;

    *p = (struct pending){ .x = x, .what = what, .n = n, .dtype = t, .request = MPI_REQUEST_NULL };
    if (n > c->piece)
        return what == COMM_REDUCE_SCATTER ? mpi_reduce_scatter(c, x, n, t, err) : mpi_all_gather(c, x, n, t, err);
    if (what == COMM_REDUCE_SCATTER)
        code = MPI_Ireduce_scatter_block(MPI_IN_PLACE, x, (int)n, type_of(t), sum_of(t), MPI_COMM_WORLD, &p->request);
    else
        code = MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, (int)n, type_of(t), MPI_COMM_WORLD, &p->request);
    return checked(code, "beginning a collective", err);
}

static int mpi_end(struct comm *c, void *x, struct err *err)
{
    struct pending *p = find_pending(c, x);

    p->x = NULL;
    if (p->n > c->piece)
        return 0;
    if (await(c, &p->request, p->what == COMM_REDUCE_SCATTER ? "a reduce-scatter" : "an all-gather", err) != 0)
        return -1;
    if (p->what == COMM_REDUCE_SCATTER)
        to_own_part(c, x, p->n, p->dtype);
    return 0;
}

static void mpi_progress(struct comm *c)
{
    struct world *w = c->own;
    int done;

    for (int i = 0; i < COMM_MAX_PENDING; i++)
        if (w->pending[i].x && w->pending[i].request != MPI_REQUEST_NULL)
            MPI_Test(&w->pending[i].request, &done, MPI_STATUS_IGNORE); /* an error is seen at its end */
}

static int mpi_gather_bytes(struct comm *c, const void *own, void *all, int64_t n, struct err *err)
{
    static const char what[] = "a gather";

    MUST(n < INT32_MAX);
    if (meet(c, what, err) != 0)
        return -1;
    return parted(c, MPI_Gather(own, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, 0, MPI_COMM_WORLD), what, err);
}

static int mpi_broadcast(struct comm *c, void *bytes, int64_t n, struct err *err)
{
    static const char what[] = "a broadcast";

    return meet(c, what, err) == 0 ? parted(c, spread(c, bytes, n), what, err) : -1;
}

static int mpi_send(struct comm *c, const void *bytes, int64_t n, int to, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += c->piece) {
        const int count = (int)(n - at < c->piece ? n - at : c->piece);
        if (checked(MPI_Send((const char *)bytes + at, count, MPI_BYTE, to, TAG_DATA, MPI_COMM_WORLD), "send", err))
            return -1;
    }
    return 0;
}

static int mpi_receive(struct comm *c, void *bytes, int64_t n, int from, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += c->piece) {
        const int count = (int)(n - at < c->piece ? n - at : c->piece);
        if (checked(MPI_Recv((char *)bytes + at, count, MPI_BYTE, from, TAG_DATA, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                    "receive", err))
            return -1;
    }
    return 0;
}

static int mpi_barrier(struct comm *c, struct err *err)
{
    static const char what[] = "a barrier";

    return meet(c, what, err) == 0 ? parted(c, MPI_Barrier(MPI_COMM_WORLD), what, err) : -1;
}

static void mpi_abort(struct comm *c, int status)
{
    (void)c;
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, status);
}

static void close_world(struct world *w)
{
    void *letters;
    int bytes;

    if (!w)
        return;
    if (w->watched && pthread_cancel(w->watcher) == 0)
        pthread_join(w->watcher, NULL);
    MPI_Comm_free(&w->calls);
    mem_free(w->hosts);
    if (w->letters)
        MPI_Buffer_detach(&letters, &bytes);
    mem_free(w->letters);
    mem_free(w->waits);
    mem_free(w);
}

static void mpi_close(struct comm *c)
{
    if (c->ranks == 0)
        return;
    close_world(c->own);
    c->own = NULL;
    MPI_Op_free(&f16_sum);
    MPI_Op_free(&bf16_sum);
    MPI_Type_free(&half_type);
    MPI_Finalize();
    c->ranks = 0;
}

static int count_local_ranks(int *out)
{
    MPI_Comm local;
    int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);

    if (code == MPI_SUCCESS)
        code = MPI_Comm_size(local, out);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_free(&local);
    return code;
}

static int open_world(struct comm *c, struct err *err)
{
    struct world *w = c->own = mem_array(1, 1, sizeof *w, MEM_OTHER, err);
    char host[HOST_BYTES] = "unknown";

    if (!w || checked(MPI_Comm_dup(MPI_COMM_WORLD, &w->calls), "making a second communicator", err))
        return -1;
    w->rank = c->rank;
    w->hosts = mem_array(c->ranks, 1, sizeof *w->hosts, MEM_OTHER, err);
    w->waits = mem_array(c->ranks, 1, sizeof *w->waits, MEM_OTHER, err);
    const int64_t bytes = (int64_t)(MPI_BSEND_OVERHEAD + sizeof c->rank) * c->ranks;
    void *letters = mem_array(bytes, 1, 1, MEM_OTHER, err);
    if (!w->hosts || !w->waits || !letters)
        return -1;
    w->letters = letters;
    if (checked(MPI_Buffer_attach(letters, (int)bytes), "making room for messages", err))
        return -1;
    gethostname(host, sizeof host - 1);
    return checked(MPI_Allgather(host, HOST_BYTES, MPI_BYTE, w->hosts, HOST_BYTES, MPI_BYTE, MPI_COMM_WORLD),
                   "exchanging names", err);
}

int comm_mpi(struct comm *c, struct err *err)
{
    int provided;

    *c = (struct comm){ 0 };
    if (checked(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "starting MPI", err))
        return -1;
    *c = (struct comm){ .name = "mpi",
                        .piece = PIECE,
                        .all_reduce = mpi_all_reduce,
                        .reduce_scatter = mpi_reduce_scatter,
                        .all_gather = mpi_all_gather,
                        .begin = mpi_begin,
                        .end = mpi_end,
                        .progress = mpi_progress,
                        .gather_bytes = mpi_gather_bytes,
                        .broadcast = mpi_broadcast,
                        .send = mpi_send,
                        .receive = mpi_receive,
                        .barrier = mpi_barrier,
                        .abort = mpi_abort,
                        .close = mpi_close };
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (checked(MPI_Comm_rank(MPI_COMM_WORLD, &c->rank), "asking for the rank", err) ||
        checked(MPI_Comm_size(MPI_COMM_WORLD, &c->ranks), "asking for the number of ranks", err) ||
        checked(count_local_ranks(&c->local_ranks), "asking for the ranks of this machine", err) ||
        checked(MPI_Type_contiguous(2, MPI_BYTE, &half_type), "defining 16-bit numbers", err) ||
        checked(MPI_Type_commit(&half_type), "defining 16-bit numbers", err) ||
        checked(MPI_Op_create(add_bf16, 1, &bf16_sum), "defining the sum of bf16", err) ||
        checked(MPI_Op_create(add_f16, 1, &f16_sum), "defining the sum of fp16", err) || open_world(c, err) != 0)
        return -1;
    return 0;
}
